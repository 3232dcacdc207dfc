"""What the course page says of the chapters is what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ROWS = dict(
    re.findall(
        r"^\| \{ref\}`ch-([a-z-]+)` \|.*\| (\d+) \|$", (ROOT / "course.md").read_text(), re.M
    )
)
COSTS = yaml.safe_load((ROOT / "chapters" / "costs.yml").read_text())


def test_every_chapter_that_computes_has_its_time():
    stored = {path.stem.replace("_", "-") for path in (ROOT / "chapters").glob("*.ipynb")}
    assert stored - set(ROWS) == {"scorecard"}


@pytest.mark.parametrize("chapter", sorted(set(ROWS) - {"your-model"}))
def test_times_are_those_of_the_costs(chapter):
    measured = sum(part["seconds"] for part in COSTS[chapter.replace("-", "_")]["parts"])
    assert abs(int(ROWS[chapter]) - measured) <= 3  # said to 5 s
