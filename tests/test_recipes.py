"""The small training runs: sizes, determinism, and the stored grid that they made."""

from __future__ import annotations

import json

import pytest
import torch

from lla_helpers import criteria, hesd_type
from lla_helpers.data import DATA
from lla_helpers.datasets import EMBEDDED, load
from lla_helpers.recipes import RATES, fit, network, patch_cnn, spectrum
from lla_helpers.training import OPTIMIZERS
from studies import mp_grid


def test_sizes_and_that_a_seed_makes_the_same_network():
    state = torch.get_rng_state()
    for name, size, shape in (("digits", 1210, (2, 1, 8, 8)), ("patches", 1398, (2, 3, 12, 12))):
        a, b, c = network(name, seed=1), network(name, seed=1), network(name, seed=2)
        assert sum(p.numel() for p in a.parameters()) == size
        x = torch.ones(shape)
        assert torch.equal(a(x), b(x)) and not torch.equal(a(x), c(x)) and a(x).shape == (2, 10)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="unknown activation 'tan'"):
        patch_cnn("tan")


def test_every_optimizer_has_a_rate_and_none_is_left_out():
    assert set(RATES) == set(OPTIMIZERS)


@pytest.mark.parametrize("optimizer", RATES)
def test_every_optimizer_learns_at_its_rate(optimizer):
    d = load("digits", 100)
    losses = fit(network("digits", seed=100), d.x_train[:320], d.y_train[:320], optimizer, epochs=6)
    assert losses[-1] < losses[0] / 2


def test_options_go_through_and_decay_is_adamw_s():
    d = load("digits", 100)
    x, y = d.x_train[:64], d.y_train[:64]
    nets = [network("digits", seed=1) for _ in range(3)]
    fit(nets[0], x, y, "adamw", epochs=1)
    fit(nets[1], x, y, "adam", epochs=1)
    fit(nets[2], x, y, "adam", epochs=1, lr=0.0)
    weights = [net[1].weight.detach() for net in nets]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[2], network("digits", seed=1)[1].weight.detach())


def test_the_type_goes_from_undetermined_to_mainly_positive():
    d = load("digits", 100)
    x, y = d.x_train[:320], d.y_train[:320]
    net = network("digits", seed=100)
    before = hesd_type(criteria(spectrum(net, x[:100], y[:100])))
    fit(net, x, y, epochs=12, seed=100)
    after = hesd_type(criteria(spectrum(net, x[:100], y[:100])))
    assert (before.label, after.label) == ("undetermined", "MP")


def test_the_stored_grid_is_that_of_the_study():
    rows = json.loads((DATA / "results" / "mp_grid.json").read_text(encoding="utf-8"))["rows"]
    assert [row["key"] for row in rows] == list(mp_grid.items())
    assert len(rows) == len(EMBEDDED) * len(RATES) * 5
    for row in rows:
        margin = 2 * row["nu_stderr"]
        mp, mn = row["nu"] + margin < 0.25, row["nu"] - margin > 0.5
        assert row["type"] == ("MP" if mp else "MN" if mn else "undetermined")


def test_the_study_measures_what_it_stores():
    item = mp_grid.items()["digits-momentum-0"]
    small = {"samples": 64, "epochs": 1, "subset": 20}
    row = mp_grid.measure(**item, **small)
    assert row == mp_grid.measure(**item, **small)
    assert 0 <= row["nu"] <= 1 and row["type"] in ("MP", "MN", "undetermined")
