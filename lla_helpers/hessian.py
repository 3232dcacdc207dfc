"""The Hessian of the mean loss over a data set, as an operator: H @ v without ever forming H.

    L(theta) = (1/N) sum_n l(f(x_n; theta), y_n)        H = d^2 L / d theta^2

Double backward (Pearlmutter 1994): with g(theta) the gradient, H v = d (g . v) / d theta. The first
pass, loss and gradient, does not depend on v: its graph is kept and walked again for every vector.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lla_helpers.batches import Batches, Pair
from lla_helpers.model_view import ModelView, same_random_state
from lla_helpers.ranks import over_ranks, refuse_if_weights_differ
from lla_helpers.validity import Validity, check_operator

KINDS = ("hessian", "ggn")
Loss = Callable[[Tensor, Tensor], Tensor]
Product = Callable[[list[Tensor]], tuple[Tensor, ...]]

DENSE_LIMIT = 10_000
USUAL_CHUNK = 512
LIGHT_GRAPH = 32 * 2**20


@dataclass
class FirstPass:
    """What one chunk leaves for the products: its share of the loss, gradient, and v -> H v."""

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
    chunk_size: samples in one pass of "eval" mode; None for 512, more where a sample's graph is so
        small that overhead would dominate, fewer where one chunk's graph would burst the cap.
    block_size: vectors that `slq` sends through together; a chunk beyond the cap is then rebuilt
        once for the block. None for 1 where every graph is kept, else 4.
    dtype, device: where it computes; by default those of the parameters.
    memory_cap: GiB for graphs, vectors at work and Lanczos vectors. At most half of it is
        the graphs': those that fit are kept, the others rebuilt for every block of products.

    The weights are those at construction. Nothing of the model changes. Where torch.distributed is
    initialised, `data` is this rank's shard, and every sum runs over all ranks.

    Raises ValueError or TypeError, in one sentence, when the operator would be ill-defined: empty
    data, a loss that is no scalar, no mean over samples or not finite, outputs that are random
    (dropout), other samples on a second pass, no parameter to differentiate by.
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
        if block_size is not None and (not isinstance(block_size, int) or block_size < 1):
            raise ValueError(f"block_size must be a positive integer, not {block_size!r}")
        if not memory_cap > 0:
            raise ValueError(f"memory_cap is a number of GiB, more than 0, not {memory_cap!r}")
        self.view = ModelView(model, params, mode, dtype, device)
        self.loss_fn, self.kind, self.memory_cap = loss_fn, kind, memory_cap
        self.batches = Batches(
            data, USUAL_CHUNK if chunk_size is None else chunk_size, mode, self.dtype, self.device
        )
        refuse_if_weights_differ(self.view.theta.values())
        self.total = int(over_ranks(torch.tensor(self.batches.size)))
        self.graphs: list[FirstPass] = []
        self.products = 0
        with same_random_state(self.device):
            self.loss_dtype = loss_dtype(self.view, loss_fn, self.sample())
            refuse_if_ill_defined(self.view, loss_fn, self.sample())
            each = self.bytes_per_sample()
            room = memory_cap * 2**30 / 2
            if chunk_size is None and mode == "eval":
                self.batches.rechunk(suitable_chunk(each, room))
            # One chunk's graph is rebuilt beside the kept ones, unless all are kept.
            fit = int(room / max(each * self.batches.longest, 1))
            self.kept = fit if fit >= self.batches.count else max(fit - 1, 0)
            self.graphs_take = each * self.batches.longest * min(self.kept + 1, self.batches.count)
        self.block_size = block_size or (1 if self.kept >= self.batches.count else 4)

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
    def room(self) -> float:
        """Bytes of the cap left for Lanczos vectors.

        A product takes about as much again as one chunk's graph, and some ten vectors are at work:
        the weights, the vector, the product and the pieces that each is put together from.
        """
        one_chunk = self.graphs_take / min(self.kept + 1, self.batches.count)
        at_work = one_chunk + 10 * self.view.size * self.dtype.itemsize
        return max(self.memory_cap * 2**30 - self.graphs_take - at_work, 0.0)

    @property
    def names(self) -> list[str]:
        """The chosen parameters, in the order of the vectors' entries."""
        return list(self.view.theta)

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
        columns = v.detach().to(self.device, self.dtype).reshape(len(v), -1).T
        result = torch.zeros(columns.shape, dtype=self.dtype, device=self.device)
        self.products += len(columns)
        for first_pass in self.first_passes():
            for column, total in zip(columns, result, strict=True):
                product = first_pass.product(self.view.unflatten(column))
                total += self.view.flatten(product)
        result = over_ranks(result)
        if not torch.isfinite(result).all():
            raise FloatingPointError(
                "the Hessian-vector product is not finite: the loss is too large or has no second "
                "derivative here"
            )
        return result.T.reshape(v.shape).to(v)

    def gradient(self) -> Tensor:
        """dL/d theta, shape (P,)."""
        total = sum(self.view.flatten(f.gradient) for f in self.first_passes())
        return over_ranks(total.detach())

    def loss(self) -> float:
        """L(theta), the mean over all samples."""
        return float(over_ranks(sum(f.loss.double() for f in self.first_passes())))

    def dense(self, limit: int = DENSE_LIMIT) -> Tensor:
        """The matrix, shape (P, P). Raises ValueError when P is larger than `limit`."""
        if self.view.size > limit:
            raise ValueError(
                f"a dense matrix of P = {self.view.size} parameters is more than the limit of "
                f"{limit}: choose a block with params=, or raise the limit"
            )
        return self @ torch.eye(self.view.size, dtype=self.dtype, device=self.device)

    def block(self, params: str | list[str]) -> Hessian:
        """The diagonal block of the parameters that `params` chooses, at the same weights."""
        block = copy.copy(self)
        block.view = self.view.restricted(params)
        block.graphs, block.products = [], 0
        return block

    def check(self, seed: int = 0) -> Validity:
        """Asymmetry, non-linearity, and whether the gradient is that of the loss, hooks named."""
        with same_random_state(self.device):
            error = gradient_error(self.view, self.loss_fn, self.sample(), seed)
            error = float(over_ranks(torch.tensor(error), "max"))
            notes = tuple(suspects(self.view, self.sample()[0]))
        found = check_operator(self, seed)
        return replace(found, gradient_error=error, notes=notes)

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
        return build(outputs, lambda z: share * mean_loss(self.loss_fn, z, y), self.view)

    def sample(self, size: int = 32) -> Pair:
        """A few samples to try things on; in "train" mode the first batch as it is."""
        x, y = next(iter(self.batches))
        return (x, y) if self.view.mode == "train" else (x[:size], y[:size])

    def bytes_per_sample(self) -> float:
        x, y = self.sample()
        return graph_bytes(lambda: self.first_pass(x, y), self.view) / len(x)


