"""Test sets that differ from the training set in one known way, by a known amount."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lla_helpers.predictors import flip_labels

Pair = tuple[Tensor, Tensor]


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Images turned about their centre; what was outside is the nearest pixel of the edge."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return resampled(x, [[c, -s, 0.0], [s, c, 0.0]])


def moved(x: Tensor, pixels: int) -> Tensor:
    """Images moved right by whole pixels; the left edge is repeated."""
    return resampled(x, [[1.0, 0.0, -2.0 * pixels / x.shape[3]], [0.0, 1.0, 0.0]])


def resampled(x: Tensor, matrix: list[list[float]]) -> Tensor:
    theta = torch.tensor(matrix, dtype=x.dtype).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def blurred(x: Tensor, times: int) -> Tensor:
    """The mean over 3 x 3 pixels, so many times; edges are repeated."""
    for _ in range(times):
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return x


def noisy(x: Tensor, sigma: float, seed: int) -> Tensor:
    """Images with normal noise; sigma in units of the data's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    return x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def inverted(x: Tensor) -> Tensor:
    """Ink and paper exchanged: the range of the whole set is turned over."""
    return x.max() + x.min() - x


def covered(x: Tensor, rows: int) -> Tensor:
    """The lowest rows of pixels blank."""
    x = x.clone()
    x[:, :, x.shape[2] - rows :] = x.min()
    return x


def shifted_sets(x: Tensor, y: Tensor, seed: int = 0) -> dict[str, Pair]:
    """Name -> (images, labels): the set itself, then changes of the images, then of the labels."""
    images: dict[str, Callable[[], Tensor]] = {
        "as it is": lambda: x,
        **{f"rotated {a}°": lambda a=a: rotated(x, a) for a in (10, 20, 30, 45, 90)},
        **{f"moved {k} px": lambda k=k: moved(x, k) for k in (1, 2)},
        **{f"noise {s:g}": lambda s=s: noisy(x, s, seed) for s in (0.5, 1.0, 2.0)},
        **{f"blurred {k}x": lambda k=k: blurred(x, k) for k in (1, 2)},
        **{f"contrast {c:g}": lambda c=c: x.mean() + c * (x - x.mean()) for c in (0.5, 0.25)},
        "inverted": lambda: inverted(x),
        "mirrored": lambda: x.flip(3),
        **{f"{k} rows covered": lambda k=k: covered(x, k) for k in (2, 3)},
    }
    labels = {f"labels {s:.0%} wrong": flip_labels(y, s, seed=seed) for s in (0.1, 0.3)}
    return {name: (make(), y) for name, make in images.items()} | {
        name: (x, wrong) for name, wrong in labels.items()
    }
