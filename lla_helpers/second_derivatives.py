"""Linear layers, convolutions and ReLU, with the gradients of their gradients by the shortest way.

Double backward walks each layer four times: its output, its gradient, and both of those backwards.
PyTorch knows a gradient of every gradient, but where it is rarely asked for one it may take the
long way round: it differentiates the gradient by a convolution's weights as a convolution with an
image-sized kernel, gives a ReLU zeros to add to what comes back, as large as the layer, and adds
up in separate passes what a matrix product could have added to its result. The formulas here use
the same kernels as training does, and write over what is theirs.

With y = x * w + b, g = dL/dy, and its gradients gx = g * w, gw = x * g, gb = sum of g (* stands for
whichever product of the two fits), the derivative of <gx, vx> + <gw, vw> + <gb, vb> is

    by g:  vx * w + x * vw + vb        by x:  g * vw        by w:  vx * g

They repay themselves unless layers are tiny: a walk through those is mostly its starting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import Function

aten = torch.ops.aten
CONVOLUTIONS = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
RECTIFIERS = (nn.functional.relu, torch.relu, Tensor.relu)


@dataclass(frozen=True)
class Product:
    """A product of x and w, linear in each; sums of it grow `in_place` unless vectors are batched.

    Sums are given to `out`, where a counter of operations sees them, too.
    """

    in_place: bool

    def over(self, total: Tensor) -> Tensor | None:
        return total if self.in_place else None

    def gated(self, g: Tensor, y: Tensor) -> Tensor:
        if self.in_place:
            return aten.threshold_backward.grad_input(g, y, 0, grad_input=g)
        return aten.threshold_backward(g, y, 0)


class Matrix(Product):
    """x w^T of a linear layer: x is (N, inputs), w is (outputs, inputs)."""

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, w, b)

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needed) -> list[Tensor | None]:
        to_x, to_w, to_b = needed
        return [g @ w if to_x else None, g.T @ x if to_w else None, g.sum(0) if to_b else None]

    def add(self, total: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.addmm(total, x, w.T, out=self.over(total))

    def add_by_x(self, total: Tensor, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.addmm(total, g, w, out=self.over(total))

    def add_by_w(self, total: Tensor, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.addmm(total, g.T, x, out=self.over(total))


@dataclass(frozen=True)
class Convolution(Product):
    """x * w; `how` is stride, padding, dilation, transposed, output padding, groups."""

    how: tuple

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return aten.convolution(x, w, b, *self.how)

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needed) -> list[Tensor | None]:
        return [*aten.convolution_backward(g, x, w, [len(w)], *self.how, list(needed))]

    def add(self, total: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.add(total, self(x, w), out=self.over(total))

    def add_by_x(self, total: Tensor, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.add(total, self.gradients(g, x, w, BY_X)[0], out=self.over(total))

    def add_by_w(self, total: Tensor, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.add(total, self.gradients(g, x, w, BY_W)[1], out=self.over(total))


BY_X, BY_W = (True, False, False), (False, True, False)


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


class Layer(Function):
    """y = x * w + b, for a product `by` that is linear in x and in w; then max(y, 0), if `y` is it.

    y holds what came out, for a layer whose ReLU is known only after it was evaluated.

    A walk of the gradient's graph comes here last, when it already was at the layer's gradient.
    That owes the layer the terms g * vw by x and vx * g by w, and hands over g, vx and vw instead,
    as if they were the derivatives by three outputs more, all zero: so the terms are added as they
    are made. Factors of two gradients would mix, so a second gradient is an error.
    """

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, b: Tensor | None, by, y: Tensor | None = None) -> tuple:
        out = by(x, w, b) if y is None else y
        owed = [out.new_zeros(()).expand_as(t) for t in (out, x, w)]
        ctx.save_for_backward(x, w, y, *owed)
        ctx.by, ctx.has_gradient = by, False
        ctx.set_materialize_grads(False)
        return out, *owed

    @staticmethod
    def backward(ctx, g: Tensor | None, owed_g, vx: Tensor | None, vw: Tensor | None) -> tuple:
        x, w, y, *owed = ctx.saved_tensors
        by, needed = ctx.by, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            if ctx.has_gradient:
                raise RuntimeError("a second gradient of one pass, to be differentiated again")
            ctx.has_gradient = True
            # Detached: what it owes to x and w reaches them through here.
            factors = g, x.detach(), w.detach()
            return *LayerGradient.apply(*factors, y, by, needed, *owed), None, None
        found = [None] * 3
        if g is not None:
            g = g if y is None else aten.threshold_backward(g, y, 0)
            found = by.gradients(g, x, w, needed)
        if needed[0] and vw is not None:
            found[0] = by.add_by_x(zero_if_none(found[0], x), owed_g, x, vw)
        if needed[1] and vx is not None:
            found[1] = by.add_by_w(zero_if_none(found[1], w), owed_g, vx, w)
        return *found, None, None


class LayerGradient(Function):
    """(dL/dx, dL/dw, dL/db) from g = dL/dy, those that are needed: bilinear in g and (w, x, 1)."""

    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, w: Tensor, y: Tensor | None, by, needed, *owed) -> tuple:
        g = g if y is None else aten.threshold_backward(g, y, 0)
        ctx.save_for_backward(g, x, w, y)
        ctx.by = by
        ctx.set_materialize_grads(False)
        return tuple(by.gradients(g, x, w, needed))

    @staticmethod
    def backward(ctx, vx: Tensor | None, vw: Tensor | None, vb: Tensor | None) -> tuple:
        if torch.is_grad_enabled():
            raise RuntimeError("layers that are made for second derivatives have no third one")
        g, x, w, y = ctx.saved_tensors
        by, to_g = ctx.by, None
        if ctx.needs_input_grad[0]:
            if vw is not None:
                to_g = by(x, vw, vb)
            elif vb is not None:
                to_g = torch.zeros_like(g) + vb.reshape(-1, *[1] * (g.ndim - 2))
            if vx is not None:
                to_g = by(vx, w) if to_g is None else by.add(to_g, vx, w)
            if y is not None and to_g is not None:
                to_g = by.gated(to_g, y)
        return to_g, None, None, None, None, None, g, vx, vw


def zero_if_none(tensor: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tensor is None else tensor


OURS = (ReLU, Layer, LayerGradient)


class ShortestWay(torch.overrides.TorchFunctionMode):
    """Within it, layers and ReLUs are those above; what they do not cover stays PyTorch's.

    in_place: sums may be written over. Not where several vectors share a walk.
    """

    def __init__(self, in_place: bool = True):
        super().__init__()
        self.in_place = in_place
        self.before: tuple = (None, (), ())  # the layer before: output, arguments, their states

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in RECTIFIERS and len(args) == 1 and not kwargs.get("inplace"):
            return self.rectified(args[0])
        given = None
        if function in CONVOLUTIONS:
            given = convolution(self.in_place, *args, **kwargs)
        elif function is nn.functional.linear:
            given = linear(self.in_place, *args, **kwargs)
        if given is None or not given[1].requires_grad:  # PyTorch's way is long only by the weights
            return function(*args, **kwargs)
        output = Layer.apply(*given)[0]
        self.before = output, given, states(output, *given[:3])
        return output

    def rectified(self, x: Tensor) -> Tensor:
        """A ReLU that follows a layer is one with it, unless somebody put a hand in between."""
        output, given, before = self.before
        untouched = x is output and x.grad_fn is not None and not x._backward_hooks
        if untouched and states(x, *given[:3]) == before:
            return Layer.apply(*given, x.detach().clamp_min(0))[0]
        return ReLU.apply(x)


def states(*tensors: Tensor | None) -> list:
    """What changes when a tensor is written to, or is made to come from elsewhere."""
    return [(t._version, t.grad_fn, t.requires_grad) for t in tensors if t is not None]


def linear(in_place, input, weight, bias=None):
    """The arguments of `Layer`; None where the samples have more than one dimension."""
    if not input.ndim == weight.ndim == 2 or weight.is_complex():
        return None
    return input, weight, bias, Matrix(in_place)


def convolution(in_place, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """The arguments of `Layer`; None for padding by name, and for a sample by itself."""
    if isinstance(padding, str) or input.ndim != weight.ndim or weight.is_complex():
        return None
    sizes = [repeated(n, weight.ndim - 2) for n in (stride, padding, dilation)]
    how = (*sizes, False, [0] * (weight.ndim - 2), groups)
    return input, weight, bias, Convolution(in_place, how)


def repeated(n: int | tuple[int, ...], times: int) -> list[int]:
    sizes = [n] if isinstance(n, int) else list(n)
    return sizes * times if len(sizes) == 1 else sizes
