"""Third derivatives that PyTorch gets wrong without a word: the fused normalisation layers.

Their double backward counts the batch's mean and variance as constants when it is differentiated
once more (PyTorch issues 186256 and 175754). First and second derivatives are right. Whoever
differentiates a Hessian-vector product needs the same layers made from elementary operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ThriceDifferentiable(TorchFunctionMode):
    """`with ThriceDifferentiable(): model(x)`: batch, layer and instance norm from their parts."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        plain = PLAIN.get(function)
        return (plain or function)(*args, **(kwargs or {}))


def standardised(x: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over `dims`."""
    centred = x - x.mean(dims, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(dims, keepdim=True) + eps)


def per_channel(v: Tensor, like: Tensor) -> Tensor:
    """A vector over channels, shaped to multiply (samples, channels, ...)."""
    return v.reshape(1, -1, *[1] * (like.ndim - 2))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As torch.nn.functional.batch_norm, which also updates the running statistics."""
    dims = (0, *range(2, x.ndim))
    if training:
        y = standardised(x, dims, eps)
        if running_mean is not None:
            with torch.no_grad():
                running_mean.lerp_(x.mean(dims).to(running_mean), momentum)
                running_var.lerp_(x.var(dims).to(running_var), momentum)
    else:
        y = (x - per_channel(running_mean, x)) / torch.sqrt(per_channel(running_var, x) + eps)
    y = y if weight is None else y * per_channel(weight, x)
    return y if bias is None else y + per_channel(bias, x)


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """As torch.nn.functional.layer_norm."""
    y = standardised(x, tuple(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As torch.nn.functional.instance_norm without running statistics."""
    if running_mean is not None or not use_input_stats:
        raise ValueError("instance norm with running statistics has no third derivative here")
    y = standardised(x, tuple(range(2, x.ndim)), eps)
    y = y if weight is None else y * per_channel(weight, x)
    return y if bias is None else y + per_channel(bias, x)


PLAIN = {
    torch.nn.functional.batch_norm: batch_norm,
    torch.nn.functional.layer_norm: layer_norm,
    torch.nn.functional.instance_norm: instance_norm,
}