def suitable_chunk(each: float, room: float) -> int:
    """Samples a chunk, from the bytes of one sample's graph and the room for graphs.

    512, but as many as make 32 MiB where samples are light: below that a pass is mostly overhead.
    A third of the room at most: a product takes about as much again as the graph that it walks.
    """
    return max(1, min(max(USUAL_CHUNK, int(LIGHT_GRAPH / each)), int(room / 3 / each)))


def hessian_product(outputs: Tensor, loss_fn: Callable[[Tensor], Tensor], view) -> FirstPass:
    """Double backward: g = dL/d theta with its graph, then H v = d(g . v)/d theta."""
    leaves = list(view.theta.values())
    loss = loss_fn(outputs)
    gradient = derivative(loss, leaves, create_graph=True)

    def product(v: list[Tensor]) -> tuple[Tensor, ...]:
        return derivative(gradient, leaves, v)

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

    def product(v: list[Tensor]) -> tuple[Tensor, ...]:
        (jv,) = derivative(jt_u, [u], v)
        (hl_jv,) = derivative(dl_dz, [z], [jv])
        return derivative(outputs, leaves, [hl_jv])

    gradient = derivative(outputs, leaves, [dl_dz[0].detach()])
    return FirstPass(loss.detach(), gradient, product)


def derivative(of, by: list[Tensor], along=None, create_graph: bool = False):
    """d(of . along) / d by; zeros where `of` does not depend on `by`. The graph is kept.

    Raises ValueError when PyTorch lacks a derivative on the way, naming the operation.
    """
    of = [of] if isinstance(of, Tensor) else list(of)
    along = [None] * len(of) if along is None else along
    pairs = [(o, a) for o, a in zip(of, along, strict=True) if o.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(b) for b in by)
    try:
        return torch.autograd.grad(
            [o for o, _ in pairs],
            by,
            [a for _, a in pairs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented" in str(error) or "not differentiable" in str(error):
            raise ValueError(
                f"an operation of the model has no second derivative in PyTorch: {one_line(error)}"
            ) from error
        raise


def forward(view: ModelView, x: Tensor) -> Tensor:
    try:
        return view(view.theta, x)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(
            f"the model cannot be applied to inputs of shape {tuple(x.shape)}: {one_line(error)}"
        ) from error


def mean_loss(loss_fn: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """loss_fn(outputs, targets), checked to be one finite number."""
    try:
        loss = loss_fn(outputs, targets)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(
            f"the loss cannot be taken of outputs {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)} ({targets.dtype}): {one_line(error)}"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"loss_fn must return one number, the mean over the batch, not {shape}: "
            f"is it reduction='none'?"
        )
    if not torch.isfinite(loss):
        raise ValueError(
            f"the loss is {loss.item()}: check inputs, targets and weights for nan and overflow"
        )
    return loss.reshape(())


def loss_dtype(view: ModelView, loss_fn: Loss, sample: Pair) -> torch.dtype:
    """float64 if the loss can be taken in it, else the operator's dtype.

    A confident network has 1 - p near 0, and p - 1 in float32 keeps few of its digits or none. The
    loss and its derivatives by the outputs are a small part of the work; in float64 they keep them.
    """
    x, y = sample
    with torch.no_grad():
        outputs = forward(view, x)
        try:
            loss_fn(outputs.double(), y)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return outputs.dtype
    return torch.float64


def one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def refuse_if_ill_defined(view: ModelView, loss_fn: Loss, sample: Pair) -> None:
    """Raise ValueError when outputs are random, or the loss is no mean over samples."""
    x, y = sample
    with torch.no_grad():
        outputs, again = forward(view, x), forward(view, x)
        if not torch.allclose(outputs, again, rtol=1e-4, atol=1e-6, equal_nan=True):
            with_p = [n for n, m in view.model.named_modules() if getattr(m, "p", 0)]
            raise ValueError(
                "the model's outputs are random, so it has no one Hessian"
                + (f" (dropout: {', '.join(with_p)})" if with_p else "")
                + ": use mode='eval', or take the randomness out"
            )
        loss, n = mean_loss(loss_fn, outputs, y), len(x)
        if n > 1:
            a = max(n // 3, 1)
            parts = [
                len(z) / n * mean_loss(loss_fn, z, t)
                for z, t in ((outputs[:a], y[:a]), (outputs[a:], y[a:]))
            ]
            if not torch.allclose(sum(parts), loss, rtol=1e-3, atol=1e-30):
                raise ValueError(
                    "the loss of a batch is not the mean over its samples (class weights, "
                    "ignored targets or reduction='sum'?), so the mean over all samples "
                    "is not defined: use an unweighted mean"
                )


def graph_bytes(build: Callable[[], FirstPass], view: ModelView) -> int:
    """Bytes that autograd saves for the products of one first pass, parameters not counted."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        build()
    own = {p.untyped_storage().data_ptr() for p in (*view.theta.values(), *view.fixed.values())}
    return sum(size for pointer, size in sizes.items() if pointer not in own)


def gradient_error(view: ModelView, loss_fn: Loss, sample: Pair, seed: int) -> float:
    """|g.v - (L(theta + h v) - L(theta - h v)) / 2h| / |g.v| near the gradient's direction.

    In float64, at the best of several step sizes h: a small loss needs long steps, kinks short
    ones. An honest gradient gives 1e-6 or less. A hook or a gradient-reversal layer in the graph
    gives a gradient that belongs to no loss. nan when the model does not run in float64.
    """
    double = view.converted(torch.float64)
    x, y = (t.double() if t.is_floating_point() else t for t in sample)
    theta = double.theta
    try:
        gradient = derivative(loss_fn(double(theta, x), y), list(theta.values()))
        g = double.flatten(gradient)
        if g.norm() == 0:
            return 0.0
        noise = torch.randn(len(g), generator=torch.Generator().manual_seed(seed)).to(g)
        v = g / g.norm() + noise / noise.norm()
        size = double.flatten(theta.values()).detach().norm().item() or 1.0

        def loss_at(t: float) -> float:
            moved = zip(theta.items(), double.unflatten(v), strict=True)
            return loss_fn(double({n: p + t * d for (n, p), d in moved}, x), y).item()

        with torch.no_grad():
            steps = [size * h for h in (1e-8, 1e-7, 1e-6, 1e-5)]
            slopes = [(loss_at(h) - loss_at(-h)) / (2 * h) for h in steps]
    except RuntimeError:
        return math.nan
    expected = (g @ v).item()
    return min(abs(expected - slope) for slope in slopes) / max(abs(expected), g.norm().item())


def suspects(view: ModelView, x: Tensor) -> Iterator[str]:
    """Hooks on the model and custom autograd functions in its graph, one sentence each."""
    for name, p in view.model.named_parameters():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            yield (
                f"parameter {name} has a gradient hook: training follows another gradient than "
                f"that of this loss"
            )
    for name, module in view.model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            yield f"module {name or 'model'} has a backward hook in the graph"
    seen, waiting = set(), [forward(view, x).grad_fn]
    custom = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            custom.add(type(node).__name__.removesuffix("Backward"))
        waiting.extend(parent for parent, _ in node.next_functions)
    for name in sorted(custom):
        yield f"{name} in the graph is a custom autograd function: its derivative is its own"
