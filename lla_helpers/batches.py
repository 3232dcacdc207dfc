"""The samples of an operator: a pair of tensors, or an iterable of pairs, as chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch

from lla_helpers.model_view import same_random_state

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
    Data that are too large to keep must come in one order, because some chunks' graphs are kept
    and others rebuilt from a later pass.
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
        self.heaviest: Pair | None = None
        self.most = 0
        # One state for both passes: with a state each, random augmentation would repeat itself.
        with same_random_state(torch.device(device)):
            first = list(self.look())
            second = None if is_pair(data) else [fingerprint(x, y) for x, y in self.read()]
        self.size, self.count = sum(n for n, _ in first), len(first)
        if self.size == 0:
            raise ValueError("the data set is empty: no sample to average the loss over")
        if second is not None:
            self.refuse_if_changed([code for _, code in first], second)
        self.versions = [version(t) for pair in self.kept or () for t in pair]

    def look(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Length and fingerprint of every chunk; keeps the chunks while they fit."""
        kept_bytes, heaviest = 0, -1.0
        for x, y in self.read():
            yield len(x), fingerprint(x, y)
            whole = self.chunk_size is None
            weight = x.nbytes / (1 if whole else len(x) or 1)
            if len(x) and weight > heaviest:
                heaviest, self.most = weight, len(x)
                # A view of a few would keep all of them.
                self.heaviest = (x, y) if whole else (x[:32].clone(), y[:32].clone())
            kept_bytes += x.nbytes + y.nbytes
            if kept_bytes > KEEP_BYTES:
                self.kept = None
            if self.kept is not None:
                self.kept.append((x, y))

    @property
    def longest(self) -> int:
        """Samples in the largest chunk; in "train" mode in the batch of most bytes."""
        return min(self.chunk_size, self.size) if self.chunk_size else self.most

    def few_of_the_heaviest(self) -> Pair:
        """Up to 32 samples of the chunk whose samples are largest; in "train" mode all of it."""
        x, y = self.heaviest
        return self.placed(x), self.placed(y)

    def rechunk(self, chunk_size: int) -> None:
        """Cut the samples anew. Only where batches do not matter, in "eval" mode."""
        if chunk_size == self.chunk_size:
            return
        self.chunk_size = chunk_size
        if self.kept is not None:
            self.kept = list(cut(self.kept, chunk_size))
            self.versions = [version(t) for pair in self.kept for t in pair]
        self.count = sum(1 for _ in self)

    def __iter__(self) -> Iterator[Pair]:
        if self.versions != [version(t) for pair in self.kept or () for t in pair]:
            raise ValueError(
                "the data were written to after the operator was built, so it would be another's: "
                "give it a copy, x.clone()"
            )
        with same_random_state(torch.device(self.device)):
            for x, y in self.kept if self.kept is not None else self.read():
                yield self.placed(x), self.placed(y)

    def placed(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_inference():  # made under inference_mode: autograd may not save it
            tensor = tensor.clone()
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def read(self) -> Iterator[Pair]:
        """One pass over the source, merged and cut to `chunk_size` unless that is None."""
        pairs = map(checked, self.source)
        if not isinstance(self.source, (list, tuple)):  # a loader may fill one buffer every time
            pairs = ((x.clone(), y.clone()) for x, y in pairs)
        return pairs if self.chunk_size is None else cut(pairs, self.chunk_size)

    def refuse_if_changed(self, first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
        if not second:
            raise ValueError(
                "data is exhausted after one pass: give a list of pairs or a DataLoader, "
                "not a generator"
            )
        if self.chunk_size is None:
            what = "other batches (is it shuffled? then batch statistics differ from pass to pass)"
        elif self.kept is None:
            what = "other chunks (is it shuffled? data this large are read again for every pass)"
        else:
            what = "other samples (random augmentation, perhaps)"
            first, second = [sum(first)], [sum(second)]
        same = len(first) == len(second) and all(map(same_samples, first, second))
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
    return x.detach(), y.detach()  # data are constants, whatever they were made from


def version(tensor: torch.Tensor) -> int:
    """How often it was written to; tensors made under inference_mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def joined(pairs: list[Pair]) -> Pair:
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def cut(pairs: Iterable[Pair], size: int) -> Iterator[Pair]:
    """The same samples in pairs of `size`; fewer at the end, or where the next cannot be joined."""
    waiting: list[Pair] = []
    count = 0
    for x, y in pairs:
        if waiting and not can_be_joined(waiting[0], (x, y)):
            if count:
                yield joined(waiting)
            waiting, count = [], 0
        waiting.append((x, y))
        count += len(x)
        if count >= size:
            x, y = joined(waiting)
            whole = count - count % size
            yield from zip(x[:whole].split(size), y[:whole].split(size), strict=True)
            waiting, count = [(x[whole:], y[whole:])], count - whole
    if count:
        yield joined(waiting)


def can_be_joined(a: Pair, b: Pair) -> bool:
    return all(s.shape[1:] == t.shape[1:] and s.dtype == t.dtype for s, t in zip(a, b, strict=True))


def fingerprint(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sums over samples that do not depend on their order, but do on flips and shifts; (2, 4).

    The second row holds the same sums of absolute values: the scale of the first row's rounding.
    """
    generator = torch.Generator().manual_seed(0)
    flat = x.detach().reshape(len(x), math.prod(x.shape[1:])).double().cpu()
    labels = y.detach().reshape(len(y), math.prod(y.shape[1:])).double().cpu()
    code = flat @ torch.randn(flat.shape[1], generator=generator, dtype=torch.float64)
    label = labels @ torch.randn(labels.shape[1], generator=generator, dtype=torch.float64)
    terms = torch.stack([code, code.square(), code * label, torch.ones_like(code)])
    return torch.stack([terms.sum(1), terms.abs().sum(1)])


def same_samples(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal up to rounding, relative to the data; a nan is not a change, and told of elsewhere."""
    changed = (first - second).abs() > 1e-9 * torch.maximum(first[1], second[1])
    return not changed.any()
