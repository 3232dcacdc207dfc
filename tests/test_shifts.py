"""Shifted test sets: what was changed, and nothing else."""

from __future__ import annotations

import pytest
import torch

from lla_helpers.shifts import blurred, covered, inverted, moved, noisy, rotated, shifted_sets


def images(n=6):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_quarter_turns_and_whole_pixels_are_exact():
    x = images()
    assert torch.allclose(rotated(x, 90), x.rot90(1, (2, 3)), atol=1e-5) or torch.allclose(
        rotated(x, 90), x.rot90(-1, (2, 3)), atol=1e-5
    )
    assert torch.allclose(rotated(x, 0), x, atol=1e-5)
    right = moved(x, 2)
    assert torch.allclose(right[..., 2:], x[..., :-2], atol=1e-5)
    assert torch.allclose(right[..., 0], x[..., 0], atol=1e-5)


def test_the_others_by_what_they_keep():
    x = images()
    assert torch.allclose(blurred(x, 1)[0, 0, 3, 4], x[0, 0, 2:5, 3:6].mean(), atol=1e-6)
    assert torch.allclose(inverted(inverted(x)), x, atol=1e-6)
    assert inverted(x).max() == pytest.approx(x.max()) and inverted(x).argmin() == x.argmax()
    low = covered(x, 3)
    assert (low[:, :, 5:] == x.min()).all() and torch.equal(low[:, :, :5], x[:, :, :5])
    assert torch.equal(noisy(x, 0.5, 1), noisy(x, 0.5, 1))
    assert not torch.equal(noisy(x, 0.5, 1), noisy(x, 0.5, 2))
    assert (noisy(x, 2.0, 1) - x).std() == pytest.approx(2.0, rel=0.15)  # 384 draws: 4 s.e.


def test_sets_have_names_and_leave_the_original_alone():
    x, y = images(20), torch.arange(20) % 10
    before = x.clone()
    sets = shifted_sets(x, y, seed=0)
    assert len(sets) == 21 and torch.equal(x, before)
    assert all(a.shape == x.shape and len(b) == 20 for a, b in sets.values())
    assert torch.equal(sets["as it is"][0], x)
    assert (sets["labels 10% wrong"][1] != y).sum() == 2
    # Each set differs from each other one.
    everything = [torch.cat([a.flatten(), b.float()]) for a, b in sets.values()]
    for i, a in enumerate(everything):
        assert not any(torch.equal(a, b) for b in everything[:i])
