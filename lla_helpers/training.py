"""Plain minibatch training, the same for the same seed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int = 20,
    lr: float = 0.1,
    batch_size: int = 64,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    seed: int = 0,
    loss_fn=F.cross_entropy,
) -> list[float]:
    """Train in place; the mean training loss of each epoch. `seed` orders the minibatches.

    Raises ValueError for an unknown optimizer or an empty data set, FloatingPointError, naming the
    step, when the loss is no longer finite.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"training needs as many labels as samples, not {len(x)} and {len(y)}")
    options = {"momentum": momentum} if optimizer == "sgd" else {}
    steps = OPTIMIZERS[optimizer](model.parameters(), lr=lr, **options)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    history, step = [], 0
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(x), generator=generator).split(batch_size):
            loss = loss_fn(model(x[batch]), y[batch])
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step}: try a smaller lr than {lr:g}"
                )
            steps.zero_grad()
            loss.backward()
            steps.step()
            total += loss.item() * len(batch)
            step += 1
        history.append(total / len(x))
    model.eval()
    return history


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose largest output is their label, in eval mode."""
    before = model.training
    model.eval()
    share = (model(x).argmax(1) == y).double().mean().item()
    model.train(before)
    return share
