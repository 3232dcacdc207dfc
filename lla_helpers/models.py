"""The small networks that the chapters study, each made from its sizes and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
}


def activation(name: str) -> nn.Module:
    """A fresh activation module. Raises ValueError for an unknown name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def mlp(
    widths: Sequence[int] = (64, 24, 16, 10),
    act: str = "relu",
    *,
    batch_norm: bool = False,
    seed: int = 0,
) -> nn.Sequential:
    """A fully connected network on flattened images; 64-24-16-10 has 2130 parameters."""
    if len(widths) < 2:
        raise ValueError(f"widths names at least input and output, not {list(widths)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for i, (a, b) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(a, b))
            if i < len(widths) - 2:
                layers += [nn.BatchNorm1d(b)] if batch_norm else []
                layers.append(activation(act))
        return nn.Sequential(*layers)


def cnn(
    channels: Sequence[int] = (8, 16),
    hidden: int = 32,
    act: str = "relu",
    *,
    batch_norm: bool = False,
    pool: str = "max",
    side: int = 8,
    in_channels: int = 1,
    classes: int = 10,
    seed: int = 0,
) -> nn.Sequential:
    """3 x 3 convolutions, one 2 x 2 pooling after the last, then two linear layers."""
    pools = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
    if pool not in pools:
        raise ValueError(f"pool must be 'max' or 'avg', not {pool!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for a, b in pairwise([in_channels, *channels]):
            layers.append(nn.Conv2d(a, b, 3, padding=1))
            layers += [nn.BatchNorm2d(b)] if batch_norm else []
            layers.append(activation(act))
        layers += [pools[pool](2), nn.Flatten()]
        features = channels[-1] * (side // 2) ** 2
        layers += [nn.Linear(features, hidden), activation(act), nn.Linear(hidden, classes)]
        return nn.Sequential(*layers)


class Residual(nn.Module):
    """act(x + conv(act(conv(x)))): 3 x 3 convolutions, each followed by batch norm if wanted."""

    def __init__(self, channels: int, act: str, batch_norm: bool):
        super().__init__()

        def convolution() -> list[nn.Module]:
            layer = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
            return [layer, nn.BatchNorm2d(channels)] if batch_norm else [layer]

        self.branch = nn.Sequential(*convolution(), activation(act), *convolution())
        self.act = activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.branch(x))


def resnet(
    channels: int = 8,
    blocks: int = 2,
    act: str = "relu",
    *,
    batch_norm: bool = True,
    in_channels: int = 1,
    classes: int = 10,
    seed: int = 0,
) -> nn.Sequential:
    """A small residual network (He et al. 2016): convolution, blocks, mean over pixels, linear."""
    if blocks < 1:
        raise ValueError(f"a residual network has at least one block, not {blocks}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stem: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=not batch_norm)
        ]
        stem += [nn.BatchNorm2d(channels)] if batch_norm else []
        body = [Residual(channels, act, batch_norm) for _ in range(blocks)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
        return nn.Sequential(*stem, activation(act), *body, *head)
