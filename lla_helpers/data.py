"""The embedded data: checked by hash, split with a seed, sent through a pipeline."""

from __future__ import annotations

import hashlib
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lla_helpers.pipelines import Pipeline, fitted

DATA = Path(__file__).resolve().parents[1] / "data"

SHA256 = {
    "digits.npz": "78a85852f7f6b2b5d209ab9b246a3f6783ba99bf264099704d8725980b7e0b97",
    "fonts.npz": "2af44321e7218f964a6e160f6b90744ae5aa0e57c035169f9bfa78b42220be52",
    "patches.npz": "94d3c88ec242d2689cc0343057456d5ba74690d9a6d8fa7dcc225099e4a99156",
}


class Split(NamedTuple):
    """Images (n, channels, height, width), float, and labels (n,), int64, for both parts."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def load_digits(
    seed: int = 0,
    test_share: float = 0.2,
    *,
    pipeline: str | Pipeline = "standardised",
    dtype: torch.dtype = torch.float32,
    folder: Path | str = DATA,
) -> Split:
    """The UCI handwritten digits: 1797 images of 8 x 8 pixels in ten classes.

    Split per class (stratified) by `seed`; `pipeline` names the preprocessing, fitted on the
    training part, or is one that was fitted elsewhere. With test_share = 0.2 there are 1437
    training and 360 test images.

    Raises FileNotFoundError or ValueError, in one sentence, for a missing or altered file, or a
    share outside (0, 1). (Alpaydin and Kaynak 1998.)
    """
    arrays = read_npz("digits.npz", folder)
    images = torch.from_numpy(arrays["images"]).to(torch.float64).unsqueeze(1) / 16
    labels = torch.from_numpy(arrays["labels"]).long()
    train, test = stratified(labels, test_share, seed)
    return prepared(images, labels, train, test, pipeline, dtype)


def load_fonts(
    seed: int = 0,
    test_share: float = 0.2,
    *,
    pipeline: str | Pipeline = "standardised",
    dtype: torch.dtype = torch.float32,
    folder: Path | str = DATA,
) -> Split:
    """The classes of the digits from another distribution: 1500 digits set in 30 typefaces.

    8 x 8 pixels on the scale of the handwritten ones. The test part holds whole typefaces, chosen
    by `seed`: six of them (300 images) with test_share = 0.2. To show a digits network these images
    as it saw its own, give it the digits' pipeline:

        own = fitted("standardised", load_digits(seed, pipeline="none").x_train)
        fonts = load_fonts(seed, pipeline=own)

    Raises as `load_digits` does.
    """
    arrays = read_npz("fonts.npz", folder)
    images = torch.from_numpy(arrays["images"]).to(torch.float64).unsqueeze(1) / 16
    labels = torch.from_numpy(arrays["labels"]).long()
    groups = torch.from_numpy(arrays["groups"]).long()
    train, test = by_groups(groups, groups.new_zeros(len(groups)), test_share, seed)
    return prepared(images, labels, train, test, pipeline, dtype)


def load_patches(
    seed: int = 0,
    test_share: float = 0.2,
    *,
    pipeline: str | Pipeline = "standardised",
    dtype: torch.dtype = torch.float32,
    folder: Path | str = DATA,
) -> Split:
    """Colour patches, 1500 of 3 x 12 x 12 pixels; the class is which of ten photographs it is from.

    Each photograph has 25 regions that do not touch, with six patches each. The test part holds
    whole regions, chosen for each photograph by `seed`: five of them, 300 patches in all, with
    test_share = 0.2. No pixel is in two patches.

    Raises as `load_digits` does.
    """
    arrays = read_npz("patches.npz", folder)
    images = torch.from_numpy(arrays["images"]).to(torch.float64) / 63
    labels = torch.from_numpy(arrays["labels"]).long()
    groups = torch.from_numpy(arrays["groups"]).long()
    train, test = by_groups(groups, labels, test_share, seed)
    return prepared(images, labels, train, test, pipeline, dtype)


def prepared(
    images: Tensor,
    labels: Tensor,
    train: Tensor,
    test: Tensor,
    pipeline: str | Pipeline,
    dtype: torch.dtype,
) -> Split:
    """Cut images, pixels between 0 and 1, into both parts and send them through the pipeline."""
    made = fitted(pipeline, images[train]) if isinstance(pipeline, str) else pipeline
    return Split(
        made(images[train]).to(dtype), labels[train], made(images[test]).to(dtype), labels[test]
    )


def by_groups(
    groups: Tensor, strata: Tensor, test_share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Indices of both parts where a group (typeface, region) lies in one of them as a whole.

    In each stratum the same share of its groups, drawn by `seed`, is for testing.
    """
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(groups), dtype=torch.bool)
    for stratum in strata.unique():
        here = strata == stratum
        members = groups[here].unique()
        n_test = round(len(members) * test_share) if 0 < test_share < 1 else 0
        if not 0 < n_test < len(members):
            raise ValueError(
                f"test_share must leave both parts some of {len(members)} groups, "
                f"not {test_share!r}"
            )
        drawn = members[torch.randperm(len(members), generator=generator)[:n_test]]
        in_test |= here & torch.isin(groups, drawn)
    shuffled = torch.randperm(len(groups), generator=generator)
    return shuffled[~in_test[shuffled]], shuffled[in_test[shuffled]]


def stratified(labels: Tensor, test_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a training and a test part, each with the classes in equal shares.

    The indices, shuffled within their class and laid end to end, are cut at equal strides. Both
    parts come back in random order, so that the first n samples of one are a fair sample of it.
    """
    n = len(labels)
    if not 0 < test_share < 1 or math.ceil(n * test_share) >= n:
        raise ValueError(
            f"test_share must lie between 0 and 1 and leave both parts a sample, not {test_share!r}"
        )
    n_test = math.ceil(n * test_share)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(n, generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    place = torch.arange(n)
    in_test = torch.zeros(n, dtype=torch.bool)
    in_test[by_class] = (place + 1) * n_test // n > place * n_test // n
    return shuffled[~in_test[shuffled]], shuffled[in_test[shuffled]]


def read_npz(name: str, folder: Path | str = DATA) -> dict[str, np.ndarray]:
    """The arrays of a shipped file, after its checksum, without pickle."""
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"the data file {name} is not in {Path(folder).name}/: restore it with "
            f"`git checkout -- data/{name}`"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[name]:
        raise ValueError(
            f"the data file {name} is damaged: its checksum is {found[:12]}..., not "
            f"{SHA256[name][:12]}...; restore it with `git checkout -- data/{name}`"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"the data file {name} cannot be read: {error}") from error
