"""The networks of the chapters: sizes, seeds, and names that are wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lla_helpers.models import ACTIVATIONS, activation, cnn, mlp, resnet


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


@pytest.mark.parametrize("make", [mlp, cnn, resnet])
def test_the_seed_decides_the_weights_and_nothing_else_moves(make):
    state = torch.get_rng_state()
    a, b, c = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(state, torch.get_rng_state())
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_residual_network_skips(batch_norm):
    """With the branches' last layers at zero, relu(x + 0) of what a relu gave is x again."""
    model = resnet(4, 3, batch_norm=batch_norm, in_channels=3, classes=5).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == batch_norm
    outputs = model(x)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if f"branch.{4 if batch_norm else 2}." in name or "branch.3." in name:
                p.zero_()
    stem = model[:3] if batch_norm else model[:2]
    assert not torch.allclose(outputs, model(x))
    assert torch.allclose(model(x), model[-1](stem(x).mean((2, 3))), atol=1e-6)


def test_unknown_names_and_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"unknown activation 'rely'; known: relu, tanh"):
        activation("rely")
    with pytest.raises(ValueError, match="unknown activation"):
        mlp((4, 5, 3), "rely")
    with pytest.raises(ValueError, match="'max' or 'avg', not 'min'"):
        cnn(pool="min")
    with pytest.raises(ValueError, match="at least one block, not 0"):
        resnet(blocks=0)
    with pytest.raises(ValueError, match="at least input and output"):
        mlp((4,))
