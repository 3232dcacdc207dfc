"""A model, weights, a loss and data by name: what loads, and what is refused in one sentence."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file, save_model
from torch import nn

from lla_helpers.bring import (
    Part,
    bring_data,
    bring_device,
    bring_loss,
    bring_model,
    found,
    load_state,
    suits,
)
from lla_helpers.models import mlp

MLP = "lla_helpers.models:mlp"
SMALL = '{"widths": [4, 3, 2]}'


class Harm:
    """A pickle of it would write a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module outside the package, on the path; returns a function that writes its code."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str) -> str:
        sys.modules.pop("own_code", None)
        (tmp_path / "own_code.py").write_text("import torch\nfrom torch import nn\n" + code)
        return "own_code"

    return write


def test_models_come_by_name_and_the_seed_draws_them():
    a = bring_model("resnet18", '{"num_classes": 7}', seed=1)
    b = bring_model("resnet18", '{"num_classes": 7}', seed=1)
    assert a.fc.out_features == 7 and not a.training
    assert torch.equal(a.conv1.weight, b.conv1.weight)
    assert bring_model(MLP, SMALL)(torch.zeros(1, 4)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("resnet81", "{}", "no model 'resnet81'; did you mean 'resnet18'?"),
        ("resnet18", "{", "the model's arguments must be JSON"),
        ("resnet18", "[1]", "must be a JSON object"),
        ("resnet18", '{"classes": 3}', "resnet18 refuses its arguments"),
        ("lla_helpers.models:mlpp", "{}", "no callable 'mlpp'; did you mean 'mlp'?"),
        ("no.such.module:f", "{}", "cannot import no.such.module"),
        ("os;system:f", "{}", "not of the form package.module:callable"),
        ("lla_helpers.models:activation", '{"name": "relu"}', None),
        ("json:loads", '{"s": "1"}', "gives int, not a torch.nn.Module"),
    ],
)
def test_bad_models(name, arguments, complaint):
    if complaint is None:
        assert isinstance(bring_model(name, arguments), nn.ReLU)
        return
    with pytest.raises(ValueError, match=complaint) as error:
        bring_model(name, arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["pt", "safetensors", "nested", "parallel"])
def test_weights_in_every_form(tmp_path, kind):
    state = mlp((4, 3, 2), seed=5).state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "nested":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif kind == "parallel":
        torch.save({f"module.{n}": t for n, t in state.items()}, path)
    else:
        torch.save(state, path)
    model = bring_model(MLP, SMALL, str(path))
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_weights_that_would_run_code_are_refused(tmp_path):
    for name, write in (
        ("a.pt", torch.save),
        ("b.pt", lambda o, p: p.write_bytes(pickle.dumps(o))),
    ):
        path, harm = tmp_path / name, tmp_path / "HARM"
        write({"w": Harm(harm)}, path)
        with pytest.raises(ValueError, match="holds more than weights, and reading it could run"):
            bring_model(MLP, SMALL, str(path))
        assert not harm.exists()


def test_weights_that_do_not_fit(tmp_path):
    path, model = tmp_path / "w.pt", mlp((4, 3, 2))
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_state(model, path)
    torch.save(mlp((4, 5, 2)).state_dict(), path)
    with pytest.raises(ValueError, match=r"does not fit the model; of another shape: 1\.weight"):
        load_state(model, path)
    torch.save({"1.weight": torch.zeros(3, 4), "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"missing: 1\.bias.*; unexpected: extra"):
        load_state(model, path)
    torch.save(model, path)
    with pytest.raises(ValueError, match="is refused"):
        load_state(model, path)
    torch.save(3, path)
    with pytest.raises(ValueError, match="holds no state dict"):
        load_state(model, path)
    torch.save({n: t * float("nan") for n, t in model.state_dict().items()}, path)
    with pytest.raises(ValueError, match="nan or inf in"):
        load_state(model, path)
    torch.save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"w\.pt cannot be read as weights"):
        load_state(model, path)
    other = tmp_path / "w.safetensors"
    other.write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="no safetensors file"):
        load_state(model, other)


def test_paths_count_from_where_the_command_was_called(tmp_path, monkeypatch):
    monkeypatch.setenv("LLA_FROM", str(tmp_path))
    (tmp_path / "w.pt").touch()
    assert found("w.pt") == str(tmp_path / "w.pt")
    assert found("data/digits.npz").endswith("data/digits.npz")
    assert not found("data/digits.npz").startswith(str(tmp_path)), "the book's own, else"
    assert found("none.npz") == str(tmp_path / "none.npz"), "so that an error names it"
    assert [found(word) for word in ("", "digits", "a.b:c")] == ["", "digits", "a.b:c"]


def test_losses():
    assert bring_loss("mse") is F.mse_loss
    assert bring_loss("torch.nn.functional:l1_loss") is F.l1_loss
    with pytest.raises(ValueError, match="did you mean 'cross_entropy'"):
        bring_loss("crossentropy")


