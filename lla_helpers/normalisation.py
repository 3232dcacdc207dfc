"""Normalisation of directions: how far each part of the network moves in one unit of a plot.

A normalisation multiplies the direction, group by group, to the size of the weights:

    d_g  <-  d_g |theta_g| / |d_g|        g: a filter, a tensor, the whole model

(Li et al. 2018). Groups are what differs; for 1-D tensors (biases, gains and shifts of batch norm)
the choice is made apart, since it decides whether a plot survives a rescaling of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lla_helpers.directions import check_directions, unknown
from lla_helpers.model_view import ModelView

NORMALISATIONS = ("none", "weight", "filter", "layer", "model")
ONE_D = ("keep", "vector", "element", "zero")


def normalised(
    model: nn.Module,
    directions: Tensor,
    how: str = "filter",
    *,
    norm: int = 2,
    one_d: str | None = None,
    params: str | Sequence[str] | None = None,
) -> Tensor:
    """The directions, (P,) or (P, k), in the units of the model's weights.

    how: "none"; "weight", d * theta entry by entry; "filter", each slice of dimension 0 to the norm
        of that filter; "layer", each tensor; "model", all chosen parameters together.
    norm: 1 or 2, the norm of "filter", "layer" and "model".
    one_d: what happens to tensors with fewer than two dimensions:
        "keep"    as drawn: they move by about 1 each, however small they are;
        "vector"  the tensor as one group: right where one factor scales the whole layer;
        "element" d * theta: right where every filter has a factor of its own;
        "zero"    they do not move (Li et al. 2018): nothing of them can be seen.
        None is what LLA does: "vector" for filter and layer, "element" for weight; with "model"
        they belong to the one group, with "none" they are kept.

    A group of zero weights does not move; nor does one whose direction is zero. Nothing is divided
    by zero. Raises ValueError for an unknown name or norm, a direction of another shape or not
    finite, or weights that are not finite.
    """
    if how not in NORMALISATIONS:
        raise ValueError(unknown("normalisation", how, NORMALISATIONS))
    if one_d is not None and one_d not in ONE_D:
        raise ValueError(unknown("treatment of 1-D tensors", one_d, ONE_D))
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, not {norm!r}")
    view = ModelView(model, params)
    check_directions(view, directions)
    weights = {name: p.detach() for name, p in view.theta.items()}
    if not all(torch.isfinite(w).all() for w in weights.values()):
        raise ValueError("the model's weights are not finite: there is no size to scale to")
    columns = directions.T if directions.ndim == 2 else directions[None]
    done = torch.stack(
        [view.flatten(scaled(weights, view.unflatten(d), how, norm, one_d)) for d in columns]
    )
    return done.T.contiguous() if directions.ndim == 2 else done[0]


def scaled(
    weights: dict[str, Tensor], parts: list[Tensor], how: str, norm: int, one_d: str | None
) -> Iterator[Tensor]:
    """The parts of one direction, each scaled by the method that its tensor calls for."""
    usual = {"none": "keep", "weight": "element", "filter": "vector", "layer": "vector"}
    small = one_d or usual.get(how, "model")
    methods = [how if w.ndim > 1 else small for w in weights.values()]
    together = [
        (w, d)
        for w, d, method in zip(weights.values(), parts, methods, strict=True)
        if method == "model"
    ]
    factor = ratio(norm_of([w for w, _ in together], norm), norm_of([d for _, d in together], norm))
    for w, d, method in zip(weights.values(), parts, methods, strict=True):
        if method in ("none", "keep"):
            yield d
        elif method == "zero":
            yield torch.zeros_like(d)
        elif method in ("weight", "element"):
            yield d * w
        elif method in ("layer", "vector"):
            yield d * ratio(norm_of([w], norm), norm_of([d], norm))
        elif method == "filter":
            by_filter = (len(w), *[1] * (w.ndim - 1))
            sizes = [t.reshape(len(w), -1).norm(norm, dim=1).reshape(by_filter) for t in (w, d)]
            yield d * ratio(*sizes)
        else:
            yield d * factor


def norm_of(tensors: list[Tensor], norm: int) -> Tensor:
    return torch.stack([t.norm(norm) for t in tensors]).norm(norm) if tensors else torch.tensor(0.0)


def ratio(size: Tensor, of: Tensor) -> Tensor:
    """size / of, and 0 where `of` is: a direction that is zero has no length to scale."""
    return torch.where(of > 0, size / of.clamp(min=torch.finfo(of.dtype).tiny), 0.0)
