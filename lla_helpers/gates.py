"""A piecewise-linear network with its gates held still: the same function nearby, without kinks.

ReLU is a product, relu(z) = s z, with a gate s that is 0 or 1. Where no gate changes, the network
that keeps the gates of one theta is the same function of theta: it has the same loss, gradient and
Hessian there. Beyond the first gate that would change it goes on smoothly, where the network itself
has a kink. Comparing both tells what kinks do, and what curvature does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

WITH_GATES = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh)
KINKED = {"relu", "leaky_relu", "rrelu", "prelu", "relu6", "hardtanh", "hardswish", "hardsigmoid"}
KINKED |= {"threshold", "clamp", "abs", "maximum", "minimum", "max", "amax"}
KINKED |= {f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)}


class Gate(nn.Module):
    """z -> slope z + offset, the piece of `act` on which the recorded input lies, elementwise."""

    def __init__(self, act: nn.Module, z: Tensor):
        super().__init__()
        z = z.detach().clone().requires_grad_()
        with torch.enable_grad():
            a = act(z.clone())  # a module that works in place may have the copy
            (slope,) = torch.autograd.grad(a.sum(), z)
        self.register_buffer("slope", slope)
        self.register_buffer("offset", (a - slope * z).detach())

    def forward(self, z: Tensor) -> Tensor:
        if z.shape[-self.slope.ndim :] != self.slope.shape:
            raise ValueError(
                f"the gates were frozen on {len(self.slope)} samples: pass these samples, and no "
                f"others"
            )
        return self.slope * z + self.offset


class Recorder(nn.Module):
    """An activation that makes its gate from the first input that comes."""

    def __init__(self, act: nn.Module):
        super().__init__()
        self.act, self.gate = act, None

    def forward(self, z: Tensor) -> Tensor:
        if self.gate is not None:
            raise ValueError("an activation module is used twice: give each layer its own")
        self.gate = Gate(self.act, z)
        return self.gate(z)


@torch.no_grad()
def frozen_gates(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy of `model` in eval mode, with its gates on the samples `x` as they are now.

    ReLU, LeakyReLU, ReLU6 and Hardtanh modules have gates. Parameters keep their names and values,
    so that both networks can be compared at any theta; the copy accepts these samples only.

    Raises ValueError when there is no such module, or a kink of another kind (max-pooling, a ReLU
    that is called as a function) would stay.
    """
    frozen = copy.deepcopy(model).eval()
    replace(frozen, WITH_GATES, Recorder)
    frozen(x)
    gates = replace(frozen, (Recorder,), lambda recorder: recorder.gate or nn.Identity())
    with RefuseKinks():
        frozen(x)
    if gates == 0:
        raise ValueError("the model has no ReLU module, so there is no gate to freeze")
    return frozen


def replace(module: nn.Module, kinds: tuple[type, ...], by: Callable) -> int:
    """Put by(child) in the place of every submodule of these kinds; how many there were."""
    count = 0
    for name, child in module._modules.items():  # named_children() skips a module's second place
        if isinstance(child, kinds):
            setattr(module, name, by(child))
            count += 1
        else:
            count += replace(child, kinds, by)
    return count


class RefuseKinks(torch.overrides.TorchFunctionMode):
    """Lets no function with a kink pass."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "").strip("_")
        if name in KINKED:
            raise ValueError(
                f"the model applies {name}, whose kinks cannot be frozen: use ReLU modules and "
                f"average pooling"
            )
        return function(*args, **(kwargs or {}))
