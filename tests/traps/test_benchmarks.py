"""The benchmarks are not run here, but what they rest on is: products, rounds, probes, JSON."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks import about, accuracy, speed, timing
from benchmarks.imitations import IMITATIONS
from tests.traps import problems
from tests.traps.problems import exact_hessian, vector


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", IMITATIONS)
def test_imitations_are_products(name):
    """Each method gives H v, for every column (the yardstick gives the gradient)."""
    make, count = IMITATIONS[name]
    problem = problems.on_trained_mlp()
    v = torch.stack([vector(problem, seed) for seed in range(count)], dim=1)
    found = make(problem)(v)
    assert len(found) == count
    if name == "gradient":
        return
    found = torch.stack([torch.cat([part.reshape(-1) for part in parts]) for parts in found], 1)
    exact = exact_hessian(problem) @ v.double()
    assert (found.double() - exact).norm() < 1e-5 * exact.norm()


def test_rounds_hold_every_call_once():
    """Ratios are taken within a round, so each call must be timed in each round."""
    order = []

    def taken(name, seconds, repeats):
        order.append(name)
        return seconds * (1 + len(order) / 100)  # a machine that slows down

    timers = {"slow": partial(taken, "slow", 2.0), "fast": partial(taken, "fast", 0.5)}
    found = timing.interleaved(timers, rounds=4)
    assert sorted(order) == ["fast"] * 4 + ["slow"] * 4
    assert [len(values) for values in found.values()] == [4, 4]
    assert timing.ratio(found, "slow", "fast")["median"] == pytest.approx(4.0, rel=0.05)
    assert timing.fastest(found, found) == "fast"
    assert timing.fastest(found, []) is None


def test_seconds_are_those_of_one_call(monkeypatch):
    now = [0.0]

    def call():
        now[0] += 3.0

    monkeypatch.setitem(timing.CLOCKS, "wall", lambda: now[0])
    assert timing.seconds(call, 5) == 3.0


def counting(start: int):
    """A call that leaves a trace on its process: the module's own dictionary of clocks."""
    timing.CLOCKS[f"from {start}"] = timing.CLOCKS["wall"]
    if start < 0:
        raise ValueError("no such start\nand more")
    if len(timing.CLOCKS) != 3:
        raise RuntimeError("somebody else was here")
    return lambda: None


def test_what_one_call_does_to_its_process_meets_no_other():
    told = []
    makes = {str(start): partial(counting, start) for start in (1, 2, -1)}
    with timing.apart(makes, told.append) as timers:
        found = timing.interleaved(timers, rounds=2)
    assert list(found) == ["1", "2"]
    assert all(0 <= s < 1 for values in found.values() for s in values)
    assert len(timing.CLOCKS) == 2
    assert told == ["left out: -1: ValueError: no such start"]


def failing():
    def call():
        raise FloatingPointError("later")

    return call


def test_a_call_that_fails_ends_the_run():
    with (
        timing.apart({"late": failing}) as timers,
        pytest.raises(RuntimeError, match=r"^late: FloatingPointError: later$"),
    ):
        timing.interleaved(timers, rounds=1)
    with pytest.raises(RuntimeError, match="itself could not be timed"):
        speed.summary({"peer": [1.0]})


@pytest.mark.parametrize("bad, needed", [(0, 1), (1, 1), (2, 3), (20, None)])
def test_probes_are_added_until_19_of_20_seeds_are_near(bad, needed):
    """In `bad` seeds the first probe is off, and three are near enough; in 20 all are off."""
    exact, weights = np.linspace(0.0, 1.0, 11), np.full(11, 1 / 11)

    def call(seed, probes):
        far = 2.5 * accuracy.GOAL * (seed < bad)
        return [(exact + far * (i == 0 or bad == 20), weights) for i in range(probes)]

    assert accuracy.to_exact(call(0, 1), exact) == pytest.approx(2.5 * accuracy.GOAL * (bad > 0))
    setting = accuracy.Setting("any", "any", True, call)
    found, _ = accuracy.probes_needed(setting, exact, 20, 4, lambda text: None)
    assert found == needed


def test_parts_that_were_not_run_stay_stored(tmp_path):
    path = tmp_path / "new" / "benchmark.json"
    about.store(path, {"a": 1, "b": 2})
    about.store(path, {"b": 3})
    assert json.loads(path.read_text()) == {"a": 1, "b": 3}
    with pytest.raises(TypeError):
        about.store(path, {"b": object()})
    assert json.loads(path.read_text()) == {"a": 1, "b": 3}
    assert [p.name for p in path.parent.iterdir()] == ["benchmark.json"]
