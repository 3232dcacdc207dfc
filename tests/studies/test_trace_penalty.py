"""The comparison of trace penalties is fair by construction, and measures what it says."""

from __future__ import annotations

import pytest
import torch

from lla_helpers.data import load_digits
from lla_helpers.models import mlp
from lla_helpers.regularize import TracePenalty, middle, train_by
from studies import trace_penalty as study


def test_every_way_has_the_same_budget_and_its_seeds_are_apart():
    assert {len(grid) for grid in study.GRIDS.values()} == {8}
    assert all(len(set(grid)) == 8 for grid in study.GRIDS.values())
    assert not set(study.TUNING_SEEDS) & set(study.FINAL_SEEDS)
    assert list(study.items()) == list(study.GRIDS)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(study, "EPOCHS", 2)
    monkeypatch.setattr(study, "DROP", 1)
    monkeypatch.setattr(study, "SAMPLES", 60)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_ways_differ_only_in_their_gradient(short, monkeypatch):
    monkeypatch.setattr(study, "TracePenalty", lambda *a, **o: TracePenalty(*a, **o, after=0))
    found = {way: study.trained(way, 0.02, 0.02, 1) for way in study.GRIDS}
    plain = weights(found["plain"][0])
    for way, (model, validation, _) in found.items():
        assert 0 <= validation <= 1
        assert torch.equal(weights(model), plain) == (way == "plain")
    digits, by_hand = load_digits(1, 0.4), mlp((64, 16, 16, 16, 10), seed=1)
    penalty = TracePenalty(0.02, middle(by_hand), after=0, seed=1)
    x, y = digits.x_train[:60], digits.y_train[:60]
    rate = (0.02, 0.002)
    train_by(penalty, by_hand, x, y, epochs=2, lr=lambda e: rate[e], batch_size=20, seed=1)
    assert torch.equal(weights(found["middle"][0]), weights(by_hand))


def test_a_run_that_diverges_counts_as_none(short):
    assert study.trained("plain", 1e20, 0.0, 1)[1] == 0.0


def test_a_final_run_reports_curvature_of_the_whole_and_the_middle(short):
    row = study.final("plain", 0.02, 0.0, 1)
    assert set(row) >= {"seed", "validation", "test", "test_loss", "train_loss", "lambda_max"}
    assert 0 < row["middle_trace"] < row["trace"] and row["lambda_max"] < row["trace"]
