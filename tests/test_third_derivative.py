"""Normalisation layers thrice differentiated: the values are PyTorch's, the derivatives right."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lla_helpers.third_derivative import ThriceDifferentiable

GENERATOR = torch.Generator().manual_seed(0)
LAYERS = {
    "batch 1d": (nn.BatchNorm1d(3), (6, 3)),
    "batch 2d": (nn.BatchNorm2d(2), (4, 2, 3, 3)),
    "batch, eval": (nn.BatchNorm2d(2).eval(), (4, 2, 3, 3)),
    "batch, no affine": (nn.BatchNorm1d(3, affine=False), (6, 3)),
    "batch, no statistics": (nn.BatchNorm1d(3, track_running_stats=False), (6, 3)),
    "batch, cumulative": (nn.BatchNorm1d(3, momentum=None), (6, 3)),
    "layer": (nn.LayerNorm(4), (5, 4)),
    "layer, two dimensions": (nn.LayerNorm((3, 4)), (5, 3, 4)),
    "instance": (nn.InstanceNorm2d(2, affine=True), (3, 2, 3, 3)),
    "group": (nn.GroupNorm(2, 4), (3, 4, 3)),
}


def case(name):
    layer, shape = copy.deepcopy(LAYERS[name])
    layer = layer.double()
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(0.5, 1.5, generator=GENERATOR)
    x = torch.randn(shape, generator=GENERATOR, dtype=torch.float64)
    return layer, x


def derivatives(layer, x, v, order):
    """d^k/dt^k of sum tanh(layer(x + t v)) at 0, k = 0 .. order, by autograd."""
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    found = [torch.tanh(layer(x + t * v)).pow(2).sum()]
    for _ in range(order):
        found += torch.autograd.grad(found[-1], t, create_graph=True)
    return [float(d.detach()) for d in found]


@pytest.mark.parametrize("name", LAYERS)
def test_value_statistics_and_third_derivative(name):
    layer, x = case(name)
    v = torch.randn(x.shape, generator=GENERATOR, dtype=torch.float64)
    fused, ours = copy.deepcopy(layer), copy.deepcopy(layer)
    expected = fused(x)
    with ThriceDifferentiable():
        assert torch.allclose(ours(x), expected, rtol=1e-10, atol=1e-12)
    for a, b in zip(fused.buffers(), ours.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    with ThriceDifferentiable():
        d = derivatives(ours, x, v, 3)
        # The second derivative's central difference: error h^2 times a fifth derivative, ~1e-7.
        h = 1e-4
        ahead, behind = (derivatives(ours, x + s * h * v, v, 2)[2] for s in (1, -1))
    assert d[3] == pytest.approx((ahead - behind) / (2 * h), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["batch 1d", "layer"])
def test_the_fused_layer_still_needs_it(name):
    """When PyTorch mends this, or refuses, the detour can go."""
    layer, x = case(name)
    v = torch.randn(x.shape, generator=GENERATOR, dtype=torch.float64)
    with ThriceDifferentiable():
        right = derivatives(layer, x, v, 3)
    try:
        fused = derivatives(layer, x, v, 3)
    except RuntimeError:
        return
    assert fused[:3] == pytest.approx(right[:3], rel=1e-8)
    assert abs(fused[3] - right[3]) > 1e-3 * abs(right[3])


def test_instance_norm_with_running_statistics_is_refused():
    layer = nn.InstanceNorm1d(2, track_running_stats=True).double()
    with ThriceDifferentiable(), pytest.raises(ValueError, match="no third derivative here"):
        layer(torch.randn(3, 2, 4, dtype=torch.float64))
