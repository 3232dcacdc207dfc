"""The stored twins belong to the study as it stands, and obey what is exact."""

from __future__ import annotations

import json
import math

from lla_helpers.data import DATA
from studies import bn_twins


def stored():
    return json.loads((DATA / "results" / "bn_twins.json").read_text(encoding="utf-8"))["rows"]


def test_every_item_is_stored_with_every_method():
    rows = stored()
    assert [row["key"] for row in rows] == list(bn_twins.items())
    for row in rows:
        for family in ("layer", "filter"):
            assert list(row[family]) == list(bn_twins.METHODS)
            assert all(math.isfinite(D) and D >= 0 for D in row[family].values())
        assert bool(row["stale"]) == (not row["net"].endswith("no BN"))
        assert 0.2 < row["accuracy"] <= 1, "chance is 0.1"


def test_weight_normalisation_cannot_tell_any_twins_apart():
    # d * theta cancels every positive rescaling; what is left is float32 rounding.
    for row in stored():
        for family in ("layer", "filter"):
            assert row[family]["random, weight"] < 1e-4
            assert row[family]["relative Hessian, weight"] < 1e-3


def test_twins_of_batch_norm_differ_without_normalisation():
    for row in stored():
        assert min(row["layer"]["random, none"], row["filter"]["random, none"]) > 0.05
