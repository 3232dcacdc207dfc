"""The embedded data: what it is, how it is split, and what a damaged file leads to."""

from __future__ import annotations

import hashlib
import math
import shutil

import pytest
import torch

from lla_helpers import data
from lla_helpers.data import DATA, load_digits, read_npz, stratified


def test_digits_are_what_they_say():
    d = load_digits()
    assert d.x_train.shape == (1437, 1, 8, 8) and d.x_test.shape == (360, 1, 8, 8)
    assert d.x_train.dtype == torch.float32 and d.y_train.dtype == torch.int64
    assert load_digits(dtype=torch.float64).x_test.dtype == torch.float64
    assert set(d.y_train.tolist()) == set(range(10))
    assert abs(d.x_train.mean()) < 1e-5 and abs(d.x_train.std() - 1) < 1e-5
    # Standardised by the training part alone: the test part is near that, and not at it.
    assert 1e-6 < abs(d.x_test.mean()) < 0.05


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_both_parts_have_every_class_in_its_share(seed, share):
    d = load_digits(seed, share)
    assert len(d.y_test) == math.ceil(1797 * share) and len(d.y_train) + len(d.y_test) == 1797
    whole = torch.cat([d.y_train, d.y_test]).bincount()
    assert (abs(d.y_test.bincount(minlength=10) - share * whole) <= 1).all()


def test_no_image_is_in_both_parts():
    train, test = stratified(torch.arange(1797) % 10, 0.2, 0)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1797))


def test_parts_are_in_random_order():
    """The first n samples of a part are taken for a sample of it in many a chapter."""
    d = load_digits()
    for labels in (d.y_train, d.y_test):
        assert len(set(labels[:50].tolist())) == 10
        assert (labels[1:] < labels[:-1]).double().mean() > 0.3


def test_the_seed_decides_the_split_and_nothing_else_does():
    state = torch.get_rng_state()
    a, b, c = load_digits(3), load_digits(3), load_digits(4)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    assert not torch.equal(a.y_train, c.y_train)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, 0.9999, math.nan, math.inf])
def test_a_share_leaves_both_parts_a_sample(share):
    with pytest.raises(ValueError, match="test_share must lie between 0 and 1"):
        load_digits(test_share=share)


def test_the_file_has_the_checksum_that_its_readme_prints():
    found = hashlib.sha256((DATA / "digits.npz").read_bytes()).hexdigest()
    assert data.SHA256["digits.npz"] == found
    assert found in (DATA / "README.md").read_text(encoding="utf-8")


def damaged(path, how):
    content = path.read_bytes()
    if how == "one bit":
        content = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    elif how == "truncated":
        content = content[: len(content) // 2]
    path.write_bytes(b"" if how == "empty" else content)


@pytest.mark.parametrize("how", ["one bit", "truncated", "empty"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, how):
    shutil.copy(DATA / "digits.npz", tmp_path)
    damaged(tmp_path / "digits.npz", how)
    with pytest.raises(ValueError, match=r"digits\.npz is damaged.*git checkout") as raised:
        load_digits(folder=tmp_path)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_told_with_its_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"digits.npz is not in {tmp_path.name}.*restore"):
        load_digits(folder=tmp_path)


def test_a_file_with_the_right_checksum_that_cannot_be_read(tmp_path, monkeypatch):
    """Should the checksum ever be that of a broken file: an error, not a pickle."""
    (tmp_path / "digits.npz").write_bytes(b"PK\x03\x04 no archive")
    found = hashlib.sha256(b"PK\x03\x04 no archive").hexdigest()
    monkeypatch.setitem(data.SHA256, "digits.npz", found)
    with pytest.raises(ValueError, match="cannot be read"):
        read_npz("digits.npz", tmp_path)
