"""The small training runs whose spectra the book sorts into types, one recipe for all of them.

One network for each embedded data set, one learning rate for each optimizer, one way to take the
spectrum. The rates were chosen on seeds from 100 on, for a low training loss; by then the spectra
of those seeds had been seen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers.density import SpectralDensity, slq
from lla_helpers.hessian import Hessian
from lla_helpers.model_view import same_random_state
from lla_helpers.models import activation, mlp
from lla_helpers.training import train

RATES = {
    "sgd": 0.3,
    "momentum": 0.03,
    "nesterov": 0.03,
    "adam": 0.01,
    "adamw": 0.01,
    "rmsprop": 0.005,
    "adagrad": 0.1,
    "adahessian": 0.15,
}


def network(dataset: str = "digits", act: str = "tanh", seed: int = 0) -> nn.Sequential:
    """64-16-10 for 8 x 8 pixels in gray, 1210 parameters; `patch_cnn` for the colour patches."""
    return patch_cnn(act, seed) if dataset == "patches" else mlp((64, 16, 10), act, seed=seed)


def patch_cnn(act: str = "tanh", seed: int = 0) -> nn.Sequential:
    """Eight filters over 4 x 4 squares that do not overlap, then 72-12-10: 1398 parameters."""
    with same_random_state(torch.device("cpu")):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4),
            activation(act),
            nn.Flatten(),
            nn.Linear(72, 12),
            activation(act),
            nn.Linear(12, 10),
        )


def fit(
    model: nn.Module, x: Tensor, y: Tensor, optimizer: str = "momentum", **options
) -> list[float]:
    """`train` with the optimizer's rate, and with AdamW's weight decay; the loss of each epoch."""
    decay = 0.01 if optimizer == "adamw" else 0.0
    usual = {"lr": RATES[optimizer], "weight_decay": decay, "batch_size": 32}
    return train(model, x, y, optimizer=optimizer, **{**usual, **options})


def spectrum(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 16,
    probes: int = 4,
    deflate: int = 6,
    seed: int = 0,
) -> SpectralDensity:
    """SLQ on the Hessian of the mean cross-entropy over (x, y), batch norm in eval mode."""
    return slq(Hessian(model, F.cross_entropy, (x, y)), steps, probes, seed=seed, deflate=deflate)
