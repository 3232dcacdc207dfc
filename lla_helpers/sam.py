"""Sharpness-aware minimisation: the gradient at the worst point near by.

    g = dL/d theta at theta      e = rho g / |g|      the step uses dL/d theta at theta + e

To first order in rho this descends L + rho |g|, the largest loss within a distance rho.
(Foret, Kleiner, Mobahi and Neyshabur 2021.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SharpnessAware:
    """Fills `.grad` with the gradient at theta + rho g/|g|; returns the loss at theta.

    Two gradients a step. The weights come back exactly. Where g vanishes there is no direction, and
    its own gradient is used. Raises ValueError for a rho that is negative or no number.
    """

    rho: float
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def __post_init__(self) -> None:
        if not (isinstance(self.rho, (int, float)) and 0 <= self.rho < math.inf):
            raise ValueError(f"rho, a distance, must be a number, 0 or more, not {self.rho!r}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, epoch: int) -> Tensor:
        weights = [p for p in model.parameters() if p.requires_grad]
        loss = self.loss_fn(model(x), y)
        gradient = torch.autograd.grad(loss, weights, materialize_grads=True)
        norm = torch.sqrt(sum((g**2).sum() for g in gradient))
        before = [p.detach().clone() for p in weights]
        with torch.no_grad():
            for p, g in zip(weights, gradient, strict=True):
                p.add_(g * torch.where(norm > 0, self.rho / norm, 0.0))
        self.loss_fn(model(x), y).backward()
        with torch.no_grad():
            for p, old in zip(weights, before, strict=True):
                p.copy_(old)
        return loss.detach()
