"""The stored five networks: what they show, and what the study says without curvlinops."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from lla_helpers.bring import Part, bring_model
from studies.five_models import DENSE, WITHOUT, against_curvlinops, central_difference, items

STORED = Path(__file__).resolve().parents[2] / "data" / "results" / "five_models.json"
ROWS = {row["key"]: row for row in json.loads(STORED.read_text())["rows"]}


def test_all_five_are_there_with_their_main_fields():
    assert list(ROWS) == list(items())
    for row in ROWS.values():
        assert row["type"] in ("MP", "MN", "undetermined")
        assert row["criteria"]["r_e"]["stderr"] > 0 and row["products"] > 100
        assert row["command"].startswith("python -m lla_helpers run your_model -p weights ")
    said = {key: " ".join(row["arranged"]) for key, row in ROWS.items()}
    assert "hardswish" in said["MobileNetV3-small"] and "attention" in said["ViT-B/16, two blocks"]
    assert said["ResNet-18"] == said["own LSTM"] == ""


def test_densities_agree_with_dense_matrices():
    """Within three times what the density itself expects of its distance."""
    for key in DENSE:
        dense = ROWS[key]["dense"]
        assert dense["w1"] < 3 * dense["expected"] < 0.01
        assert dense["lambda_max_error"] < 1e-5  # an outlier, in float32


def test_products_agree_with_the_slope_and_with_curvlinops_where_it_is_right():
    for key, row in ROWS.items():
        found = row["curvlinops"]
        assert found["ours to difference"] < 1e-4, key
        normalised_by_layer = key in ("own transformer", "ViT-B/16, two blocks")
        assert (found["arranged"] > 1e-6) == normalised_by_layer, key
        if not normalised_by_layer:
            assert found["arranged"] < 1e-12, key
    as_it_is = [row["curvlinops"]["as it is"] for row in ROWS.values()]
    assert sum(isinstance(found, str) and found.startswith("raises") for found in as_it_is) == 3


def test_without_curvlinops_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "curvlinops", None)  # as if it were not installed
    part = Part("training", torch.ones(2, 4), torch.tensor([0, 1]))
    found = against_curvlinops(torch.nn.Linear(4, 2), part)
    assert found == {"version": None, "as it is": WITHOUT, "arranged": WITHOUT}
    assert "pip install" in capsys.readouterr().err


def test_the_central_difference_leaves_the_weights():
    model = bring_model("lla_helpers.models:mlp", '{"widths": [4, 3, 2]}').double()
    before = [p.detach().clone() for p in model.parameters()]
    v = torch.linspace(-1, 1, sum(p.numel() for p in before), dtype=torch.float64)
    data = torch.eye(2, 4, dtype=torch.float64), torch.tensor([0, 1])
    assert central_difference(model, data, v).norm() > 0
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
