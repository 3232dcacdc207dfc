"""AdaHessian: Adam with the curvature of each parameter in place of its squared gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class AdaHessian(torch.optim.Optimizer):
    """theta <- theta - lr [m_hat / (sqrt(v_hat) + eps) + weight_decay theta]    (Yao et al. 2021)

    m is the running mean of gradients, v that of D^2, both corrected for their start at zero as in
    Adam. D is Hutchinson's estimate of the Hessian's diagonal, with random signs z:

        D = z * (H z),      E[z_i (H z)_i] = sum_j H_ij E[z_i z_j] = H_ii.

    One product a step, and so the gradients have to come with their graph: `step(gradients)` takes
    them from `torch.autograd.grad(..., create_graph=True)`, takes D, and steps along `.grad`, which
    may have been manipulated meanwhile. The estimate's variance for entry i is
    sum_{j != i} H_ij^2, which a single z leaves as it is. For a convolution D is averaged over each
    kernel's pixels, as published: one kernel's weights meet the same signal at shifted places, so
    their curvatures are alike, and a mean over k^2 of them has less variance. Weights of a linear
    layer share no such signal, and are not averaged.

    Raises ValueError for a negative lr or eps, or betas outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError(
                f"lr, eps and weight_decay must not be negative: {lr}, {eps}, {weight_decay}"
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), not {betas}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.generator = generator or torch.Generator().manual_seed(0)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step along `.grad`; `gradients` with their graph, in the order of the parameters."""
        parameters = [(p, group) for group in self.param_groups for p in group["params"]]
        for (p, group), d in zip(parameters, self.diagonal(gradients), strict=True):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state |= {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
            (b1, b2), state["t"] = group["betas"], state["t"] + 1
            state["m"].lerp_(p.grad, 1 - b1)
            state["v"].lerp_(averaged(d).square(), 1 - b2)
            m_hat = state["m"] / (1 - b1 ** state["t"])
            v_hat = state["v"] / (1 - b2 ** state["t"])
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(group["lr"] * m_hat / (v_hat.sqrt() + group["eps"]))

    def diagonal(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """z * (H z) for one draw of signs z; zero where a parameter is not used."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        signs = [
            (torch.randint(0, 2, p.shape, generator=self.generator) * 2 - 1).to(p)
            for p in parameters
        ]
        pairs = [
            (g, z)
            for g, z in zip(gradients, signs, strict=True)
            if g is not None and g.requires_grad
        ]
        if not pairs:
            return [torch.zeros_like(p) for p in parameters]
        with torch.enable_grad():
            products = torch.autograd.grad(
                [g for g, _ in pairs],
                parameters,
                [z for _, z in pairs],
                allow_unused=True,
                materialize_grads=True,
            )
        return [z * hz for z, hz in zip(signs, products, strict=True)]


def averaged(d: Tensor) -> Tensor:
    """The diagonal of a convolution's kernels (out, in, k, k), averaged over their pixels."""
    return d.mean(dim=(2, 3), keepdim=True).expand_as(d) if d.ndim == 4 else d