def test_data_in_every_form(own, tmp_path):
    train, test = bring_data("digits", samples=50, seed=3, side=12)
    assert train.x.shape == (50, 1, 12, 12) and len(test.y) == 50 and test.name == "test"
    again, _ = bring_data("digits", samples=50, seed=3, side=12)
    assert torch.equal(train.x, again.x)

    arrays = {"x_train": np.eye(4), "y_train": [0, 1, 1, 0], "x_test": np.eye(4)[:2]}
    path = tmp_path / "d.npz"
    np.savez(path, **arrays, y_test=[0, 1])
    train, test = bring_data(str(path))
    assert train.x.dtype == torch.float32 and test.y.dtype == torch.int64 and len(test.x) == 2
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="it has no y_test"):
        bring_data(str(path))
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"d\.npz cannot be read as data"):
        bring_data(str(path))
    with pytest.raises(FileNotFoundError, match="x_train, y_train, x_test, y_test"):
        bring_data(str(tmp_path / "none.npz"))

    name = own("def sets(n=3):\n    s = [(torch.ones(2) * i, i % 2) for i in range(n)]\n"
               "    return s, s[:2]\n")  # fmt: skip
    train, test = bring_data(f"{name}:sets", '{"n": 5}')
    assert train.x.shape == (5, 2) and sorted(test.y.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("return torch.full((2, 3), float('nan')), [0, 1], torch.ones(2, 3), [0, 1]", "nan or inf"),
        ("return torch.ones(2, 3), [0], torch.ones(2, 3), [0, 1]", "inputs and"),
        ("return torch.ones(0, 3), [], torch.ones(2, 3), [0, 1]", "is empty"),
        ("return 5", "gives int, not"),
        ("return [(1,)], [(1,)]", "no pairs"),
    ],
)
def test_bad_data_from_a_callable(own, code, complaint):
    name = own(f"def data():\n    {code}\n")
    with pytest.raises(ValueError, match=complaint):
        bring_data(f"{name}:data")


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("digitz", "{}", "digits"),
        ("digits", '{"shape": 3}', "digits refuses its arguments"),
        ("digits", "{]", "must be JSON"),
        ("mnist", '{"folder": "nowhere"}', "nowhere"),
    ],
)
def test_bad_names_of_data(name, arguments, complaint):
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        bring_data(name, arguments)


class Two(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("model", "loss", "part", "complaint"),
    [
        (mlp((4, 3, 2)), F.cross_entropy, Part("p", torch.ones(3, 4), torch.tensor([0, 1, 2])),
         "labels run from 0 to 2, and the model has 2 outputs"),
        (mlp((4, 3, 2)), F.cross_entropy, Part("p", torch.ones(3, 5), torch.tensor([0, 1, 1])),
         r"cannot be applied to inputs of shape \(5,\)"),
        (Two(), F.mse_loss, Part("p", torch.ones(3, 5), torch.ones(3, 5)), "returns tuple"),
        (mlp((4, 3, 2)), F.nll_loss, Part("p", torch.ones(3, 4), torch.ones(3, 2)),
         "the loss cannot be taken of outputs"),
        (mlp((4, 3, 2)), lambda z, y: z, Part("p", torch.ones(3, 4), torch.tensor([0, 1, 1])),
         "must be one number"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_one_another(model, loss, part, complaint):
    with pytest.raises(ValueError, match=complaint):
        suits(model, loss, part)


def test_what_fits_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    before = json.dumps({n: t.tolist() for n, t in model.state_dict().items()})
    suits(model, F.cross_entropy, Part("p", torch.ones(3, 4), torch.tensor([0, 1, 1])))
    assert model.training and before == json.dumps(
        {n: t.tolist() for n, t in model.state_dict().items()}
    )


def test_a_tied_weight_that_safetensors_leaves_out_is_found(tmp_path):
    a, b = (bring_model("examples.own_networks:transformer", seed=s) for s in (1, 2))
    save_model(a, str(tmp_path / "w.safetensors"))
    load_state(b, tmp_path / "w.safetensors")
    assert torch.equal(a.embed.weight, b.embed.weight) and b.head.weight is b.embed.weight
    state = {n: t for n, t in a.state_dict().items() if "weight" not in n or "norm" in n}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"missing: embed\.weight"):
        load_state(b, tmp_path / "w.pt")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bring_device("auto") == bring_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="there is no CUDA device here"):
        bring_device("cuda")
    with pytest.raises(ValueError, match="must be auto, cpu or cuda, not 'tpu'"):
        bring_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bring_device("auto") == bring_device("cuda") == torch.device("cuda")
    assert bring_device("cpu") == torch.device("cpu")


def test_an_image_folder_with_a_broken_file(tmp_path):
    from PIL import Image

    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / part / label / "0.png")
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train/b/1\.png cannot be opened") as error:
        bring_data("image_folder", json.dumps({"folder": str(tmp_path)}))
    assert "\n" not in str(error.value)
