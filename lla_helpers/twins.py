"""Twins: networks with other weights that compute the same function, and how alike their plots are.

Batch norm divides by the standard deviation of what comes in. So a filter before it may be scaled
by any a > 0, with its bias and the running statistics, and nothing comes out differently. Without
batch norm, ReLU is positively homogeneous, ReLU(a z) = a ReLU(z), and a layer may be scaled by a
if the next one's columns are scaled by 1 / a (Dinh et al. 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from lla_helpers.directions import flat, hessian_directions, random_directions, unknown
from lla_helpers.hessian import Hessian
from lla_helpers.landscape import Surface, plane
from lla_helpers.normalisation import normalised
from lla_helpers.relative_hessian import RelativeHessian, sizes

FAMILIES = ("layer", "filter")
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def factors(count: int, family: str, spread: float, seed: int, number: int) -> Tensor:
    """Factors spread^u, |u| uniform in [1/2, 1], signs random; one for the layer or each filter.

    So each is at least the root of `spread` away from one, up or down.
    """
    if family not in FAMILIES:
        raise ValueError(unknown("family of twins", family, FAMILIES))
    if not spread >= 1:
        raise ValueError(f"spread is the largest factor, at least 1, not {spread!r}")
    rng, size = np.random.default_rng([seed, number]), 1 if family == "layer" else count
    u = rng.uniform(0.5, 1, size) * rng.choice([-1, 1], size)
    return torch.from_numpy(np.broadcast_to(spread**u, count).copy())


def bn_pairs(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Every linear or convolutional layer that stands before batch norm within a Sequential."""
    return [
        (layer, norm)
        for block in model.modules()
        if isinstance(block, nn.Sequential)
        for layer, norm in pairwise(block.children())
        if isinstance(layer, LINEAR) and isinstance(norm, nn.modules.batchnorm._BatchNorm)
    ]


