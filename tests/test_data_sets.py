"""The two made sets, the table of data sets, and that no pixel or typeface is in both parts."""

from __future__ import annotations

import hashlib
import inspect
import math
import shutil

import numpy as np
import pytest
import torch

from lla_helpers import data
from lla_helpers.data import DATA, by_groups, load_digits, load_fonts, load_patches, read_npz
from lla_helpers.datasets import DATASETS, EMBEDDED, load
from lla_helpers.models import mlp
from lla_helpers.pipelines import fitted
from lla_helpers.training import accuracy, train

SHAPES = {"digits": (1437, 360, 1, 8), "fonts": (1200, 300, 1, 8), "patches": (1200, 300, 3, 12)}


@pytest.mark.parametrize("name", SHAPES)
def test_the_embedded_sets_are_what_they_say(name):
    d = load(name)
    n_train, n_test, channels, side = SHAPES[name]
    assert d.x_train.shape == (n_train, channels, side, side)
    assert d.x_test.shape == (n_test, channels, side, side)
    assert d.x_train.dtype == torch.float32 and d.y_train.dtype == torch.int64
    assert sorted(set(d.y_train.tolist())) == sorted(set(d.y_test.tolist())) == list(range(10))
    for channel in range(channels):
        assert abs(d.x_train[:, channel].mean()) < 1e-5
        assert abs(d.x_train[:, channel].std() - 1) < 1e-5
    raw = load(name, pipeline="none", dtype=torch.float64)
    assert raw.x_train.min() == 0 and raw.x_train.max() == 1


@pytest.mark.parametrize("name", ["fonts", "patches"])
def test_their_classes_are_balanced_in_both_parts(name):
    d = load(name, 3)
    assert set(d.y_train.bincount().tolist()) == {120} and set(d.y_test.bincount().tolist()) == {30}
    assert len(set(d.y_test[:60].tolist())) >= 8, "parts come in random order"


@pytest.mark.parametrize("name", SHAPES)
def test_the_seed_decides_the_split_and_nothing_else_does(name):
    state = torch.get_rng_state()
    a, b, c = load(name, 3), load(name, 3), load(name, 4)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    assert not torch.equal(a.x_test, c.x_test)


@pytest.mark.parametrize("name", SHAPES)
def test_files_are_small_and_have_the_checksum_that_the_readme_prints(name):
    content = (DATA / f"{name}.npz").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    assert data.SHA256[f"{name}.npz"] == found
    assert found in (DATA / "README.md").read_text(encoding="utf-8")
    assert len(content) < 400_000


