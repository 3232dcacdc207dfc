"""A dry run: what a run needs, said in one table, and nothing run."""

import math
from pathlib import Path

import pytest

from lla_helpers.book import dry
from lla_helpers.book.chapters import Book
from lla_helpers.book.declared import parameters_of
from lla_helpers.book.presets import all_presets, preset_values
from lla_helpers.book.values import load_yaml, overrides

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = {chapter.name: chapter for chapter in Book(ROOT).chapters()}
COSTS = load_yaml(ROOT / "chapters" / "costs.yml")

ANSWER = 'import json, sys\nprint(json.dumps({"yardstick": 0.6, "needs": [], "sets": ""}))\n'
TINY_COSTS = """
yardstick: 0.2
alpha:
  parts:
    - {seconds: 10, products: 7}
    - {seconds: 40, products: 100, times: {steps: 1}, each: {layers: 2}}
  memory:
    - {gib: 0.5}
    - {gib: 0.25, grows: {steps: 2}}
"""


@pytest.fixture
def measured(book):
    """The tiny book with costs, on a machine that takes three times as long for the yardstick."""
    (book / "chapters" / "costs.yml").write_text(TINY_COSTS)
    (book / "lla_helpers" / "needs.py").write_text(ANSWER)
    return book


def table(answer) -> dict[str, str]:
    assert answer.code == 0, answer.err
    rows = (line.split("  ", 1) for line in answer.out.splitlines())
    return {what: text.strip() for what, text in rows}


def test_a_run_is_scaled_from_the_defaults_and_not_run(measured, call):
    usual = table(call(measured, "run", "alpha", "--dry-run"))
    assert usual["parameters"] == "at the defaults"
    assert usual["data"] == "data/numbers.csv: there"
    assert usual["memory"] == "about 0.75 GiB"
    assert usual["products"] == "about 110"  # 107 to two digits
    assert usual["time"] == "about 2 minutes of one core here"  # 3 * (10 + 40) s
    options = ["-p", "steps", "160", "-p", "layers", "16,8,16"]
    more = table(call(measured, "run", "alpha", *options, "--dry-run"))
    assert more["parameters"] == "steps 160, layers [16, 8, 16]"
    assert more["memory"] == "about 1.5 GiB"  # 0.5 + 4 * 0.25
    assert more["products"] == "about 210"
    # 3 * (10 + 40 * 2 * (16^2 + 8^2 + 16^2) / (16^2 + 8^2)) = 462 s
    assert more["time"] == "about 8 minutes of one core here"
    assert not (measured / "_build").exists()


def test_what_is_missing_or_not_known_is_said(measured, call):
    (measured / "data" / "numbers.csv").unlink()
    said = call(measured, "run", "alpha", "--dry-run").out
    assert "data/numbers.csv is missing: restore it with `git checkout -- data/numbers.csv`" in said
    said = call(measured, "run", "beta", "--dry-run")
    assert said.code == 0 and said.out.count("not known") == 3
    assert "chapters/costs.yml does not have it" in said.out


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_bad_parameters_are_refused_as_without_it(measured, call, command):
    answer = call(measured, command, "alpha", "-p", "steps", "4", "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "error: alpha: steps must be within 10..400, not 4\n"


def test_a_sweep_adds_up_what_is_left(measured, call, monkeypatch):
    monkeypatch.setenv("LLA_WORKERS", "2")
    grid = ["sweep", "alpha", "-p", "steps", "40,80,160"]
    before = table(call(measured, *grid, "--dry-run"))
    assert before["variants"] == "3, of which 0 are there already"
    assert before["memory"] == "the largest: about 1.5 GiB"
    assert before["time"] == "about 8 minutes of one core here"  # 3 * (30 + 20 + 40 + 80) = 510 s
    assert before["beside each other"] == "2 at a time: 4 minutes"
    assert not (measured / "_build").exists()
    assert call(measured, *grid).code == 0
    after = call(measured, *grid, "--dry-run")
    assert after.code == 0 and "3, of which 3 are there already" in after.out
    assert "time" not in table(after)


def test_a_dry_run_that_cannot_ask_says_why(measured, call):
    (measured / "lla_helpers" / "needs.py").write_text("raise SystemExit('no yardstick')")
    answer = call(measured, "run", "alpha", "--dry-run")
    assert (answer.code, answer.last) == (1, "error: the dry run failed: no yardstick")


# The book's own chapters, presets and costs ------------------------------------------------------


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_preset_is_valid_and_both_are_there(name):
    presets = all_presets(ROOT)[name]
    assert {"smoke", "paper"} <= set(presets)
    parameters = parameters_of(CHAPTERS[name].load(), name)
    for preset in presets:
        values = overrides(name, parameters, preset_values(ROOT, name, preset), {}, {})
        assert values, f"{preset} changes nothing"
    assert not set(all_presets(ROOT)) - set(CHAPTERS)


@pytest.mark.parametrize("name", [n for n in CHAPTERS if n != "your_model"])
def test_every_paper_preset_has_a_dry_run(name, monkeypatch):
    """The yardstick is taken as read: it is timed in tests/test_needs.py."""
    same = {"yardstick": COSTS["yardstick"], "needs": [], "sets": ""}
    monkeypatch.setattr(dry, "asked", lambda *_: same)
    chapter = CHAPTERS[name]
    parameters = parameters_of(chapter.load(), name)
    points = [
        overrides(name, parameters, preset_values(ROOT, name, preset), {}, {})
        for preset in ("smoke", "paper")
    ]
    smoke, usual, paper = dry.needs_of(Book(ROOT), chapter, parameters, [points[0], {}, points[1]])
    for needs in (smoke, usual, paper):
        assert math.isfinite(needs.seconds) and needs.seconds > 0
        assert 0.2 < needs.gib < 64
    assert smoke.seconds < usual.seconds or name == "scorecard"
    assert usual.seconds < paper.seconds or name == "scorecard"
    assert "is missing" not in usual.rows["data"]
    assert dry.run_rows(points[1], paper)


def test_costs_speak_of_parameters_that_can_be_scaled():
    assert set(COSTS) - {"yardstick"} <= set(CHAPTERS)
    for name, cost in COSTS.items():
        if name == "yardstick":
            continue
        parameters = parameters_of(CHAPTERS[name].load(), name)
        for part in [*cost["parts"], *cost["memory"]]:
            for key in ("times", "each", "grows"):
                for parameter in part.get(key, {}):
                    assert dry.size(parameters[parameter].default, 1) > 0, (name, parameter)