@torch.no_grad()
def bn_twin(
    model: nn.Module, family: str = "filter", *, spread: float = 4.0, seed: int = 0
) -> nn.Module:
    """A copy whose filters before batch norm are scaled, and which computes the same function.

    W_j -> a_j W_j, bias_j -> a_j bias_j, running mean -> a_j mean, running variance v ->
    a_j^2 (v + eps) - eps. In eval mode the function is the same whatever eps is; in train mode up
    to eps against the batch's variance. family: "layer", one factor a layer; "filter", one each.

    Raises ValueError when no layer stands before batch norm, or eps leaves no variance.
    """
    twin = copy.deepcopy(model)
    pairs = bn_pairs(twin)
    if not pairs:
        raise ValueError("no layer of the model stands before batch norm within a Sequential")
    for number, (layer, norm) in enumerate(pairs):
        a = factors(len(layer.weight), family, spread, seed, number).to(layer.weight)
        layer.weight.mul_(a.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            layer.bias.mul_(a)
        if norm.running_mean is not None:
            norm.running_mean.mul_(a)
            variance = a.square() * (norm.running_var + norm.eps) - norm.eps
            if (variance < 0).any():
                raise ValueError(f"a filter's variance is below eps: take a spread below {spread}")
            norm.running_var.copy_(variance)
    return twin


@torch.no_grad()
def relu_twin(
    model: nn.Module, family: str = "filter", *, spread: float = 4.0, seed: int = 0
) -> nn.Module:
    """A copy of a network without batch norm, rescaled through its ReLUs: the same function.

    Outputs of each hidden layer are multiplied by a_j, the columns of the next that take them in
    are divided by a_j. For a Sequential of linear and convolutional layers, ReLU (or leaky ReLU),
    pooling and flattening. Raises ValueError for anything else, naming it.
    """
    if not isinstance(model, nn.Sequential):
        raise ValueError("relu_twin rescales a Sequential, one layer into the next")
    for module in model:
        if not isinstance(module, (*LINEAR, *HOMOGENEOUS, nn.Flatten)):
            raise ValueError(
                f"{type(module).__name__} is not positively homogeneous: the twin would compute "
                f"another function"
            )
    twin = copy.deepcopy(model)
    layers = [module for module in twin if isinstance(module, LINEAR)]
    for number, (layer, following) in enumerate(pairwise(layers)):
        a = factors(len(layer.weight), family, spread, seed, number).to(layer.weight)
        layer.weight.mul_(a.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            layer.bias.mul_(a)
        # Flattening lays the pixels of a channel side by side.
        columns = a.repeat_interleave(following.weight.shape[1] // len(a))
        following.weight.div_(columns.reshape(1, -1, *[1] * (following.weight.ndim - 2)))
    return twin


def plot_distance(reference: Surface, other: Surface, *, symmetric: bool = False) -> float:
    """How unlike two plots are: RMS of log L' - log L over the spread of log L.

        D = sqrt(mean (log L' - log L)^2) / std(log L)

    0 for equal plots; 1 where they differ as much as the reference varies. Logarithms, because a
    plot of a loss is read in ratios. symmetric: the least over flips of either axis and their
    exchange (where the grid is square), for axes whose sign and order are arbitrary.

    Raises ValueError for grids of other shapes, losses that are not finite or not positive, or a
    reference that is constant.
    """
    if reference.loss.shape != other.loss.shape:
        raise ValueError(
            f"two plots on one grid are compared, not {reference.loss.shape} and {other.loss.shape}"
        )
    if not all((np.isfinite(s.loss) & (s.loss > 0)).all() for s in (reference, other)):
        raise ValueError("a loss is not finite or not positive: shrink the grid, or cap the plots")
    first, second = np.log(reference.loss), np.log(other.loss)
    if not np.ptp(first) > 0:
        raise ValueError("the reference plot is constant: it has no spread to compare with")
    candidates = images(second) if symmetric else [second]
    return float(min(np.sqrt(np.mean((c - first) ** 2)) for c in candidates) / first.std())


def images(values: np.ndarray) -> Iterator[np.ndarray]:
    """A plot and its mirror images; of a square one also those with the axes exchanged."""
    square = values.ndim == 2 and values.shape[0] == values.shape[1]
    for start in [values, values.T] if square else [values]:
        for axes in [()] + [(0,)] + ([(1,), (0, 1)] if values.ndim == 2 else []):
            yield np.flip(start, axes)


# The same plot of two networks -------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """How a plane is drawn. axes: "gaussian", "uniform", "hessian" (unit eigenvectors), "curvature"
    (eigenvectors in units of 1 / sqrt|lambda|) or "relative" (eigenvectors of N H N)."""

    axes: str
    how: str = "none"
    one_d: str | None = None
    norm: int = 2

    @property
    def symmetric(self) -> bool:
        """Are the axes known up to sign and order only?"""
        return self.axes not in ("gaussian", "uniform")


class Axes:
    """The axes of every method for one network; eigenvectors are found once and kept."""

    def __init__(self, model: nn.Module, loss_fn, data, seed: int = 0):
        self.model, self.seed = model, seed
        self.H = Hessian(model, loss_fn, data)
        self.found: dict[tuple, tuple[np.ndarray, Tensor]] = {}

    def eigenpairs(self, *relative: str) -> tuple[np.ndarray, Tensor]:
        """The two of largest modulus, of H, or of N H N with N = sizes(how, one_d)."""
        if relative not in self.found:
            if relative:
                op = RelativeHessian(self.H, sizes(self.model, relative[0], one_d=relative[1]))
                self.found[relative] = op.directions("LM", tol=1e-3)
            else:
                self.found[relative] = hessian_directions(self.H, "LM", tol=1e-3)
        return self.found[relative]

    def __call__(self, method: Method) -> tuple[Tensor, float]:
        """Axes (P, 2), and the length of one unit that this network would suggest.

        Only where nothing in the method says how long an axis is does the second number matter; it
        is 1 elsewhere. It must then be taken from one network for both, or it would hide their
        difference. A unit of a Hessian axis is where the quadratic model has risen by 4.
        """
        if method.axes == "relative":
            values, d = self.eigenpairs(method.how, method.one_d or "element")
            return d, unit_of(values[0])
        if method.axes == "curvature":
            values, d = self.eigenpairs()
            return d * torch.tensor([unit_of(value) for value in values]).to(d), 1.0
        if method.axes == "hessian":
            values, d = self.eigenpairs()
            length = unit_of(values[0])
        else:
            d = random_directions(self.model, 2, kind=method.axes, seed=self.seed)
            length = float(flat(self.model).norm() / d[:, 0].norm())
        if method.how == "none":
            return d, length
        return normalised(self.model, d, method.how, one_d=method.one_d, norm=method.norm), 1.0


def unit_of(value: float) -> float:
    """s with |value| s^2 / 2 = 4."""
    return float(np.sqrt(8 / abs(value)))


def twin_distances(
    methods: Mapping[str, Method],
    model: nn.Module,
    twins: Mapping[str, nn.Module],
    loss_fn,
    data,
    grid,
    *,
    seed: int = 0,
    mode: str = "eval",
) -> dict[str, dict[str, float]]:
    """{twin: {method: D}}, the distance between the plots of a model and of each of its twins.

    Both networks use the same random numbers and the same unit of length, the model's.
    """
    own = Axes(model, loss_fn, data, seed)
    theirs = {name: Axes(twin, loss_fn, data, seed) for name, twin in twins.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in twins}
    for label, method in methods.items():
        d, unit = own(method)
        reference = plane(model, loss_fn, data, unit * d, grid, mode=mode)
        for name, twin in twins.items():
            other = plane(twin, loss_fn, data, unit * theirs[name](method)[0], grid, mode=mode)
            found[name][label] = plot_distance(reference, other, symmetric=method.symmetric)
    return found
