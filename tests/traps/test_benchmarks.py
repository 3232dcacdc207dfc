"""The benchmarks are not run here, but what they rest on is: products, rounds, probes, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import about, accuracy, timing
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


def test_rounds_hold_every_call_once(monkeypatch):
    """Ratios are taken within a round, so each call must be timed in each round, per repeat."""
    ticks = {"slow": 2.0, "fast": 0.5}
    now, order = [0.0], []

    def call(name):
        order.append(name)
        now[0] += ticks[name] * (1 + len(order) / 100)  # a machine that slows down

    monkeypatch.setattr(timing, "clock", lambda: now[0])
    found = timing.interleaved({n: lambda n=n: call(n) for n in ticks}, rounds=4)
    assert sorted(order) == ["fast"] * 4 + ["slow"] * 4
    assert [len(values) for values in found.values()] == [4, 4]
    assert timing.ratio(found, "slow", "fast")["median"] == pytest.approx(4.0, rel=0.05)
    assert timing.fastest(found, found) == "fast"
    assert timing.fastest(found, []) is None


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
