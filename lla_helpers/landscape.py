"""The loss on lines and planes through parameter space, and between two networks.

    L(theta + a d1 + b d2)        L((1 - t) theta_A + t theta_B)

The model is never touched: weights, buffers, mode and random state are as they were.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lla_helpers.batches import Batches
from lla_helpers.directions import adam_directions, check_directions, unknown
from lla_helpers.model_view import ModelView, in_mode, same_random_state
from lla_helpers.well_defined import Loss, loss_dtype, refuse_if_random

MODES = ("eval", "train", "recalibrate")
Point = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """Losses on a grid, and accuracies where the targets are classes.

    A line: `a` (n,), `b` None, loss (n,), or (k, n) for a bundle of k lines. A plane: `a` (n,),
    `b` (m,), loss (m, n), so that rows belong to b, as matplotlib's contour wants them. Losses that
    are not finite are kept as they came.
    """

    a: np.ndarray
    b: np.ndarray | None
    loss: np.ndarray
    accuracy: np.ndarray | None = None

    @property
    def bad(self) -> np.ndarray:
        """Where the loss is nan or infinite; the shape of `loss`."""
        return ~np.isfinite(self.loss)

    def capped(self, cap: float) -> Surface:
        """The same with no loss above `cap`, for plots whose walls would hide the valley.

        +inf becomes `cap`, too; nan stays nan, since it says nothing about the height.
        """
        if not cap > 0:
            raise ValueError(f"cap is a loss, more than 0, not {cap!r}")
        return replace(self, loss=np.minimum(self.loss, cap))

    def curvature(self) -> float:
        """d^2 L / da^2 at the grid's middle, (L(h) - 2 L(0) + L(-h)) / h^2.

        Raises ValueError unless a = 0 (and b = 0) is the middle of an evenly spaced grid.
        """
        middle = len(self.a) // 2
        h = self.a[middle + 1] - self.a[middle] if len(self.a) > 2 else 0.0
        if (
            h <= 0
            or not np.allclose(self.a[middle - 1 : middle + 2], [-h, 0, h], rtol=0, atol=1e-9 * h)
            or (self.b is not None and abs(self.b[len(self.b) // 2]) > 1e-12)
        ):
            raise ValueError("curvature needs an evenly spaced grid with the origin in its middle")
        row = self.loss if self.b is None else self.loss[len(self.b) // 2]
        return (row[..., middle + 1] - 2 * row[..., middle] + row[..., middle - 1]) / h**2


# The loss at one point ---------------------------------------------------------------------------


class LossAt:
    """Displacements of the chosen parameters -> mean loss over all samples, and accuracy.

    mode: "eval", the running statistics of batch norm as they are; "train", those of each batch (a
        pair (x, y) is one batch); "recalibrate", running statistics collected anew at every point
        on `calibrate`, by default the same data, then eval.
    at_once: points that `vmap` sends through together; 1 for the plain loop.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        data,
        *,
        params: str | Sequence[str] | None = None,
        mode: str = "eval",
        calibrate=None,
        at_once: int = 1,
        chunk_size: int = 512,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        if mode not in MODES:
            raise ValueError(unknown("mode", mode, MODES))
        if calibrate is not None and mode != "recalibrate":
            raise ValueError("calibrate holds data for mode='recalibrate', and only for it")
        if not isinstance(at_once, int) or at_once < 1:
            raise ValueError(f"at_once is a number of grid points, at least 1, not {at_once!r}")
        if at_once > 1 and mode != "eval":
            raise ValueError(
                f"mode={mode!r} writes statistics at every grid point, which vmap cannot do for "
                f"several at once: use at_once=1"
            )
        self.view = ModelView(model, params, "train" if mode == "train" else "eval", dtype, device)
        self.loss_fn, self.mode, self.at_once = loss_fn, mode, at_once
        shape = self.view.dtype, self.view.device
        self.batches = Batches(data, chunk_size, self.view.mode, *shape)
        if mode == "recalibrate":
            self.layers = refuse_without_statistics(model)
            self.calibrate = (
                self.batches
                if calibrate is None
                else Batches(calibrate, chunk_size, "eval", *shape)
            )
        self.start = self.view.flatten(p.detach() for p in self.view.theta.values())
        first = next(iter(self.batches))
        with same_random_state(self.view.device):
            refuse_if_random(self.view, first[0])
            self.loss_dtype = loss_dtype(self.view, loss_fn, first)

    def __call__(self, displacement: Tensor) -> Point:
        """Loss and accuracy (nan where the targets are no classes) at theta + displacement."""
        theta = self.named(self.start + displacement.to(self.start))
        view = self.view
        if self.mode == "recalibrate":
            view = copy.copy(view)
            view.buffers = collected_statistics(view, theta, self.calibrate, self.layers)
        loss = hits = 0.0
        for x, y in self.batches:
            mean, share = self.of_batch(view, theta, x, y)
            loss += len(x) / self.batches.size * float(mean)
            hits += len(x) / self.batches.size * float(share)
        return loss, hits

    def together(self, displacements: Tensor) -> list[Point]:
        """The same for the rows of a (k, P) tensor, by vmap over the weights."""
        theta = self.named(self.start + displacements.to(self.start))

        def one(theta: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.of_batch(self.view, theta, x, y)

        total = torch.zeros(2, len(displacements), dtype=torch.float64)
        for x, y in self.batches:
            found = vmap(one, in_dims=(0, None, None))(theta, x, y)
            total += len(x) / self.batches.size * torch.stack(found).double().cpu()
        return [(float(loss), float(hits)) for loss, hits in total.T]

    def of_batch(
        self, view: ModelView, theta: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the share of right classes, nan where targets are no classes.

        An output that is not finite is no right answer, whatever argmax makes of it.
        """
        z = view(theta, x)
        loss = self.loss_fn(z.to(self.loss_dtype), y)
        if loss.ndim != 0:
            raise ValueError(f"loss_fn must return a scalar, not shape {tuple(loss.shape)}")
        if z.ndim != 2 or y.ndim != 1 or y.is_floating_point():
            return loss, torch.full_like(loss, math.nan)
        hits = (z.argmax(1) == y) & torch.isfinite(z).all(1)
        return loss, hits.to(loss.dtype).mean()

    def named(self, vectors: Tensor) -> dict[str, Tensor]:
        """Vectors (P,) or (k, P) as tensors by name, of shapes (...) or (k, ...)."""
        parts = vectors.split([p.numel() for p in self.view.theta.values()], dim=-1)
        return {
            name: part.reshape(*vectors.shape[:-1], *p.shape)
            for part, (name, p) in zip(parts, self.view.theta.items(), strict=True)
        }


# Running statistics ------------------------------------------------------------------------------


def refuse_without_statistics(model: nn.Module) -> dict[str, nn.Module]:
    """The batch-norm layers that keep running statistics. Raises ValueError if there are none."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }
    if not layers:
        raise ValueError(
            "mode='recalibrate' estimates running statistics of batch norm, and the model has "
            "no batch-norm layer that keeps any: use mode='eval'"
        )
    return layers


@contextmanager
def collecting(model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[None]:
    """Batch norm in train mode with plain averages over batches, all the rest in eval mode."""
    momenta = {module: module.momentum for module in layers.values()}
    with in_mode(model, "eval"):
        try:
            for module in momenta:
                module.training, module.momentum = True, None
            yield
        finally:
            for module, momentum in momenta.items():
                module.momentum = momentum


@torch.no_grad()
def collected_statistics(
    view: ModelView, theta: dict[str, Tensor], batches: Batches, layers: dict[str, nn.Module]
) -> dict[str, Tensor]:
    """The buffers that batch norm has after one pass over `batches` at the weights theta.

    Each statistic is the mean over batches of the batch's (Izmailov et al. 2018).
    """
    buffers = {name: b.clone() for name, b in view.buffers.items()}
    for name in layers:
        prefix = f"{name}." if name else ""
        buffers[f"{prefix}running_mean"].zero_()
        buffers[f"{prefix}running_var"].fill_(1.0)
        buffers[f"{prefix}num_batches_tracked"].zero_()
    with collecting(view.model, layers):
        for x, _ in batches:
            functional_call(view.model, (theta, view.fixed, buffers), (x,))
    return buffers


def recalibrated(model: nn.Module, data, chunk_size: int = 512) -> nn.Module:
    """A copy of the model whose running statistics are those of `data` at its present weights.

    Raises ValueError for a model without batch norm that keeps statistics.
    """
    layers = refuse_without_statistics(model)
    view = ModelView(model, "*")
    batches = Batches(data, chunk_size, "eval", view.dtype, view.device)
    buffers = collected_statistics(view, view.theta, batches, layers)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, buffer in twin.named_buffers():
            buffer.copy_(buffers[name])
    return twin


# Grids -------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluated(
    at: LossAt, displacements: Iterator[Tensor], count: int, progress: bool
) -> np.ndarray:
    """Loss and accuracy of every displacement, (count, 2). One group of them exists at a time."""
    points: list[Point] = []
    with same_random_state(at.view.device), bar(progress, count) as tick:
        group: list[Tensor] = []
        for displacement in displacements:
            group.append(displacement)
            if len(group) == at.at_once or len(points) + len(group) == count:
                points += at.together(torch.stack(group)) if at.at_once > 1 else [at(group[0])]
                tick(len(group))
                group = []
    return np.array(points)


def surface_of(
    at: LossAt,
    displacement: Callable[[float, float], Tensor],
    a,
    b=None,
    progress: bool = False,
) -> Surface:
    """The loss at theta + displacement(a, b) on the grid of a and b; b None for a line."""
    a = offsets("a", a)
    rows = np.zeros(1) if b is None else offsets("b", b)
    found = evaluated(
        at, (displacement(i, j) for j in rows for i in a), len(rows) * len(a), progress
    )
    loss, accuracy = found.T.reshape(2, len(rows), len(a))
    if b is None:
        loss, accuracy = loss[0], accuracy[0]
    return Surface(
        a, None if b is None else rows, loss, None if np.isnan(accuracy).all() else accuracy
    )


def line(
    model: nn.Module, loss_fn: Loss, data, direction: Tensor, a, *, progress=False, **options
) -> Surface:
    """L(theta + a d) for each a; for directions (P, k) a bundle, with loss (k, n).

    `options` are LossAt's: params, mode, calibrate, at_once, chunk_size, dtype, device.
    Raises ValueError or TypeError for a direction of another shape or not finite, or what LossAt
    refuses.
    """
    at = LossAt(model, loss_fn, data, **options)
    check_directions(at.view, direction)
    if direction.ndim == 1:
        return surface_of(at, lambda i, _: i * direction, a, progress=progress)
    lines = [surface_of(at, lambda i, _, d=d: i * d, a, progress=progress) for d in direction.T]
    accuracy = None if lines[0].accuracy is None else np.stack([s.accuracy for s in lines])
    return Surface(lines[0].a, None, np.stack([s.loss for s in lines]), accuracy)


def plane(
    model: nn.Module,
    loss_fn: Loss,
    data,
    directions: Tensor,
    a,
    b=None,
    *,
    progress=False,
    **options,
) -> Surface:
    """L(theta + a d1 + b d2) on a grid; b is a if it is None. Options and errors as in `line`."""
    at = LossAt(model, loss_fn, data, **options)
    check_directions(at.view, directions)
    if directions.ndim != 2 or directions.shape[1] != 2:
        raise ValueError(f"a plane has two directions, (P, 2), not {tuple(directions.shape)}")
    first, second = directions.T
    return surface_of(
        at, lambda i, j: i * first + j * second, a, a if b is None else b, progress=progress
    )


def between(
    model: nn.Module, other: nn.Module, loss_fn: Loss, data, t, *, progress=False, **options
) -> Surface:
    """The loss of (1 - t) theta_A + t theta_B, for every parameter (Goodfellow et al. 2015).

    In mode "eval" running statistics are interpolated as well. They are then those of neither
    network nor of what lies between; mode="recalibrate" collects them anew at every t.
    Raises ValueError unless both networks have the same parameters and buffers.
    """
    at = LossAt(model, loss_fn, data, params="*", **options)
    end = ModelView(other, "*", at.view.mode, at.view.dtype, at.view.device)
    here = {**at.view.theta, **at.view.buffers}
    there = {**end.theta, **end.buffers}
    if {n: v.shape for n, v in here.items()} != {n: v.shape for n, v in there.items()}:
        raise ValueError(
            "between needs two networks with parameters and buffers of the same names and shapes"
        )
    step = end.flatten(p.detach() for p in end.theta.values()) - at.start
    first, last = at.view.buffers, end.buffers

    def moved(t: float, _: float) -> Tensor:
        at.view.buffers = {
            name: (1 - t) * b + t * last[name] if b.is_floating_point() else b
            for name, b in first.items()
        }
        return t * step

    if at.at_once > 1 and first:
        raise ValueError("buffers change along the path: use at_once=1")
    return surface_of(at, moved, t, progress=progress)


def adam_surface(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss,
    data,
    a,
    b,
    *,
    lr: float,
    eps: float = 1e-8,
    progress=False,
    **options,
) -> Surface:
    """L(theta - lr a m / (sqrt(b v) + eps)): Adam's next step with its moments scaled by a and b.

    m and v are the optimizer's buffers without bias correction, which a and b contain; b >= 0.
    At a = 0 nothing moves; where eps is small against sqrt(b v), the surface is a function of
    a / sqrt(b) alone. Raises ValueError for a negative b, or what `adam_directions` refuses.
    """
    at = LossAt(model, loss_fn, data, **options)
    m, v = adam_directions(model, optimizer, options.get("params")).to(at.start).T
    if min(offsets("b", b)) < 0:
        raise ValueError("b scales squares: it must not be negative")
    # Where m = 0 Adam does not move, even if v = 0 and eps = 0 make the quotient 0 / 0.
    return surface_of(
        at,
        lambda i, j: torch.where(m == 0, 0.0, -lr * i * m / ((j * v).sqrt() + eps)),
        a,
        b,
        progress=progress,
    )


def quadratic(H, directions: Tensor, a, b=None) -> Surface:
    """The quadratic model on the same grid: L + g.s + s.H s / 2 with s = a d1 + b d2.

    H: a `Hessian`, or anything with loss(), gradient() and @. directions: (P,) for a line, (P, 2)
    for a plane, where b is a if it is None.
    """
    columns = directions[:, None] if directions.ndim == 1 else directions
    products = (H @ columns).double()
    slope = (columns.double().T @ H.gradient().to(columns).double()).cpu().numpy()
    bend = (columns.double().T @ products).cpu().numpy()
    a = offsets("a", a)
    if len(slope) == 1:
        return Surface(a, None, float(H.loss()) + slope[0] * a + bend[0, 0] * a**2 / 2)
    b = a if b is None else offsets("b", b)
    grid = np.stack(np.meshgrid(a, b))  # (2, m, n)
    quad = np.einsum("imn,ij,jmn->mn", grid, bend, grid) / 2
    return Surface(a, b, float(H.loss()) + np.tensordot(slope, grid, 1) + quad)


def offsets(name: str, values) -> np.ndarray:
    """Values of one axis as a float64 array. Raises ValueError when they are no such thing."""
    values = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"{name} is a row of finite numbers, at least one, not {values!r}")
    return values


@contextmanager
def bar(wanted: bool, total: int) -> Iterator[Callable[[int], object]]:
    """A count of grid points on stderr while `wanted`; gives the function that advances it."""
    if not wanted:
        yield lambda n: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="landscape", unit="point") as progress:
        yield progress.update
