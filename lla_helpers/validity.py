"""Is an operator a symmetric matrix at all? Two numbers from three products, and a reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Validity:
    """What `check` found.

    asymmetry: |u.Av - v.Au| / sqrt(|Av|^2 + |Au|^2) for standard normal u and v. The antisymmetric
        part of A gives a ratio of the order of its share of A's Frobenius norm.
    nonlinearity: |A(100 v) - 100 Av| / |100 Av|.
    gradient_error: relative difference between the gradient and a central difference of the loss;
        only a Hessian knows its loss, for any other operator it is 0.
    notes: hooks and custom autograd functions that were found, one sentence each. Alone they are
        no fault: the numbers decide.
    precision: eps of the operator's dtype. Rounding alone makes an honest float32 operator
        asymmetric by up to about 100 eps (a CNN with batch norm in "train" mode).
    product_error: relative difference between H v and a central difference of the gradient; taken
        where `notes` name something, else 0.
    """

    asymmetry: float
    nonlinearity: float
    gradient_error: float = 0.0
    notes: tuple[str, ...] = ()
    precision: float = 0.0
    product_error: float = 0.0

    def faults(self, tolerance: float = 1e-6) -> tuple[str, ...]:
        """Why the operator is no Hessian to within `tolerance`; empty if nothing speaks against it.

        Symmetry and linearity are held to `tolerance` or 1000 eps, whichever is larger: in float32
        that is 1e-4, and a tampered operator is off by 1e-2 and more; in half precision to 0.05,
        since 1000 eps would forgive everything. Gradient and product are held to the square root of
        `tolerance`: that is what a central difference across a few kinks can tell.
        """
        found = []
        rounding = max(tolerance, min(1000 * self.precision, 0.05))
        if not self.asymmetry <= rounding:
            found.append(f"not symmetric: relative asymmetry {self.asymmetry:.1e}")
        if not self.nonlinearity <= rounding:
            found.append(f"not linear: A(100 v) and 100 Av differ by {self.nonlinearity:.1e}")
        if self.gradient_error > tolerance**0.5:
            found.append(
                f"the gradient is not that of the loss: relative error {self.gradient_error:.1e}"
            )
        if self.product_error > tolerance**0.5:
            found.append(
                f"H v is not the derivative of the gradient: off by {self.product_error:.1e} of H v"
            )
        return (*found, *self.notes) if found else ()


def check_operator(op, seed: int = 0) -> Validity:
    """Measure asymmetry and non-linearity of any operator with `shape`, `dtype` and `@`.

    Inner products are taken in float64. An operator whose products vanish is symmetric and linear.
    """
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(2, op.shape[0], generator=generator, dtype=torch.float64)
    device = getattr(op, "device", "cpu")

    def apply(vector):
        return (op @ vector.to(device, op.dtype)).double().cpu()

    # Vectors as the operator sees them: rounding them to its dtype is not its asymmetry.
    u, v = u.to(op.dtype).double(), v.to(op.dtype).double()
    au, av, av100 = apply(u), apply(v), apply(100 * v)
    precision = torch.finfo(op.dtype).eps
    scale = math.hypot(au.norm().item(), av.norm().item())
    if scale == 0.0:
        return Validity(0.0, 0.0, precision=precision)
    asymmetry = abs((u @ av).item() - (v @ au).item()) / scale
    difference = (av100 - 100 * av).norm().item()
    nonlinearity = difference / (100 * av).norm().item() if difference else 0.0
    return Validity(asymmetry, nonlinearity, precision=precision)
