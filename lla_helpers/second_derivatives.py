"""Convolution and ReLU, with the gradients of their gradients by the shortest way.

Double backward walks each layer four times: its output, its gradient, and both of those backwards.
PyTorch knows a gradient of every gradient, but where it is rarely asked for one it may take the
long way round: it differentiates the gradient by a convolution's weights as a convolution with an
image-sized kernel, and gives a ReLU zeros to add to what comes back, as large as the layer. The
formulas here use the same kernels as training does.

They repay themselves where a layer is large; a walk through small layers is mostly its starting.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import Function

aten = torch.ops.aten
CONVOLUTIONS = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
RECTIFIERS = (nn.functional.relu, torch.relu, Tensor.relu)


class ReLU(Function):
    """y = max(x, 0); its gradient g [y > 0] is linear in g, and constant in y almost everywhere."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = x.clamp_min(0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return aten.threshold_backward(g, y.detach(), 0)


class Convolution(Function):
    """y = x * w + b; `how` is stride, padding, dilation, transposed, output padding, groups."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, b: Tensor | None, how: tuple) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = how
        return aten.convolution(x, w, b, *how)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple:
        x, w = ctx.saved_tensors
        return *ConvolutionGradient.apply(g, x, w, ctx.how, ctx.needs_input_grad[:3]), None


class ConvolutionGradient(Function):
    """(dL/dx, dL/dw, dL/db) from g = dL/dy, those that are needed: bilinear in g and (w, x, 1)."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, w: Tensor, how: tuple, needed: tuple) -> tuple:
        ctx.save_for_backward(g, x, w)
        ctx.how = how
        ctx.set_materialize_grads(False)
        return aten.convolution_backward(g, x, w, [len(w)], *how, list(needed))

    @staticmethod
    def backward(ctx, vx: Tensor | None, vw: Tensor | None, vb: Tensor | None) -> tuple:
        g, x, w = ctx.saved_tensors
        need_g, need_x, need_w = ctx.needs_input_grad[:3]
        to_g = to_x = to_w = None
        if need_g:
            if vw is not None or vb is not None:
                weights = torch.zeros_like(w) if vw is None else vw
                to_g = aten.convolution(x, weights, vb, *ctx.how)
            if vx is not None:
                through = aten.convolution(vx, w, None, *ctx.how)
                to_g = through if to_g is None else to_g + through
        if need_x and vw is not None:
            only_x = [True, False, False]
            to_x = aten.convolution_backward(g, x, vw, None, *ctx.how, only_x)[0]
        if need_w and vx is not None:
            only_w = [False, True, False]
            to_w = aten.convolution_backward(g, vx, w, None, *ctx.how, only_w)[1]
        return to_g, to_x, to_w, None, None


OURS = (ReLU, Convolution, ConvolutionGradient)


class ShortestWay(torch.overrides.TorchFunctionMode):
    """Within it, convolutions and ReLUs are those above; what they do not cover stays PyTorch's."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in RECTIFIERS and len(args) == 1 and not kwargs.get("inplace"):
            return ReLU.apply(args[0])
        if function in CONVOLUTIONS and (given := convolution(*args, **kwargs)):
            return Convolution.apply(*given)
        return function(*args, **kwargs)


def convolution(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """The arguments of `Convolution`; None for padding by name, and for a sample by itself."""
    if isinstance(padding, str) or input.ndim != weight.ndim:
        return None
    sizes = [repeated(n, weight.ndim - 2) for n in (stride, padding, dilation)]
    return input, weight, bias, (*sizes, False, [0] * (weight.ndim - 2), groups)


def repeated(n: int | tuple[int, ...], times: int) -> list[int]:
    sizes = [n] if isinstance(n, int) else list(n)
    return sizes * times if len(sizes) == 1 else sizes
