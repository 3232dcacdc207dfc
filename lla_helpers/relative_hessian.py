"""The Hessian in relative units: curvature for steps measured in the size of the weights.

    N H N,    N = diag(size of the weights that each entry belongs to)

If theta' = D theta is a rescaling with the same loss, H' = D^-1 H D^-1, and the sizes scale along,
N' = D N. So N' H' N' = N H N: eigenvalues and eigenvectors that twins share (the idea of relative
flatness, Petzka et al. 2021, and of adaptive sharpness, Kwon et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lla_helpers.directions import hessian_directions, unknown
from lla_helpers.model_view import ModelView
from lla_helpers.normalisation import ONE_D

GROUPS = ("weight", "filter", "layer")


def sizes(
    model: nn.Module,
    how: str = "filter",
    *,
    one_d: str = "element",
    params: str | Sequence[str] | None = None,
) -> Tensor:
    """The size that belongs to each parameter: the root mean square of its group, (P,).

    how: groups of "weight" (each entry its own, |theta_i|), "filter", or "layer".
    one_d, for tensors with fewer than two dimensions: "element", |theta_i|; "vector", the tensor as
        one group; "keep", size 1; "zero", they do not move.
    Raises ValueError for an unknown name.
    """
    if how not in GROUPS:
        raise ValueError(unknown("group", how, GROUPS))
    if one_d not in ONE_D:
        raise ValueError(unknown("treatment of 1-D tensors", one_d, ONE_D))
    parts = []
    view = ModelView(model, params)
    for p in view.theta.values():
        w = p.detach()
        method = how if w.ndim > 1 else one_d
        if method in ("weight", "element"):
            size = w.abs()
        elif method in ("keep", "zero"):
            size = torch.full_like(w, float(method == "keep"))
        else:
            dims = tuple(range(1, w.ndim)) if method == "filter" else tuple(range(w.ndim))
            size = w.square().mean(dims, keepdim=True).sqrt().expand_as(w)
        parts.append(size)
    return view.flatten(parts)


class RelativeHessian:
    """N H N as an operator, for any H with shape, dtype and @ and a vector of sizes (P,).

    Raises ValueError for sizes of another shape, negative or not finite.
    """

    def __init__(self, H, sizes: Tensor):
        if sizes.shape != (H.shape[0],) or not (torch.isfinite(sizes) & (sizes >= 0)).all():
            raise ValueError(
                f"sizes are {H.shape[0]} finite numbers, none negative: see `sizes(model)`"
            )
        self.H, self.shape, self.dtype = H, H.shape, H.dtype
        self.device = getattr(H, "device", sizes.device)
        self.sizes = sizes.to(self.device, self.dtype)

    def __matmul__(self, v: Tensor) -> Tensor:
        n = self.sizes if v.ndim == 1 else self.sizes[:, None]
        return n * (self.H @ (n * v))

    def directions(self, which="LM", k: int = 2, **options) -> tuple[np.ndarray, Tensor]:
        """Eigenvalues of N H N, and N z for its unit eigenvectors z: axes in parameter space.

        Along N z the loss has the curvature z.N H N z, the eigenvalue.
        """
        values, vectors = hessian_directions(self, which, k, **options)
        return values, self.sizes[:, None] * vectors
