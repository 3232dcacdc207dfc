"""Plain minibatch training, the same for the same seed."""

from __future__ import annotations

import difflib
from collections.abc import Callable

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
    lr: float | Callable[[int], float] = 0.1,
    batch_size: int = 64,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
    loss_fn=F.cross_entropy,
    on_epoch: Callable[[int], None] | None = None,
) -> list[float]:
    """Train in place; the mean training loss of each epoch. `seed` orders the minibatches
    and draws what the model draws (dropout).

    lr: the learning rate, or a function of the epoch (0, 1, ...) that gives it.
    on_epoch: called with the number of epochs done, 0 before the first; what it does to the mode of
        the model or to the random state is undone.

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
    rate = lr if callable(lr) else lambda epoch: lr
    options = {"momentum": momentum} if optimizer == "sgd" else {}
    steps = OPTIMIZERS[optimizer](
        model.parameters(), lr=rate(0), weight_decay=weight_decay, **options
    )
    generator = torch.Generator().manual_seed(seed)
    history, step = [], 0

    def tell(done: int) -> None:
        if on_epoch is not None:
            with same_random_state(x.device):
                on_epoch(done)
            model.train()

    model.train()
    with same_random_state(x.device):  # dropout masks come from `seed`, too
        torch.manual_seed(seed)
        tell(0)
        for epoch in range(epochs):
            total = 0.0
            for group in steps.param_groups:
                group["lr"] = rate(epoch)
            for batch in torch.randperm(len(x), generator=generator).split(batch_size):
                loss = loss_fn(model(x[batch]), y[batch])
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss.item()} at step {step}: "
                        f"try a smaller lr than {rate(epoch):g}"
                    )
                steps.zero_grad()
                loss.backward()
                steps.step()
                total += loss.item() * len(batch)
                step += 1
            history.append(total / len(x))
            tell(epoch + 1)
    model.eval()
    return history


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose largest output is their label, in eval mode."""
    with in_mode(model, "eval"):
        return (model(x).argmax(1) == y).double().mean().item()
