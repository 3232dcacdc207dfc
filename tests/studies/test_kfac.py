"""The stored comparison with curvlinops, and what the study says without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest

from studies.kfac import items, measure

STORED = Path(__file__).resolve().parents[2] / "data" / "results" / "kfac.json"


def test_stored_factors_agree_to_rounding():
    rows = json.loads(STORED.read_text())["rows"]
    assert [row["key"] for row in rows] == list(items())
    layers = [layer for row in rows for layer in row["layers"]]
    assert len(layers) == 26
    assert max(layer["difference"] for layer in layers) < 1e-12
    assert min(layer["ours to G"] for layer in layers) > 1e-3  # an approximation, not the block


def test_without_curvlinops_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "curvlinops", None)  # as if it were not installed
    with pytest.raises(click.ClickException, match=r"curvlinops is not installed.*pip install"):
        measure("dense, ReLU", "expand")
