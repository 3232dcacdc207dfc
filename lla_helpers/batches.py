"""The samples of an operator: a pair of tensors, or an iterable of pairs, as chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch

Pair = tuple[torch.Tensor, torch.Tensor]

# Data up to this many bytes stay in memory; larger data are read again for every pass.
KEEP_BYTES = 2**30


class Batches:
    """Pairs (x, y), cut into chunks that can be iterated as often as one likes.

    In "eval" mode samples are independent, so batches are merged and cut to `chunk_size`. In
    "train" mode batch statistics couple the samples of a batch, so the batches stay as they are.

    Raises ValueError or TypeError, in one sentence, for data that are empty, not pairs of tensors,
    exhausted after one pass, or other samples on the second pass (shuffled batches in "train" mode
    or random augmentation): the mean over all samples would not be one function of the parameters.
    """

    def __init__(
        self,
        data,
        chunk_size: int = 512,
        mode: str = "eval",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
            raise ValueError(f"chunk_size must be a positive integer, not {chunk_size!r}")
        self.source = [tuple(data)] if is_pair(data) else data
        if not isinstance(self.source, Iterable):
            raise TypeError(
                f"data must be a pair of tensors (x, y) or an iterable of such pairs, "
                f"not {type(data).__name__}"
            )
        self.chunk_size = None if mode == "train" else chunk_size
        self.dtype, self.device = dtype, device
        self.kept: list[Pair] | None = []
        self.size, self.count, kept_bytes, first = 0, 0, 0, []
        for x, y in self.read():
            self.size += len(x)
            self.count += 1
            first.append(fingerprint(x, y))
            kept_bytes += x.nbytes + y.nbytes
            if self.kept is not None:
                self.kept.append((x, y))
            if kept_bytes > KEEP_BYTES:
                self.kept = None
        if self.size == 0:
            raise ValueError("the data set is empty: no sample to average the loss over")
        if not is_pair(data):
            self.refuse_if_changed(first, [fingerprint(x, y) for x, y in self.read()])

    def __iter__(self) -> Iterator[Pair]:
        for x, y in self.kept if self.kept is not None else self.read():
            yield self.placed(x), y.to(self.device, self.dtype if y.is_floating_point() else None)

    def placed(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.device, self.dtype if x.is_floating_point() else None)

    def read(self) -> Iterator[Pair]:
        """One pass over the source, merged and cut to `chunk_size` unless that is None."""
        waiting: list[Pair] = []
        count = 0
        for pair in self.source:
            x, y = checked(pair)
            if self.chunk_size is None:
                yield x, y
                continue
            waiting.append((x, y))
            count += len(x)
            if count >= self.chunk_size:
                x, y = joined(waiting)
                whole = count - count % self.chunk_size
                yield from zip(
                    x[:whole].split(self.chunk_size), y[:whole].split(self.chunk_size), strict=True
                )
                waiting, count = [(x[whole:], y[whole:])], count - whole
        if count:
            yield joined(waiting)

    def refuse_if_changed(self, first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
        if not second:
            raise ValueError(
                "data is exhausted after one pass: give a list of pairs or a DataLoader, "
                "not a generator"
            )
        if self.chunk_size is None:
            same = len(first) == len(second) and all(map(torch.allclose, first, second))
            what = "other batches (is it shuffled? then batch statistics differ from pass to pass)"
        else:
            same = torch.allclose(sum(first), sum(second), rtol=1e-9, atol=1e-9)
            what = "other samples (random augmentation, perhaps)"
        if not same:
            raise ValueError(
                f"the loader gives {what} on its second pass, so the operator is ill-defined: "
                f"draw the samples once, list(loader), and pass that list"
            )


def is_pair(data) -> bool:
    return (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and all(isinstance(item, torch.Tensor) for item in data)
    )


def checked(pair) -> Pair:
    if not is_pair(pair):
        raise TypeError(
            f"every batch must be a pair of tensors (x, y), not {type(pair).__name__}"
            + (f" of {len(pair)}" if isinstance(pair, (tuple, list)) else "")
        )
    x, y = pair
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(
            f"x and y must have the same number of samples; shapes {tuple(x.shape)} "
            f"and {tuple(y.shape)}"
        )
    return x, y


def joined(pairs: list[Pair]) -> Pair:
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def fingerprint(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Three sums over samples that do not depend on their order, but do on flips and shifts."""
    generator = torch.Generator().manual_seed(0)
    flat = x.detach().reshape(len(x), math.prod(x.shape[1:])).double().cpu()
    labels = y.detach().reshape(len(y), math.prod(y.shape[1:])).double().cpu()
    code = flat @ torch.randn(flat.shape[1], generator=generator, dtype=torch.float64)
    label = labels @ torch.randn(labels.shape[1], generator=generator, dtype=torch.float64)
    return torch.stack([code.sum(), code.square().sum(), (code * label).sum()])
