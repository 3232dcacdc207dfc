"""The 100 networks of the agreement study: drawn the same every time, measured, and stored."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lla_helpers.data import DATA
from studies import type_agreement as study

STORED = json.loads((DATA / "results" / "type_agreement.json").read_text())["rows"]


def test_a_number_always_draws_the_same_network():
    assert len(study.items()) == 100
    assert study.drawn(7) == study.drawn(7) != study.drawn(8)
    for row in STORED:
        drawn = study.drawn(row["number"])
        assert {key: row[key] for key in drawn} == drawn


def test_the_draw_covers_what_it_says():
    rows = [study.drawn(number) for number in range(100)]
    assert {r["act"] for r in rows} == {"relu", "leaky_relu", "tanh", "gelu", "softplus"}
    assert {r["optimizer"] for r in rows} == set(study.RATES)
    assert {r["kind"] for r in rows} == {"mlp", "cnn"} and {r["epochs"] for r in rows} >= {0, 80}
    assert all(r["mode"] == "eval" or r["batch_norm"] for r in rows)


def test_replaced_labels_are_other_labels():
    y = torch.arange(100) % 10
    for share, wrong in ((0.0, 0), (0.25, 25), (1.0, 100)):
        other = study.replaced_labels(y, share, seed=0)
        assert int((other != y).sum()) == wrong and set(other.tolist()) <= set(range(10))
    assert torch.equal(y, torch.arange(100) % 10)


def test_all_are_stored_with_what_decides():
    assert [row["number"] for row in STORED] == list(range(100))
    for row in STORED:
        assert row["exact"]["nu_se"] == 0 and 0 <= row["exact"]["nu"] <= 1
        # Four probes give nu to 0.03 (two s.e. to 0.1); further off would be another spectrum.
        for setting in study.SETTINGS:
            assert abs(row[setting]["nu"] - row["exact"]["nu"]) < 0.15
            assert row[setting]["rank"] == pytest.approx(row["exact"]["rank"], rel=0.6)


def test_at_least_95_of_100_agree_and_no_sign_is_mistaken():
    for setting in study.SETTINGS:
        assert sum(study.agrees(row, setting) for row in STORED) >= 95
        for row in STORED:
            assert {row[setting]["type"], row["exact"]["type"]} != {"MP", "MN"}


def test_a_wrong_label_never_agrees_and_an_undetermined_one_only_near_a_threshold():
    def row(exact: float, label: str, found: str) -> dict:
        return {
            "exact": {"type": label, "nu": exact},
            "plain": {"type": found, "nu_se": 0.02},
        }

    assert study.agrees(row(0.1, "MP", "MP"), "plain")
    assert study.agrees(row(0.22, "MP", "undetermined"), "plain")
    assert not study.agrees(row(0.2, "MP", "undetermined"), "plain")
    assert not study.agrees(row(0.26, "undetermined", "MP"), "plain")
    assert not study.agrees(row(0.51, "MN", "MP"), "plain")


def test_one_of_them_comes_out_as_stored():
    """The cheapest: an untrained network, so that no rounding has grown through training."""
    row = min((r for r in STORED if r["epochs"] == 0 and r["kind"] == "mlp"),
              key=lambda r: r["parameters"])  # fmt: skip
    again = study.measure(row["number"])
    for setting in ("exact", *study.SETTINGS):
        assert again[setting]["type"] == row[setting]["type"]
        assert math.isclose(again[setting]["nu"], row[setting]["nu"], abs_tol=1e-3)
