"""What PyTorch's autograd graph gives and hides: derivatives, its size, what was tampered with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lla_helpers.batches import Pair
from lla_helpers.model_view import ModelView
from lla_helpers.second_derivatives import OURS
from lla_helpers.well_defined import Loss, forward, one_line


def derivative(of, by: list[Tensor], along=None, create_graph: bool = False, block: int = 0):
    """d(of . along) / d by; zeros where `of` does not depend on `by`. The graph is kept.

    With `block`, so many directions at once: `along` and the result have them as a first dimension.
    Raises ValueError when PyTorch lacks a derivative on the way, naming the operation.
    """
    of = [of] if isinstance(of, Tensor) else list(of)
    along = [None] * len(of) if along is None else along
    pairs = [(o, a) for o, a in zip(of, along, strict=True) if o.requires_grad]
    lead = (block,) if block else ()
    if not pairs:
        return tuple(b.new_zeros(lead + b.shape) for b in by)
    try:
        found = torch.autograd.grad(
            [o for o, _ in pairs],
            by,
            [a for _, a in pairs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=bool(block),
        )
        return tuple(
            b.new_zeros(lead + b.shape) if f is None else f for f, b in zip(found, by, strict=True)
        )
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented" in str(error) or "not differentiable" in str(error):
            raise ValueError(
                f"an operation of the model has no second derivative in PyTorch: {one_line(error)}"
            ) from error
        raise


def nodes(tensors: Iterable[Tensor]) -> Iterator[torch.autograd.graph.Node]:
    """Every node of the graph that the tensors came from."""
    seen, waiting = set(), [t.grad_fn for t in tensors]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(parent for parent, _ in node.next_functions)


def refuse_if_once_only(gradient: tuple[Tensor, ...]) -> None:
    """Raise ValueError where a custom function is marked `once_differentiable`.

    PyTorch cuts the graph there, and answers a second derivative by the parameters with zeros.
    """
    if any(node.name() == "torch::autograd::Error" for node in nodes(gradient)):
        raise ValueError(
            "a custom autograd function of the model is marked once_differentiable: it has no "
            "second derivative"
        )


def graph_bytes(build: Callable[[], object], view: ModelView) -> int:
    """Bytes that autograd saves for the products of one first pass, parameters not counted."""
    sizes: dict[int, int] = {}
    boxes: list[list[Tensor]] = []

    def pack(tensor: Tensor) -> list[Tensor]:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        boxes.append([tensor])
        return boxes[-1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box[0]):
        build()
    for box in boxes:  # a node that holds its own output is a cycle that no collector sees
        box.clear()
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
            loss = abs(loss_at(0.0))
    except RuntimeError:
        return math.nan
    expected = (g @ v).item()
    # At a minimum the slope drowns in the rounding of the loss: eps |L| / h.
    rounding = [4 * torch.finfo(torch.float64).eps * loss / h for h in steps]
    errors = [max(abs(expected - s) - r, 0.0) for s, r in zip(slopes, rounding, strict=True)]
    return min(errors) / max(abs(expected), g.norm().item())


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
    custom = {
        type(node).__name__.removesuffix("Backward")
        for node in nodes([forward(view, x)])
        if isinstance(node, torch.autograd.function.BackwardCFunction)
        and getattr(node, "_forward_cls", None) not in OURS
    }
    for name in sorted(custom):
        yield f"{name} in the graph is a custom autograd function: its derivative is its own"
