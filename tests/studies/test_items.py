"""A study that is interrupted goes on where it was, and ends with the same result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from studies.items import run_items

ROOT = Path(__file__).resolve().parents[2]
ITEMS = {f"item {i}": {"x": i} for i in range(4)}


class Measure:
    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def __call__(self, x):
        self.calls.append(x)
        if x == self.stop_at:
            raise KeyboardInterrupt
        return {"square": x * x}


def study(folder, measure, code="v1", items=ITEMS):
    out = folder / "result.json"
    run_items("squares", items, measure, code, folder=folder / "kept", out=out)
    return json.loads(out.read_text())["rows"]


def test_an_interrupted_study_goes_on_and_repeats_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "a", Measure(stop_at=2))
    assert not (tmp_path / "a" / "result.json").exists()
    again = Measure()
    resumed = study(tmp_path / "a", again)
    assert again.calls == [2, 3]
    assert resumed == study(tmp_path / "b", Measure())
    assert [row["square"] for row in resumed] == [0, 1, 4, 9]


def test_other_code_and_damaged_items_are_measured_anew(tmp_path):
    study(tmp_path, Measure())
    changed = Measure()
    study(tmp_path, changed, code="v2")
    assert changed.calls == [0, 1, 2, 3]
    for path in (tmp_path / "kept").iterdir():
        path.write_text('{"key": "item')
    repaired = Measure()
    assert study(tmp_path, repaired)[3]["square"] == 9 and repaired.calls == [0, 1, 2, 3]


def test_an_unknown_study_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "studies", "run", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "no study 'nothing'" in done.stderr.splitlines()[-1]
