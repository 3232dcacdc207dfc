"""The code blocks of the section "Take it elsewhere" run as they stand.

Lightning and transformers are heavy, so two modules stand in for them: what they are asked for here
is what both libraries document, a checkpoint's model and an output with `logits`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import nn

from lla_helpers.models import mlp

CHAPTER = Path(__file__).resolve().parents[1] / "chapters" / "your_model.ipynb"


def blocks() -> list[str]:
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    (text,) = ("".join(c["source"]) for c in cells if "(sec-elsewhere)=" in "".join(c["source"]))
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


class LitClassifier(nn.Module):
    """As a LightningModule: a module whose checkpoint makes it anew."""

    def __init__(self):
        super().__init__()
        self.net = mlp((4, 3, 2))

    def forward(self, x):
        return self.net(x)

    @classmethod
    def load_from_checkpoint(cls, path, map_location=None):
        return cls()


class DigitsModule:
    def val_dataloader(self):
        x = torch.linspace(-1, 1, 40).reshape(10, 4)
        return torch.utils.data.DataLoader(list(zip(x, torch.arange(10) % 2, strict=True)), 4)


class Auto(nn.Module):
    """As a model of transformers: tokens in, an object with `logits` out."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 3), nn.Linear(3, 2)

    def forward(self, input_ids=None, attention_mask=None):
        return SimpleNamespace(logits=self.head(self.embed(input_ids).mean(1)), loss=None)

    @classmethod
    def from_pretrained(cls, name):
        return cls()


def module(name: str, **members) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(members)
    return made


def test_the_blocks_run_and_leave_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = module("my_project", LitClassifier=LitClassifier, DigitsModule=DigitsModule)
    heavy = module("transformers", AutoModelForSequenceClassification=Auto)
    monkeypatch.setitem(sys.modules, "my_project", own)
    monkeypatch.setitem(sys.modules, "transformers", heavy)
    tokens = torch.arange(18).reshape(6, 3) % 9
    names = {"input_ids": tokens, "labels": torch.arange(6) % 2}

    scipy, files, lightning, transformers = blocks()
    assert all(len(block.strip().splitlines()) <= 5 for block in (lightning, transformers))
    exec(scipy, names)
    top = np.sort(torch.linalg.eigvalsh(names["H"].dense().double()).numpy())[-3:]
    # A float32 operator: eigenvalues to its rounding, 1e-7 of the largest, times some products.
    np.testing.assert_allclose(names["values"], top, atol=1e-5 * top[-1])

    exec(files, names)
    with np.load(tmp_path / "density.npz", allow_pickle=False) as arrays:
        assert arrays["nodes"].shape == arrays["weights"].shape == (4, 40)
        assert int(arrays["dim"]) == 610
    saved = json.loads((tmp_path / "criteria.json").read_text())
    assert saved["r_e"]["value"] == names["criteria"](names["density"]).r_e.value

    exec(lightning, names)
    assert names["H"].shape == (23, 23) and names["H"].total == 10
    exec(transformers, names)
    assert names["H"].shape == (35, 35)
    assert names["H"].check().faults() == ()
