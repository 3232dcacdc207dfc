"""The networks of the chapters: sizes, seeds, and names that are wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lla_helpers.models import ACTIVATIONS, activation, cnn, mlp


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_the_default_mlp_has_2130_parameters():
    assert count(mlp()) == 64 * 24 + 24 + 24 * 16 + 16 + 16 * 10 + 10 == 2130
    assert mlp()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_an_mlp_has_an_activation_after_all_but_its_last_layer(act, batch_norm):
    model = mlp((4, 5, 6, 3), act, batch_norm=batch_norm)
    kinds = [type(m) for m in model]
    hidden = [nn.Linear, *([nn.BatchNorm1d] if batch_norm else []), ACTIVATIONS[act]]
    assert kinds == [nn.Flatten, *hidden, *hidden, nn.Linear]


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("side", "in_channels"), [(8, 1), (9, 1), (6, 3)])
def test_cnns_fit_their_images(pool, batch_norm, side, in_channels):
    model = cnn((2, 3), 4, "tanh", batch_norm=batch_norm, pool=pool, side=side, classes=5,
                in_channels=in_channels)  # fmt: skip
    assert model(torch.zeros(2, in_channels, side, side)).shape == (2, 5)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model) == batch_norm


@pytest.mark.parametrize("make", [mlp, cnn])
def test_the_seed_decides_the_weights_and_nothing_else_moves(make):
    state = torch.get_rng_state()
    a, b, c = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(state, torch.get_rng_state())
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_unknown_names_and_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"unknown activation 'rely'; known: relu, tanh"):
        activation("rely")
    with pytest.raises(ValueError, match="unknown activation"):
        mlp((4, 5, 3), "rely")
    with pytest.raises(ValueError, match="'max' or 'avg', not 'min'"):
        cnn(pool="min")
    with pytest.raises(ValueError, match="at least input and output"):
        mlp((4,))
