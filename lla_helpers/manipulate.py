"""What may be done to a gradient before a training step takes it: named, composable in order.

A manipulation is a name, or a pair of a name and its options:

    "sign"      ("clip_norm", {"max_norm": 0.1})      ("reverse", {"params": "5.*"})

Every one takes two options beside its own. `params`, a glob or globs over parameter names, limits
it to these tensors; `in_graph=True` makes it a hook that autograd runs inside the backward pass,
where whoever differentiates the gradient once more will meet it.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from lla_helpers.model_view import choose

Gradients = dict[str, Tensor]
Spec = str | tuple[str, Mapping]


def clip_norm(g: Gradients, generator: torch.Generator, *, max_norm: float = 1.0) -> Gradients:
    """g min(1, max_norm / |g|), with |g| the norm of all tensors together."""
    norm = math.sqrt(sum(float(t.detach().double().square().sum()) for t in g.values()))
    return {name: t * min(1.0, max_norm / norm) if norm else t for name, t in g.items()}


def clip_value(g: Gradients, generator: torch.Generator, *, limit: float = 0.01) -> Gradients:
    """Every entry moved into [-limit, limit]."""
    return {name: t.clamp(-limit, limit) for name, t in g.items()}


def sign(g: Gradients, generator: torch.Generator) -> Gradients:
    """The sign of every entry."""
    return {name: t.sign() for name, t in g.items()}


def noise(g: Gradients, generator: torch.Generator, *, std: float = 0.01) -> Gradients:
    """g + std xi, xi standard normal."""
    return {name: t + std * drawn(torch.randn, t, generator) for name, t in g.items()}


def scale(g: Gradients, generator: torch.Generator, *, factor: float = 0.1) -> Gradients:
    """factor g."""
    return {name: factor * t for name, t in g.items()}


def reverse(g: Gradients, generator: torch.Generator) -> Gradients:
    """-g: ascent. With `params`, ascent in some layers and descent in the others."""
    return {name: -t for name, t in g.items()}


def drop(g: Gradients, generator: torch.Generator, *, share: float = 0.5) -> Gradients:
    """Every entry set to zero with probability `share`; share=1 with `params` drops layers."""
    return {name: t * (drawn(torch.rand, t, generator) >= share) for name, t in g.items()}


def drawn(draw: Callable, like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers of a tensor's shape; drawn on the CPU, so alike on every device."""
    return draw(like.shape, generator=generator, dtype=like.dtype).to(like.device)


MANIPULATIONS = {f.__name__: f for f in (clip_norm, clip_value, sign, noise, scale, reverse, drop)}
RANGES = {"share": (0.0, 1.0), "factor": (-math.inf, math.inf)}  # the others: not negative


@dataclass(frozen=True)
class Manipulation:
    """One manipulation with its options; see the module."""

    name: str
    options: dict = field(default_factory=dict)
    params: str | tuple[str, ...] | None = None
    in_graph: bool = False

    def __call__(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        """The gradients with those that `params` chooses manipulated."""
        chosen = list(gradients) if self.params is None else choose(gradients, self.params)
        part = {name: gradients[name] for name in chosen}
        return {**gradients, **MANIPULATIONS[self.name](part, generator, **self.options)}


def manipulations(specs: Spec | Sequence[Spec]) -> list[Manipulation]:
    """Read a sequence of names and (name, options) pairs; one name stands for itself.

    Raises ValueError, naming what is near, for an unknown name or option, for an option out of its
    range, and for one in the graph after one that is not: autograd runs hooks first.
    """
    read = [manipulation(spec) for spec in ([specs] if isinstance(specs, str) else specs)]
    for before, after in pairwise(read):
        if after.in_graph and not before.in_graph:
            raise ValueError(
                f"{after.name!r} in the graph cannot follow {before.name!r} outside it: hooks run "
                f"within the backward pass; put those in the graph first"
            )
    return read


def manipulation(spec: Spec) -> Manipulation:
    name, options = (spec, {}) if isinstance(spec, str) else pair(spec)
    options = dict(options)
    unknown("manipulation", name, MANIPULATIONS)
    params, in_graph = options.pop("params", None), options.pop("in_graph", False)
    own = list(inspect.signature(MANIPULATIONS[name]).parameters)[2:]
    for option, value in options.items():
        unknown(f"option of {name!r}:", option, [*own, "params", "in_graph"])
        low, high = RANGES.get(option, (0.0, math.inf))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and low <= value <= high):
            raise ValueError(
                f"{option} of {name!r} is a finite number in [{low:g}, {high:g}], not {value!r}"
            )
    if params is not None and not isinstance(params, str):
        params = tuple(params)
    if not isinstance(in_graph, bool):
        raise TypeError(f"in_graph of {name!r} is True or False, not {in_graph!r}")
    return Manipulation(name, options, params, in_graph)


def pair(spec) -> tuple[str, Mapping]:
    if (
        isinstance(spec, Sequence)
        and len(spec) == 2
        and isinstance(spec[0], str)
        and isinstance(spec[1], Mapping)
    ):
        return spec[0], spec[1]
    raise TypeError(
        f"a manipulation is a name or a pair like ('scale', {{'factor': 0.1}}), not {spec!r}"
    )


def unknown(what: str, name, known) -> None:
    """Raise ValueError, naming what is near, unless `name` is among the known ones."""
    if name in known:
        return
    near = difflib.get_close_matches(str(name).lower(), list(known), n=1, cutoff=0.3)
    raise ValueError(
        f"unknown {what} {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else ";")
        + f" Known: {', '.join(known)}"
    )


@contextmanager
def in_graph(
    model: nn.Module, specs: Spec | Sequence[Spec], generator: torch.Generator | None = None
) -> Iterator[None]:
    """While it is open, hooks on the parameters do to each tensor's gradient what `specs` say.

    A hook sees one tensor at a time, so "clip_norm" clips the norm of each by itself. Everything
    is run as if `in_graph=True`. The hooks go when it is closed.

    Raises ValueError for a glob that no parameter matches.
    """
    generator = generator or torch.Generator().manual_seed(0)
    everything = {name: p for name, p in model.named_parameters() if p.requires_grad}
    handles = []
    try:
        for step in manipulations(specs):
            for name in everything if step.params is None else choose(everything, step.params):
                one = replace(step, params=None)
                handles.append(everything[name].register_hook(hook(one, name, generator)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def hook(step: Manipulation, name: str, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    return lambda g: step({name: g}, generator)[name]


class GradientReversal(nn.Module):
    """The identity forwards; backwards the gradient times -strength (Ganin et al. 2016).

    Its derivative is not that of the function it computes, so a network that holds one has a
    "gradient" that belongs to no loss.
    """

    def __init__(self, strength: float = 1.0):
        super().__init__()
        if not math.isfinite(strength):
            raise ValueError(f"the strength of a reversal must be finite, not {strength!r}")
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        return Reversal.apply(x, self.strength)

    def extra_repr(self) -> str:
        return f"strength={self.strength}"


class Reversal(torch.autograd.Function):
    """x -> x, whose backward pass multiplies by -strength; forward mode knows the identity only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, strength: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx, g: Tensor):
        return -ctx.strength * g, None

    @staticmethod
    def jvp(ctx, t: Tensor, _strength) -> Tensor:
        return t.view_as(t)
