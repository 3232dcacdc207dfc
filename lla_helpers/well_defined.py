"""Has the mean loss over all samples one Hessian? If not, refuse, and say why in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lla_helpers.batches import Batches, Pair
from lla_helpers.model_view import ModelView

Loss = Callable[[Tensor, Tensor], Tensor]


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


def refuse_if_random(view: ModelView, x: Tensor) -> None:
    """Raise ValueError when the model draws random numbers, naming its dropout modules."""
    with torch.no_grad():
        outputs, again = forward(view, x), forward(view, x)
    change = (outputs - again).nan_to_num().norm() / outputs.nan_to_num().norm()
    dropping = [n for n, m in view.model.named_modules() if drop_rate(m) > 0]
    # A rare drop may not show on a few samples.
    if change > 1e-4 or (view.mode == "train" and dropping):
        raise ValueError(
            "the model's outputs are random, so it has no one Hessian"
            + (f" (dropout: {', '.join(dropping)})" if dropping else "")
            + ": use mode='eval', or take the randomness out"
        )


def drop_rate(module: nn.Module) -> float:
    """The probability of a dropout layer, or of one inside attention and recurrent layers."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout
    return module.dropout if isinstance(module, nn.RNNBase) and module.num_layers > 1 else 0.0


def refuse_if_no_mean(view: ModelView, loss_fn: Loss, data: Batches, dtype: torch.dtype) -> None:
    """Raise ValueError when the loss of some chunk is not finite, or no mean over its samples.

    Every chunk is looked at, together with the very first sample: class weights show only where
    classes meet, and an ignored target may come late.
    """
    first = None
    with torch.no_grad():
        for x, y in data:
            z = forward(view, x).to(dtype)
            mean_loss(loss_fn, z, y)
            if first is not None and first[0].shape[1:] == z.shape[1:]:
                z, y = torch.cat([first[0], z]), torch.cat([first[1], y])
            first = (z[:1], y[:1]) if first is None else first
            if not is_mean(loss_fn, z, y):
                raise ValueError(
                    "the loss of a batch is not the mean over its samples (class weights, "
                    "ignored targets or reduction='sum'?), so the mean over all samples "
                    "is not defined: use an unweighted mean"
                )


def is_mean(loss_fn: Loss, z: Tensor, y: Tensor) -> bool:
    """Does the loss of the whole agree with the mean of two parts, cut in two ways?"""
    n, whole = len(z), loss_fn(z, y)
    close = 1e-5 if z.dtype == torch.float64 else 1e-4
    for a in {1, n // 3} - {0, n}:
        parts = a / n * loss_fn(z[:a], y[:a]), (n - a) / n * loss_fn(z[a:], y[a:])
        scale = abs(parts[0]) + abs(parts[1])
        if abs(parts[0] + parts[1] - whole) > close * scale or scale.isnan():
            return False
    return True


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
    if torch.is_grad_enabled() and outputs.requires_grad and not loss.requires_grad:
        raise ValueError("the loss has no gradient: loss_fn does not depend on the outputs")
    if not torch.isfinite(loss):
        raise ValueError(
            f"the loss is {loss.item()}: check inputs, targets and weights for nan and overflow"
        )
    return loss.reshape(())


def one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
