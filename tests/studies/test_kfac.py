"""The stored comparison with curvlinops, and what the study says without it."""

from __future__ import annotations

import json
from importlib.util import find_spec
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


@pytest.mark.skipif(find_spec("curvlinops") is not None, reason="curvlinops is installed")
def test_without_curvlinops_it_says_how_to_install_it():
    with pytest.raises(click.ClickException, match=r"curvlinops is not installed.*pip install"):
        measure("dense, ReLU", "expand")
