"""What PyTorch's autograd graph gives and hides: derivatives, its size, what was tampered with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from lla_helpers.model_view import Around, ModelView
from lla_helpers.second_derivatives import OURS
from lla_helpers.well_defined import forward, one_line


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


def refuse_if_reached_past(view: ModelView, outputs: Tensor, loss: Tensor) -> None:
    """Raise ValueError where they depend on parameters that are not the view's, but the model's.

    A loss that adds weight decay, or a list that holds a weight, reads the model's own parameter:
    it would count as a constant, and its part of every derivative would be missing. A loss may read
    what is not chosen.
    """
    names = {id(p): name for name, p in view.model.named_parameters()}
    inside = set(nodes([outputs]))
    for node in nodes([loss]):
        name = names.get(id(getattr(node, "variable", None)))
        if name and (node in inside or name in view.theta):
            raise ValueError(
                f"parameter {name} is reached past the model's attributes (by the loss, a list, a "
                f"cache): its part of the Hessian would be missing: read weights in forward() "
                f"from their modules, and leave penalties on weights out of the loss (weight decay "
                f"of c/2 |theta|^2 adds c to every eigenvalue)"
            )


def recomputes(view: ModelView, outputs: Tensor) -> bool:
    """Does the backward pass read the model's weights again, as activation checkpoints do?

    Then it gives something else, or fails, while all of them are nan.
    """
    walk = partial(derivative, outputs.sum(), list(view.theta.values()))
    nan = {
        f"model.{name}": t.new_full((), torch.nan).expand_as(t) if t.is_floating_point() else t
        for name, t in {**view.theta, **view.fixed, **view.buffers}.items()
    }
    try:
        found, again = walk(), functional_call(Around(view.model), nan, (walk,))
    except Exception:  # whatever layers say that are called with such weights
        return True
    return not torch.equal(view.flatten(found).nan_to_num(), view.flatten(again).nan_to_num())


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
