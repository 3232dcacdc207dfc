"""What a run of `your_model` would need, against what its steps take when they are run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.nn.functional as F
import yaml

from lla_helpers import Hessian, needs, slq
from lla_helpers.book.chapters import Book
from lla_helpers.book.declared import parameters_of
from lla_helpers.data import load_digits
from lla_helpers.models import mlp

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = Book(ROOT).chapter("your_model")
DEFAULTS = {n: p.default for n, p in parameters_of(CHAPTER.load(), CHAPTER.name).items()}
PRESETS = yaml.safe_load((ROOT / "chapters" / "presets.yml").read_text())["your_model"]


def test_products_are_those_that_the_steps_make():
    data = load_digits()
    H = Hessian(mlp((64, 6, 10)), F.cross_entropy, (data.x_train[:40], data.y_train[:40]))
    slq(H, 7, 3)
    assert H.products == 3 + 7 * 3, "the count rests on three products of `check`"
    values = {"steps": 20, "probes": 2, "top": 5, "layers": 1}
    # Both parts, both ends, one layer, two axes, a quarter times four, two habits of others.
    expected = 2 * (3 + 40) + 2 * 80 + (3 + 2 * 20) + 2 + (3 + 2 * 20) + (3 + 2 * 10) + 20
    assert needs.products(values, (100, 30)) == expected


@pytest.mark.parametrize("preset", ["smoke", "paper"])
def test_the_presets_have_needs(preset):
    found = needs.your_model({**DEFAULTS, **PRESETS[preset]})
    assert found["products"] > 0 and found["seconds"] > 0
    if preset == "smoke":
        assert found["seconds"] < 60 and found["gib"] < 1
        assert "digits: there, 64 samples" in found["rows"]["data"]
    else:
        # ResNet-18: 11.2 million parameters; two gradients a product make days of one core.
        assert found["rows"]["model"].startswith("resnet18: 11,181,642 parameters")
        assert found["seconds"] > 10 * 3600
        # Graphs of both parts, half a cap each; of one, Lanczos vectors in the other half.
        assert found["gib"] < needs.PROCESS + 1.5 * 24 + 1


def test_data_that_are_not_there_are_named_and_stood_in_for(tmp_path, monkeypatch):
    monkeypatch.setenv("LLA_DATA", str(tmp_path))
    mnist = {**DEFAULTS, "data": "mnist", "model": "lla_helpers.models:cnn", "samples": 100}
    mnist["model_args"] = '{"channels": [2, 3], "hidden": 4, "side": 28}'
    found = needs.your_model(mnist)
    assert found["seconds"] > 0
    assert f"a run would end with: mnist: {tmp_path}" in found["rows"]["data"]
    assert "12 MB to download" in found["rows"]["data"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": "resnet81"}, "torchvision has no model 'resnet81'"),
        ({"data": "cifar1000"}, "unknown data set"),
        ({"data": "patches"}, "the model cannot be applied to inputs of shape (3, 12, 12)"),
        ({"weights": "nowhere.pt"}, "no weights at "),
    ],
)
def test_what_is_refused_is_the_sentence_that_a_run_ends_with(values, sentence):
    found = needs.your_model({**DEFAULTS, **values})
    assert list(found) == ["rows"]
    assert found["rows"]["a run"].startswith("would end with: ")
    assert sentence in found["rows"]["a run"]


def test_the_module_answers_in_json():
    command = [sys.executable, "-m", "lla_helpers.needs", "hvp"]
    answer = subprocess.run(command, input="[{}]", cwd=ROOT, capture_output=True, text=True)
    found = json.loads(answer.stdout)
    assert found["needs"] == []
    assert 0.01 < found["yardstick"] < 10


def test_sets_that_are_not_there_are_named_with_their_size(tmp_path, monkeypatch):
    monkeypatch.setenv("LLA_DATA", str(tmp_path))
    assert needs.sets_of([{"others": ["fonts"], "seed": 0}]) == ""
    said = needs.sets_of([{"others": ["fonts", "mnist"]}, {"others": ["svhn"]}])
    assert said.startswith(
        "mnist, svhn: not there, 258 MB to download; a run would end with: mnist"
    )
