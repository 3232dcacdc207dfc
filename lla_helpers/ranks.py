"""Sums over the processes of a torch.distributed job; alone, every function is the identity."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def over_ranks(tensor: Tensor, how: str = "sum") -> Tensor:
    """The sum (or "max") of a tensor over all ranks; every rank must call it."""
    if several_ranks():
        tensor = tensor.contiguous()
        dist.all_reduce(tensor, dist.ReduceOp.MAX if how == "max" else dist.ReduceOp.SUM)
    return tensor


def refuse_if_weights_differ(tensors: Iterable[Tensor]) -> None:
    """Raise ValueError on every rank when the ranks do not hold the same weights."""
    if several_ranks():
        own = torch.stack([t.detach().double().sum() for t in tensors])
        if not torch.equal(over_ranks(own.clone(), "max"), -over_ranks(-own, "max")):
            raise ValueError(
                "the ranks hold different weights: load one checkpoint, or broadcast the model, "
                "before building the operator"
            )
