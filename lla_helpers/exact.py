"""Every eigenvalue of a small network's Hessian, in float64: what the estimates are held against.

The rows of the matrix are second derivatives in the unit directions. Sent through the double
backward pass many at a time, they come several times faster than one by one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lla_helpers.density import SpectralDensity
from lla_helpers.hessian import DENSE_LIMIT
from lla_helpers.model_view import ModelView, plain_autograd, same_random_state
from lla_helpers.well_defined import refuse_if_random


def exact_hessian(
    model: nn.Module,
    loss_fn,
    data: tuple[Tensor, Tensor],
    *,
    mode: str = "eval",
    rows: int = 64,
    limit: int = DENSE_LIMIT,
) -> Tensor:
    """H = d^2 L / d theta^2 of the mean loss over the pair `data` as a float64 matrix, (P, P).

    The same as `Hessian(model, loss_fn, data, mode=mode, dtype=torch.float64).dense()`, made
    symmetric to the last bit. In "train" mode the pair is the one batch. `rows` at a time.

    Raises ValueError when P is larger than `limit`, the data are empty or the outputs random
    (dropout), FloatingPointError when the loss or the matrix is not finite.
    """
    x, y = data
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"the loss needs as many targets as samples, not {len(x)} and {len(y)}")
    view = ModelView(model, None, mode, torch.float64)
    if view.size > limit:
        raise ValueError(
            f"a dense matrix of P = {view.size} parameters is more than the limit of {limit}: "
            f"estimate its spectrum with slq instead"
        )
    x, y = (t.to(view.device, torch.float64 if t.is_floating_point() else None) for t in (x, y))
    leaves = list(view.theta.values())
    with plain_autograd(view.device), same_random_state(view.device):
        refuse_if_random(view, x)
        loss = loss_fn(view(view.theta, x), y)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}: there is no Hessian here")
        found = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        gradient = view.flatten(found)
        if not gradient.requires_grad:  # a linear loss: no second derivative
            return gradient.new_zeros(view.size, view.size)
        blocks = []
        for units in torch.eye(view.size, dtype=torch.float64, device=view.device).split(rows):
            block = torch.autograd.grad(
                gradient,
                leaves,
                units,
                retain_graph=True,
                is_grads_batched=True,
                materialize_grads=True,
            )
            blocks.append(torch.cat([b.reshape(len(units), -1) for b in block], dim=1))
    matrix = torch.cat(blocks).detach()
    if not torch.isfinite(matrix).all():
        raise FloatingPointError("the Hessian is not finite: the loss has no second derivative")
    return (matrix + matrix.T) / 2


def exact_density(eigenvalues) -> SpectralDensity:
    """All eigenvalues with weight 1/P each, twice: `criteria` then knows them without an error bar.

    Raises ValueError when there is no eigenvalue, or one that is not finite.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64).reshape(-1))
    if values.size == 0:
        raise ValueError("a spectrum has at least one eigenvalue")
    rows = np.tile(values, (2, 1))
    return SpectralDensity(rows, np.full_like(rows, 1 / values.size), values.size)
