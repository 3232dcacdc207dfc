"""The studies behind the chapter on the unified criteria: recipes, resuming, what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lla_helpers.family import ARCHITECTURES, Recipe, build, trained
from studies import generalization, shifts
from studies.items import run_items

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
CHEAP = {
    f"model {seed}": {"architecture": ARCHITECTURES[0], "width": 8, "samples": 60, "epochs": 3}
    | {"label_noise": 0.1, "batch_norm": bool(seed % 2), "seed": seed}
    for seed in (0, 1)
}


def test_recipes_are_drawn_alike_and_from_every_level():
    items = generalization.items()
    assert len(items) == 48 and items == generalization.items()
    for name, levels in generalization.LEVELS.items():
        assert {recipe[name] for recipe in items.values()} == set(levels)
    assert items["model 5"] == generalization.items(5, 1)["model 5"]
    assert json.loads(json.dumps(items)) == items


def test_shifted_models_are_balanced():
    recipes = list(shifts.items().values())
    assert len(recipes) == 9 and len({r["seed"] for r in recipes}) == 9
    assert len({(r["architecture"], r["activation"]) for r in recipes}) == 9
    assert sum(r["batch_norm"] for r in recipes) == 4


def test_interrupted_and_started_again_gives_the_same_rows(tmp_path):
    def rows(measure, folder):
        out = tmp_path / folder / "out.json"
        run_items("g", CHEAP, measure, "code", folder=tmp_path / folder / "kept", out=out)
        return json.loads(out.read_text())["rows"]

    def interrupted(**recipe):
        if recipe["seed"] == 1:
            raise KeyboardInterrupt
        return generalization.measure(**recipe)

    with pytest.raises(KeyboardInterrupt):
        rows(interrupted, "a")
    torch.manual_seed(123)  # whatever ran before must not matter
    resumed = rows(generalization.measure, "a")
    assert resumed == rows(generalization.measure, "b")
    assert [row["seed"] for row in resumed] == [0, 1] and resumed[0]["gap"] != resumed[1]["gap"]


def test_the_training_labels_are_noisy_and_the_test_labels_are_not():
    recipe = Recipe(label_noise=0.3, samples=100, epochs=0)
    _, (x, y), split = trained(recipe)
    assert len(x) == 100 and (y != split.y_train[:100]).sum() == 30
    assert torch.equal(split.y_test, trained(Recipe(epochs=0))[2].y_test)


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="architecture"):
        build(Recipe(architecture="transformer"))
    with pytest.raises(ValueError, match="no learning rate"):
        trained(Recipe(optimizer="lion"))


@pytest.mark.parametrize(("study", "count"), [(generalization, 48), (shifts, 9)])
def test_what_is_stored_is_what_the_study_asks_for(study, count):
    name = study.__name__.rpartition(".")[2]
    rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    assert len(rows) == count
    for row, (key, recipe) in zip(rows, study.items().items(), strict=True):
        assert row["key"] == key and {k: row[k] for k in recipe} == recipe
        for spectrum in row.get("sets") or [row["spectrum"], row["test_spectrum"]]:
            nu, error = spectrum["negative_share"], spectrum["stderr"]["negative_share"]
            label = "MN" if nu - 2 * error > 0.5 else "MP" if nu + 2 * error < 0.25 else None
            assert spectrum["type"] == (label or "undetermined")
