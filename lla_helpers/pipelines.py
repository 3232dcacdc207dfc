"""Preprocessing: what happens to pixels before a network sees them, fitted on the training part.

A pipeline is a function of images (n, channels, height, width), pixels between 0 and 1. What it
knows of the data it learnt from the training part; the test part only goes through it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Pipeline = Callable[[Tensor], Tensor]


def unchanged(x_train: Tensor) -> Pipeline:
    """Pixels as they are, between 0 and 1."""
    return lambda x: x


def standardised(x_train: Tensor) -> Pipeline:
    """(x - mean) / std of each channel, over all training images and pixels."""
    channels = range(x_train.shape[1])
    mean = torch.stack([x_train[:, c].mean() for c in channels]).reshape(-1, 1, 1)
    std = torch.stack([x_train[:, c].std() for c in channels]).reshape(-1, 1, 1)
    if not (std > 0).all():
        raise ValueError("a channel is constant over the training images: nothing to standardise")
    return lambda x: (x - mean.to(x.dtype)) / std.to(x.dtype)


def whitened(x_train: Tensor, floor: float = 0.1) -> Pipeline:
    """ZCA: U (S + floor tr(S)/D)^(-1/2) U^T (x - mean), with U S U^T the covariance of D pixels.

    Directions of variance far above the floor come out with variance one and uncorrelated; those
    far below it (pixels that never change, noise) are not blown up. (Bell and Sejnowski 1997.)
    """
    flat = x_train.flatten(1).double()
    mean = flat.mean(0)
    variance, directions = torch.linalg.eigh(torch.atleast_2d(torch.cov(flat.T)))
    if not variance.sum() > 0:
        raise ValueError("the training images are all the same: nothing to whiten")
    gain = (variance.clamp(min=0) + floor * variance.mean()).rsqrt()
    zca = (directions * gain) @ directions.T
    return lambda x: ((x.flatten(1).double() - mean) @ zca).reshape(x.shape).to(x.dtype)


def per_image(x_train: Tensor) -> Pipeline:
    """Each image by itself: less its mean, over its standard deviation; a blank one becomes 0."""

    def centred(x: Tensor) -> Tensor:
        x = x - x.mean((1, 2, 3), keepdim=True)
        size = x.std((1, 2, 3), keepdim=True, correction=0)
        # Below 1e-4 the pixels, which are multiples of 1/63 at the finest, differ by rounding only.
        return torch.where(size > 1e-4, x / size.clamp(min=1e-4), torch.zeros_like(x))

    return centred


PIPELINES = {
    "none": unchanged,
    "standardised": standardised,
    "whitened": whitened,
    "per_image": per_image,
}


def known(kind: str, name: str, table: Mapping) -> None:
    """Refuse a name that is not in the table, saying what is near. Raises ValueError."""
    if name not in table:
        near = difflib.get_close_matches(str(name).lower(), table, n=1, cutoff=0.4)
        raise ValueError(
            f"unknown {kind} {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + f" Known: {', '.join(table)}"
        )


def fitted(name: str, x_train: Tensor) -> Pipeline:
    """The pipeline `name`, fitted on training images with pixels between 0 and 1.

    Raises ValueError for an unknown name, for no images, pixels that are not finite, or images
    that leave nothing to fit.
    """
    known("pipeline", name, PIPELINES)
    if x_train.ndim != 4 or len(x_train) < 2:
        raise ValueError(
            "a pipeline is fitted on two or more images (n, channels, height, width), not "
            f"{tuple(x_train.shape)}"
        )
    if not torch.isfinite(x_train).all():
        raise ValueError("the training images hold numbers that are not finite")
    return PIPELINES[name](x_train)
