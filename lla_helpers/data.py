"""The embedded data: checked by hash, standardised, split with a seed."""

from __future__ import annotations

import hashlib
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).resolve().parents[1] / "data"

SHA256 = {"digits.npz": "78a85852f7f6b2b5d209ab9b246a3f6783ba99bf264099704d8725980b7e0b97"}


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
    dtype: torch.dtype = torch.float32,
    folder: Path | str = DATA,
) -> Split:
    """The UCI handwritten digits: 1797 images of 8 x 8 pixels in ten classes.

    Split per class (stratified) by `seed`; standardised by the training part's mean and standard
    deviation over all pixels. With test_share = 0.2 there are 1437 training and 360 test images.

    Raises FileNotFoundError or ValueError, in one sentence, for a missing or altered file, or a
    share outside (0, 1). (Alpaydin and Kaynak 1998.)
    """
    arrays = read_npz("digits.npz", folder)
    images = torch.from_numpy(arrays["images"]).to(torch.float64).unsqueeze(1)
    labels = torch.from_numpy(arrays["labels"]).long()
    train, test = stratified(labels, test_share, seed)
    mean, std = images[train].mean(), images[train].std()
    images = ((images - mean) / std).to(dtype)
    return Split(images[train], labels[train], images[test], labels[test])


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
