"""Plain minibatch training, the same for the same seed."""

from __future__ import annotations

import difflib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers.model_view import in_mode, same_random_state

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
    """Train in place; the mean training loss of each epoch. `seed` orders the minibatches
    and draws what the model draws (dropout).

    Raises ValueError for an unknown optimizer or an empty data set, FloatingPointError, naming the
    step, when the loss is no longer finite.
    """
    if optimizer not in OPTIMIZERS:
        near = difflib.get_close_matches(str(optimizer).lower(), OPTIMIZERS, n=1, cutoff=0.3)
        raise ValueError(
            f"unknown optimizer {optimizer!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + f" Known: {', '.join(OPTIMIZERS)}"
        )
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"training needs as many labels as samples, not {len(x)} and {len(y)}")
    options = {"momentum": momentum} if optimizer == "sgd" else {}
    steps = OPTIMIZERS[optimizer](model.parameters(), lr=lr, **options)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    history, step = [], 0
    with same_random_state(x.device):  # dropout masks come from `seed`, too
        torch.manual_seed(seed)
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
    with in_mode(model, "eval"):
        return (model(x).argmax(1) == y).double().mean().item()
