"""Derivatives held against differences: is the gradient that of the loss, and H that of it?

Whatever hooks and custom functions tell autograd, a difference of two values does not ask them.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from lla_helpers.batches import Pair
from lla_helpers.graphs import derivative
from lla_helpers.model_view import ModelView
from lla_helpers.well_defined import Loss

# Of central differences, over the norm of theta. The first only shows how finely a loss changes.
STEPS = (1e-11, 1e-8, 1e-7, 1e-6, 1e-5)


def gradient_error(view: ModelView, loss_fn: Loss, sample: Pair, seed: int) -> float:
    """|g.v - (L(theta + h v) - L(theta - h v)) / 2h| / |g.v| near the gradient's direction.

    In float64, at the best of several step sizes h: a small loss needs long steps, kinks short
    ones. An honest gradient gives 1e-6 or less. A hook or a gradient-reversal layer in the graph
    gives a gradient that belongs to no loss. nan when the model does not run in float64.
    """
    double, x, y = in_float64(view, sample)
    try:
        g = double.flatten(gradient_at(double, loss_fn, x, y))
        if g.norm() == 0:
            return 0.0
        noise = torch.randn(len(g), generator=torch.Generator().manual_seed(seed)).to(g)
        v = (g / g.norm() + noise / noise.norm()) * double.flatten(without_padding(double))
        with torch.no_grad():
            loss = abs(loss_fn(double(double.theta, x), y).item())
            slopes, steps = differences(double, v, lambda theta: loss_fn(double(theta, x), y))
    except RuntimeError:
        return math.nan
    expected = g @ v
    # At a minimum the slope drowns in the rounding of the loss: eps |L|, or the least that it
    # changes by, where log(1 + e^-z) of a confident network comes in multiples of eps.
    least = min((2 * h * abs(s.item()) for s, h in zip(slopes, steps, strict=True) if s), default=0)
    noise = max(4 * torch.finfo(torch.float64).eps * loss, least)
    return distance(expected, slopes[1:], [noise / h for h in steps[1:]]) / max(
        abs(expected.item()), g.norm().item()
    )


def product_error(view: ModelView, loss_fn: Loss, sample: Pair, seed: int) -> float:
    """|H v - (g(theta + h v) - g(theta - h v)) / 2h| / |H v| for a random v, as `gradient_error`.

    A custom function may have the right derivative and hide what that depends on: then g is the
    gradient of the loss, and H not the derivative of g.
    """
    double, x, y = in_float64(view, sample)

    def moved_gradient(theta: dict[str, Tensor]) -> Tensor:
        there = copy.copy(double)
        there.theta = {name: p.requires_grad_() for name, p in theta.items()}
        return double.flatten(gradient_at(there, loss_fn, x, y))

    try:
        v = torch.randn(double.size, generator=torch.Generator().manual_seed(seed)).to(x.device)
        v = v.double() * double.flatten(without_padding(double))
        v = v / v.norm()
        gradient = gradient_at(double, loss_fn, x, y, create_graph=True)
        walk = partial(derivative, gradient, list(double.theta.values()), double.unflatten(v))
        hv = double.flatten(double.in_place_of_the_model(walk))
        if hv.norm() == 0:
            return 0.0
        slopes, _ = differences(double, v, moved_gradient)
    except RuntimeError:
        return math.nan
    return distance(hv, slopes[1:], [0.0] * len(slopes[1:])) / hv.norm().item()


def gradient_at(view: ModelView, loss_fn: Loss, x, y, create_graph: bool = False) -> list[Tensor]:
    loss = loss_fn(view(view.theta, x), y)
    walk = partial(derivative, loss, list(view.theta.values()), create_graph=create_graph)
    return view.in_place_of_the_model(walk)


def in_float64(view: ModelView, sample: Pair) -> tuple[ModelView, Tensor, Tensor]:
    x, y = (t.double() if t.is_floating_point() else t for t in sample)
    return view.converted(torch.float64), x, y


def without_padding(view: ModelView) -> list[Tensor]:
    """Ones of theta's shapes, with zeros where PyTorch takes an embedding's row for a constant."""
    ones = {name: torch.ones_like(p) for name, p in view.theta.items()}
    names = {id(p): name for name, p in view.model.named_parameters()}
    for module in view.model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
            weight = ones.get(names.get(id(module.weight)))
            if weight is not None:
                weight[module.padding_idx] = 0
    return list(ones.values())


def differences(view: ModelView, v: Tensor, f) -> tuple[list[Tensor], list[float]]:
    """(f(theta + h v) - f(theta - h v)) / 2h for growing steps h, and the steps."""
    size = view.flatten(view.theta.values()).detach().norm().item() or 1.0
    pieces = view.unflatten(v)

    def at(t: float) -> Tensor:
        moved = zip(view.theta.items(), pieces, strict=True)
        return f({name: p.detach() + t * piece for (name, p), piece in moved})

    steps = [size * h for h in STEPS]
    return [(at(h) - at(-h)) / (2 * h) for h in steps], steps


def distance(expected: Tensor, found: list[Tensor], rounding: list[float]) -> float:
    """How far `expected` is from the difference quotients, beyond what the best cannot agree on.

    Where rounding decides, or a kink, two step sizes give two answers; an honest derivative is as
    near to one of them as they are to each other. Steps that rounding hides altogether agree on
    zero: they count only where longer ones do, too.
    """
    pairs = list(zip(pairwise(found), rounding[1:], strict=True))
    pairs = [((a, b), r) for (a, b), r in pairs if a.any() and b.any()] or pairs
    doubts = [max(r, 3 * (a - b).norm().item()) for (a, b), r in pairs]
    best = doubts.index(min(doubts))
    nearest = min((expected - quotient).norm().item() for quotient in pairs[best][0])
    return max(nearest - doubts[best], 0.0)
