"""The stored bounds are those that their parts give, and they order the posteriors the same way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lla_helpers.pac_bayes import DELTA, kl_inverse
from studies.pac_bayes import POSTERIORS, RATES, STEPS, items

STORED = Path(__file__).resolve().parents[2] / "data" / "results" / "pac_bayes.json"


def test_stored_bounds_are_whole_and_follow_from_their_parts():
    rows = json.loads(STORED.read_text())["rows"]
    assert [row["key"] for row in rows] == list(items())
    for row in rows:
        assert row["bound"] == pytest.approx(kl_inverse(row["error bound"], row["excess"]))
        assert row["sampled error"] < row["error bound"] < row["bound"] < 1
        assert row["test error of Q"] < row["bound"]
        assert row["confidence"] > 1 - DELTA - 0.01
        assert row["steps"] == STEPS


def test_on_every_seed_the_best_kronecker_bound_is_below_a_half_and_the_best_diagonal_one():
    rows = json.loads(STORED.read_text())["rows"]
    for seed in {row["seed"] for row in rows}:
        best = {
            which: min(r["bound"] for r in rows if r["posterior"] == which and r["seed"] == seed)
            for which in POSTERIORS
        }
        assert best["Kronecker, fixed"] < min(0.5, best["diagonal"])
    assert len(rows) == 5 * len(POSTERIORS) * len(RATES)