@pytest.mark.parametrize("name", ["fonts", "patches"])
def test_a_damaged_or_missing_file_is_told(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{name}\.npz is not in"):
        load(name, folder=tmp_path)
    shutil.copy(DATA / f"{name}.npz", tmp_path)
    with open(tmp_path / f"{name}.npz", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=rf"{name}\.npz is damaged"):
        load(name, folder=tmp_path)


# No leakage --------------------------------------------------------------------------------------


def test_no_pixel_is_in_two_patches_and_regions_do_not_touch():
    arrays = read_npz("patches.npz")
    side = arrays["images"].shape[-1]
    for label in range(10):
        here = arrays["labels"] == label
        places, regions = arrays["places"][here].astype(int), arrays["groups"][here]
        apart = abs(places[:, None] - places[None]).max(-1)  # the larger of rows and columns
        np.fill_diagonal(apart, side)
        assert apart.min() >= side
        other = regions[:, None] != regions[None]
        assert apart[other].min() >= side + 3
        assert (np.bincount(regions) == 6).all()


def test_no_two_images_are_the_same():
    for name in ("fonts.npz", "patches.npz"):
        images = read_npz(name)["images"].reshape(1500, -1)
        assert len(np.unique(images, axis=0)) == 1500


def origin(images: torch.Tensor, name: str) -> np.ndarray:
    """The group that each image of a part comes from, found by its pixels."""
    arrays = read_npz(name)
    levels = {"fonts.npz": 16, "patches.npz": 63}[name]
    flat = (images.flatten(1) * levels).round().to(torch.uint8).numpy()
    table = {row.tobytes(): i for i, row in enumerate(arrays["images"].reshape(1500, -1))}
    rows = [table[row.tobytes()] for row in flat]
    labels, groups = arrays["labels"][rows].astype(int), arrays["groups"][rows].astype(int)
    return 100 * labels + groups if name == "patches.npz" else groups


@pytest.mark.parametrize("seed", [0, 1, 5])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_typeface_or_region_lies_in_one_part_as_a_whole(seed, share):
    for name, loader in (("fonts.npz", load_fonts), ("patches.npz", load_patches)):
        d = loader(seed, share, pipeline="none", dtype=torch.float64)
        in_train, in_test = (set(origin(x, name).tolist()) for x in (d.x_train, d.x_test))
        assert not in_train & in_test
        assert len(d.y_train) + len(d.y_test) == 1500
        assert abs(len(d.y_test) / 1500 - share) < 0.03  # whole groups: 30 or 25 of them


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, 0.001, 0.999, math.nan, math.inf])
def test_a_share_leaves_both_parts_a_group(share):
    for loader in (load_fonts, load_patches):
        with pytest.raises(ValueError, match=r"test_share must leave both parts some of \d+ gro"):
            loader(test_share=share)


def test_groups_are_drawn_in_each_stratum():
    groups, strata = torch.arange(40) % 10, torch.arange(40) // 20
    train_part, test_part = by_groups(groups, strata, 0.3, 0)
    assert sorted([*train_part.tolist(), *test_part.tolist()]) == list(range(40))
    for stratum in (0, 1):
        assert len(groups[test_part][strata[test_part] == stratum].unique()) == 3


# What they are for -------------------------------------------------------------------------------


def test_typefaces_are_a_shift_of_the_handwritten_digits():
    """Clearly above chance (0.1) and clearly below the network's own test accuracy."""
    digits = load_digits(0)
    own = fitted("standardised", load_digits(0, pipeline="none").x_train)
    fonts = load_fonts(0, pipeline=own)
    net = mlp((64, 16, 10), "tanh")
    train(net, digits.x_train, digits.y_train, epochs=15)
    at_home = accuracy(net, digits.x_test, digits.y_test)
    abroad = accuracy(net, torch.cat([fonts.x_train, fonts.x_test]), torch.cat(fonts[1::2]))
    assert at_home > 0.94
    assert 0.4 < abroad < at_home - 0.15


def test_patches_can_be_learnt_and_leave_room():
    d = load("patches")
    net = mlp((432, 8, 10), "tanh")
    train(net, d.x_train, d.y_train, epochs=15, lr=0.02)
    assert 0.35 < accuracy(net, d.x_test, d.y_test) < 0.85


# The table ---------------------------------------------------------------------------------------


def test_the_table_names_every_set():
    assert set(EMBEDDED) < set(DATASETS)
    assert set(DATASETS) == {
        *EMBEDDED, "mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "image_folder"
    }  # fmt: skip
    for loader in DATASETS.values():
        assert {"seed", "pipeline", "dtype"} <= set(inspect.signature(loader).parameters)


@pytest.mark.parametrize("name, near", [("digit", "digits"), ("Cifar-10", "cifar10"), (3, None)])
def test_an_unknown_set_is_refused_with_what_is_near(name, near):
    with pytest.raises(ValueError, match="unknown data set") as raised:
        load(name)
    assert near is None or f"did you mean {near!r}?" in str(raised.value)
    assert "Known: digits, fonts" in str(raised.value)


def test_options_are_not_swallowed():
    with pytest.raises(TypeError, match="test_shard"):
        load("digits", test_shard=0.1)
    with pytest.raises(ValueError, match="image_folder needs `folder`"):
        load("image_folder")
