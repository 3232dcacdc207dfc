"""The Hessian of the mean loss over a data set, as an operator: H @ v without ever forming H.

    L(theta) = (1/N) sum_n l(f(x_n; theta), y_n)        H = d^2 L / d theta^2

Double backward (Pearlmutter 1994): with g(theta) the gradient, H v = d (g . v) / d theta. The first
pass, loss and gradient, does not depend on v: its graph is kept and walked again for every vector.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn

from lla_helpers.batches import Batches, Pair
from lla_helpers.finite_differences import gradient_error, product_error
from lla_helpers.graphs import (
    derivative,
    graph_bytes,
    recomputes,
    refuse_if_once_only,
    refuse_if_reached_past,
    suspects,
)
from lla_helpers.model_view import ModelView, plain_autograd, same_random_state, shared
from lla_helpers.ranks import over_ranks, refuse_if_weights_differ
from lla_helpers.validity import Validity, check_operator
from lla_helpers.well_defined import (
    Loss,
    forward,
    loss_dtype,
    mean_loss,
    refuse_if_no_mean,
    refuse_if_random,
)

KINDS = ("hessian", "ggn")
Product = Callable[..., tuple[Tensor, ...]]

DENSE_LIMIT = 10_000
LEAST_CHUNK, CHUNK_BYTES = 64, 16 * 2**20
MOST_AT_ONCE, AT_ONCE_BYTES = 16, 8 * 2**20


@dataclass
class FirstPass:
    """What one chunk leaves for the products: its share of the loss, gradient, and v -> H v.

    product(tensors of theta's shapes); with block=k the tensors have k vectors as first dimension.
    """

    loss: Tensor
    gradient: tuple[Tensor, ...]
    product: Product


class Hessian:
    """The Hessian (or GGN) of the mean loss over all samples, as a symmetric linear operator.

    loss_fn(outputs, targets) is the mean over a batch; the operator is that of the mean over *all
    samples*, whatever the batches. `data` is a pair of tensors (x, y) or an iterable of such pairs
    that can be iterated again. Vectors are flat, of length P, in `named_parameters` order.

    params: None (all that require grad), a glob or list of globs over names: a diagonal block.
    kind: "hessian", or "ggn" for the generalised Gauss-Newton matrix J^T H_l J.
    mode: "eval"; or "train", where the batches as given are the batches (a pair is one batch) and
        `chunk_size` is ignored.
    chunk_size: samples in one pass of "eval" mode; None for as many as leave a graph of 16 MiB, at
        least 64, fewer where one chunk's graph would burst the cap.
    block_size: vectors that `slq` sends through together; None for what pays: several through one
        walk of the graph where networks are tiny, and at least 4, so that graphs which do not fit
        the cap are rebuilt once for the block.
    dtype, device: where it computes; by default those of the parameters.
    memory_cap: GiB for graphs, vectors at work and Lanczos vectors. At most half of it is
        the graphs': those that fit are kept, the others rebuilt for every block of products.

    The weights are those at construction. Nothing of the model changes. The padding row of an
    embedding is a constant, as in training. Where torch.distributed is
    initialised, `data` is this rank's shard, and every sum runs over all ranks.

    Raises ValueError or TypeError, in one sentence, when the operator would be ill-defined: empty
    data, a loss that is no scalar, no mean over samples or not finite, outputs that are random
    (dropout), other samples on a second pass, data written to later, no parameter to differentiate
    by, or one that loss or model read past the modules' attributes (weight decay in the loss).
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        data,
        *,
        params: str | list[str] | None = None,
        kind: str = "hessian",
        mode: str = "eval",
        chunk_size: int | None = None,
        block_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        memory_cap: float = 4.0,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind must be 'hessian' or 'ggn', not {kind!r}")
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be a function of (outputs, targets), not {loss_fn!r}")
        whole = isinstance(block_size, int) and not isinstance(block_size, bool)
        if block_size is not None and not (whole and block_size >= 1):
            raise ValueError(f"block_size must be a positive integer, not {block_size!r}")
        if not isinstance(memory_cap, Real) or not 0 < memory_cap < 1e9:
            raise ValueError(f"memory_cap is a number of GiB, more than 0, not {memory_cap!r}")
        keep_freed_memory()
        with torch.inference_mode(False):
            self.view = ModelView(model, params, mode, dtype, device)
        self.loss_fn, self.kind, self.memory_cap = loss_fn, kind, memory_cap
        self.batches = Batches(
            data, 512 if chunk_size is None else chunk_size, mode, self.dtype, self.device
        )
        refuse_if_weights_differ(self.view.theta.values())
        self.total = int(over_ranks(torch.tensor(self.batches.size)))
        self.graphs: list[FirstPass] = []
        self.products = 0
        with plain_autograd(self.device), same_random_state(self.device):
            self.loss_dtype = loss_dtype(self.view, loss_fn, self.sample())
            refuse_if_random(self.view, self.sample()[0])
            self.look_at_graph()
            ours = self.view.own_layers = self.takes_our_layers()
            each = self.bytes_per_sample()
            room = memory_cap * 2**30 / 2
            if chunk_size is None and mode == "eval":
                self.batches.rechunk(suitable_chunk(each, room))
            refuse_if_no_mean(self.view, loss_fn, self.batches, self.loss_dtype)
            # One chunk's graph is rebuilt beside the kept ones, unless all are kept.
            fit = int(room / max(each * self.batches.longest, 1))
            self.kept = fit if fit >= self.batches.count else max(fit - 1, 0)
            self.graphs_take = each * self.batches.longest * min(self.kept + 1, self.batches.count)
        self.at_once = vectors_at_once(each * self.batches.longest, self.vector_bytes)
        if block_size is None:
            self.block_size = max(4, self.at_once)
        else:
            self.block_size, self.at_once = block_size, min(block_size, self.at_once)
        self.view.one_by_one = self.at_once == 1
        # Our formulas save arithmetic. Where the most vectors share a walk, there is little of it.
        self.view.own_layers = ours and self.at_once < MOST_AT_ONCE
        # Ranks move together: as many vectors at a time as the fullest of them has room for.
        self.block_size = -int(over_ranks(torch.tensor(-self.block_size), "max"))
        sizes = torch.tensor([self.graphs_take, each * self.batches.longest]).double()
        self.graphs_take, self.one_chunk = over_ranks(sizes, "max").tolist()

    # What it is ------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        return (self.view.size, self.view.size)

    @property
    def dtype(self) -> torch.dtype:
        return self.view.dtype

    @property
    def device(self) -> torch.device:
        return self.view.device

    @property
    def vector_bytes(self) -> int:
        return self.view.size * self.dtype.itemsize

    @property
    def room(self) -> float:
        """Bytes of the cap left for Lanczos vectors.

        A product takes about as much again as one chunk's graph, and some ten vectors are at work:
        the weights, the vector, the product and the pieces that each is put together from.
        """
        one_chunk = self.graphs_take / min(self.kept + 1, self.batches.count)
        at_work = one_chunk + 10 * self.vector_bytes
        return max(self.memory_cap * 2**30 - self.graphs_take - at_work, 0.0)

    @property
    def names(self) -> list[str]:
        """The chosen parameters, in the order of the vectors' entries."""
        return list(self.view.theta)

    @property
    def arranged(self) -> tuple[str, ...]:
        """What was arranged for the analysis alone, one sentence each; the model is as it was.

        Equal functions that stand in for operations without a second derivative, and weights that
        the model uses under two names.
        """
        return (*sorted(self.view.arranged), *shared(self.view.model))

    def __repr__(self) -> str:
        return (
            f"Hessian(kind={self.kind!r}, P={self.view.size}, N={self.total}, "
            f"mode={self.view.mode!r}, dtype={self.dtype})"
        )

    # What it does ----------------------------------------------------------------------------

    def __matmul__(self, v: Tensor) -> Tensor:
        """H v for v of shape (P,) or (P, k). Computes in `H.dtype`, returns v's dtype and device.

        Raises ValueError for another shape, FloatingPointError when the product is not finite.
        """
        if not isinstance(v, Tensor) or not v.is_floating_point():
            raise TypeError("H @ v needs a floating-point tensor; for NumPy use H.to_scipy()")
        if v.ndim not in (1, 2) or v.shape[0] != self.view.size:
            raise ValueError(
                f"H has shape {self.shape}: v must be ({self.view.size},) or "
                f"({self.view.size}, k), not {tuple(v.shape)}"
            )
        if not is_finite(v):
            raise ValueError("v must be finite, and holds nan or inf")
        columns = v.detach().to(self.device, self.dtype).reshape(len(v), -1).T.contiguous()
        self.products += len(columns)
        with plain_autograd(self.device):
            if len(columns) > 1 and self.at_once > 1 and not self.takes_blocks:
                self.at_once = 1
            pieces = columns.split(self.at_once) if len(columns) else ()
            totals = self.products_of(pieces)
            result = totals[0] if len(totals) == 1 else torch.cat([columns[:0], *totals])
        result = over_ranks(result)
        if not is_finite(result):
            raise FloatingPointError(
                "the Hessian-vector product is not finite: the loss is too large or has no second "
                "derivative here"
            )
        return result.T.reshape(v.shape).to(v)

    def products_of(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """H V over all chunks for each piece V, shape (k, P); a chunk's graph is built once."""
        totals: list[Tensor] = []
        for first_pass in self.first_passes() if pieces else ():
            if not totals:
                totals = [self.multiplied(first_pass, piece) for piece in pieces]
                continue
            for piece, total in zip(pieces, totals, strict=True):
                total += self.multiplied(first_pass, piece)
        return totals

    def gradient(self) -> Tensor:
        """dL/d theta, shape (P,)."""
        with plain_autograd(self.device):
            total = sum(self.view.flatten(f.gradient) for f in self.first_passes())
        return over_ranks(total.detach())

    def loss(self) -> float:
        """L(theta), the mean over all samples."""
        with plain_autograd(self.device):
            total = sum(f.loss.double() for f in self.first_passes())
        return float(over_ranks(total))

    def dense(self, limit: int = DENSE_LIMIT) -> Tensor:
        """The matrix, shape (P, P). Raises ValueError when P is larger than `limit`."""
        if self.view.size > limit:
            raise ValueError(
                f"a dense matrix of P = {self.view.size} parameters is more than the limit of "
                f"{limit}: choose a block with params=, or raise the limit"
            )
        eye = torch.eye(self.view.size, dtype=self.dtype, device=self.device)
        return (self @ eye).contiguous()

    def block(self, params: str | list[str]) -> Hessian:
        """The diagonal block of the parameters that `params` chooses, at the same weights."""
        block = copy.copy(self)
        block.view = self.view.restricted(params)
        block.graphs, block.products = [], 0
        block.__dict__.pop("takes_blocks", None)
        return block

    def check(self, seed: int = 0) -> Validity:
        """Asymmetry, non-linearity, and whether the gradient is that of the loss, hooks named.

        Where hooks or custom functions are found, also whether H is the gradient's derivative.
        """
        with plain_autograd(self.device), same_random_state(self.device):
            data = self.view, self.loss_fn, self.sample()
            notes = tuple(suspects(self.view, self.sample()[0]))
            errors = [gradient_error(*data, seed), 0.0]
            if notes and self.kind == "hessian":
                errors[1] = product_error(*data, seed)
        gradient, product = over_ranks(torch.tensor(errors), "max").tolist()
        found = check_operator(self, seed)
        return replace(found, gradient_error=gradient, product_error=product, notes=notes)

    def to_scipy(self):
        """A scipy.sparse.linalg.LinearOperator that maps float64 arrays to float64 arrays."""
        from scipy.sparse.linalg import LinearOperator

        def multiply(v: np.ndarray) -> np.ndarray:
            return (self @ torch.tensor(np.asarray(v), dtype=torch.float64)).cpu().numpy()

        return LinearOperator(
            self.shape,
            matvec=multiply,
            rmatvec=multiply,
            matmat=multiply,
            rmatmat=multiply,
            dtype=np.dtype(np.float64),
        )

    # How it does it --------------------------------------------------------------------------

    def first_passes(self) -> Iterator[FirstPass]:
        """The first pass of every chunk: as many as fit are kept, the others rebuilt each time."""
        if len(self.graphs) == self.batches.count:
            yield from self.graphs
            return
        for i, (x, y) in enumerate(self.batches):
            if i < len(self.graphs):
                yield self.graphs[i]
                continue
            first_pass = self.first_pass(x, y)
            if i < self.kept:
                self.graphs.append(first_pass)
            yield first_pass

    def first_pass(self, x: Tensor, y: Tensor) -> FirstPass:
        share = len(x) / self.total
        with same_random_state(self.device):
            outputs = forward(self.view, x).to(self.loss_dtype)
        build = hessian_product if self.kind == "hessian" else ggn_product
        loss = partial(self.share_of_loss, y=y, share=share)
        return self.view.in_place_of_the_model(lambda: build(outputs, loss, self.view))

    def share_of_loss(self, z: Tensor, y: Tensor, share: float) -> Tensor:
        return share * mean_loss(self.loss_fn, z, y)

    def multiplied(self, first_pass: FirstPass, vectors: Tensor) -> Tensor:
        """One chunk's share of H v for vectors (k, P), in one walk of its graph."""
        view, k = self.view, len(vectors)
        alone = k == 1
        v = view.unflatten(vectors[0] if alone else vectors)
        walk = partial(first_pass.product, v, block=0 if alone else k)
        found = view.in_place_of_the_model(walk)
        return view.flatten(found)[None] if alone else view.flatten(found, (k,))

    def look_at_graph(self) -> None:
        """What only the graph of a few samples shows: foreign parameters, and checkpoints."""
        x, y = self.sample()
        outputs = forward(self.view, x)
        loss = mean_loss(self.loss_fn, outputs.to(self.loss_dtype), y)
        refuse_if_reached_past(self.view, outputs, loss)
        self.view.recomputes = recomputes(self.view, outputs)

    def takes_our_layers(self) -> bool:
        """Is a product through our layers, on a few samples, the one through PyTorch's?

        Asked of both ways that they have: for vectors one by one, and for several in a walk.
        Checkpoints rebuild what they find; hooks may do anything to what passes between layers.
        Each parameter's part is compared, to rounding of its own and of the whole.
        """
        x, y = next(iter(self.batches))
        spread = slice(None) if self.view.mode == "train" else slice(None, None, -(-len(x) // 4))
        vector = torch.linspace(-1, 1, self.view.size, dtype=self.dtype, device=self.device)

        def product(own: bool, one_by_one: bool = True) -> list[Tensor]:
            self.view.own_layers, self.view.one_by_one = own, one_by_one
            first_pass = self.first_pass(x[spread], y[spread])
            return self.view.unflatten(self.multiplied(first_pass, vector[None])[0])

        try:
            theirs = product(own=False)
        except (RuntimeError, ValueError, TypeError):
            return False  # and it is raised again where it is told
        try:
            ours = [product(own=True, one_by_one=way) for way in (False, True)]
        except Exception:  # a model may look at its graph and refuse what it does not know
            return False
        eps, whole = torch.finfo(self.dtype).eps, self.view.flatten(theirs).norm()
        return all(
            (a - b).norm() <= eps**0.5 * b.norm() + 10 * eps * whole
            for way in ours
            for a, b in zip(way, theirs, strict=True)
        )

    @cached_property
    def takes_blocks(self) -> bool:
        """Do two vectors at once, on a few samples, give what each gives alone, and no complaint?

        PyTorch cannot batch the derivative of every operation.
        """
        first_pass = self.first_pass(*self.sample())
        v = torch.linspace(-1, 1, 2 * self.view.size, dtype=self.dtype, device=self.device)
        v = v.reshape(2, -1)
        alone = torch.cat([self.multiplied(first_pass, u) for u in v.split(1)])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                together = self.multiplied(first_pass, v)
            except (RuntimeError, ValueError, UserWarning):
                return False
        rounding = torch.finfo(self.dtype).eps ** 0.5
        return bool((together - alone).norm() <= rounding * alone.norm())

    def sample(self, size: int = 32) -> Pair:
        """A few samples to try things on; in "train" mode the first batch as it is."""
        x, y = next(iter(self.batches))
        return (x, y) if self.view.mode == "train" else (x[:size], y[:size])

    def bytes_per_sample(self) -> float:
        x, y = self.batches.few_of_the_heaviest()
        return graph_bytes(lambda: self.first_pass(x, y), self.view) / len(x)


def keep_freed_memory() -> None:
    """Let the next product use again what this one has freed, instead of asking the system anew.

    The GNU C library hands freed memory back until it has seen a large block come and go; every
    product would then wait for hundreds of new pages. Its limit for what counts is 32 MiB.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def is_finite(tensor: Tensor) -> bool:
    """One sum tells, unless the sum itself overflows."""
    return math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())


def suitable_chunk(each: float, room: float) -> int:
    """Samples a chunk, from the bytes of one sample's graph and the room for graphs.

    As many as leave 16 MiB: much less is mostly overhead, and what a product takes and gives back
    in much more the system hands out anew every time, page by page (thousands of page faults).
    A third of the room at most: a product takes about as much again as the graph that it walks.
    """
    each = max(each, 1.0)  # no graph at all: the chosen parameters are unused
    return max(1, min(max(LEAST_CHUNK, int(CHUNK_BYTES / each)), int(room / 3 / each)))


def vectors_at_once(graph: float, vector: int) -> int:
    """Vectors that share one walk of a graph, from its bytes and those of a vector.

    Where arithmetic dominates, a block only moves more memory. Where a walk is mostly the starting
    of small operations, it starts them once for all, while what they work on stays in the cache.
    Fewer than four do not repay the batching.
    """
    fit = int(AT_ONCE_BYTES / (graph + 10 * vector))
    return min(fit, MOST_AT_ONCE) if fit >= 4 else 1


def hessian_product(outputs: Tensor, loss_fn: Callable[[Tensor], Tensor], view) -> FirstPass:
    """Double backward: g = dL/d theta with its graph, then H v = d(g . v)/d theta."""
    leaves = list(view.theta.values())
    loss = loss_fn(outputs)
    gradient = derivative(loss, leaves, create_graph=True)
    refuse_if_once_only(gradient)

    def product(v: list[Tensor], block: int = 0) -> tuple[Tensor, ...]:
        return derivative(gradient, leaves, v, block=block)

    return FirstPass(loss.detach(), tuple(g.detach() for g in gradient), product)


def ggn_product(outputs: Tensor, loss_fn: Callable[[Tensor], Tensor], view) -> FirstPass:
    """Generalised Gauss-Newton: G v = J^T H_l J v, J = d outputs / d theta, H_l = d^2 l / dz^2.

    J^T u is linear in a dummy u, so its derivative by u in the direction v is J v: two backward
    passes make a forward one (Schraudolph 2002 has the product; the trick needs no forward mode).
    """
    leaves = list(view.theta.values())
    z = outputs.detach().requires_grad_()
    loss = loss_fn(z)
    dl_dz = derivative(loss, [z], create_graph=True)
    u = torch.zeros_like(outputs, requires_grad=True)
    jt_u = derivative(outputs, leaves, [u], create_graph=True)
    refuse_if_once_only(jt_u)

    def product(v: list[Tensor], block: int = 0) -> tuple[Tensor, ...]:
        (jv,) = derivative(jt_u, [u], v, block=block)
        (hl_jv,) = derivative(dl_dz, [z], [jv], block=block)
        return derivative(outputs, leaves, [hl_jv], block=block)

    gradient = derivative(outputs, leaves, [dl_dz[0].detach()])
    return FirstPass(loss.detach(), gradient, product)
