"""Sharpness-aware steps against the definition, computed by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers.models import mlp
from lla_helpers.regularize import plain, train_by
from lla_helpers.sam import SharpnessAware

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(12, 4, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 3, (12,), generator=GENERATOR)


def net():
    return mlp((4, 3, 3), "tanh", seed=1).double()


def flat(model, grad=False):
    return torch.cat([(p.grad if grad else p).detach().flatten() for p in model.parameters()])


def test_the_gradient_is_taken_at_distance_rho_uphill():
    model, other = net(), net()
    before = flat(model)
    loss = SharpnessAware(0.1)(model, X, Y, 0, 0)
    assert torch.equal(flat(model), before)
    assert float(loss) == float(plain(other, X, Y, 0, 0))
    g = flat(other, grad=True)
    nn.utils.vector_to_parameters(before + 0.1 * g / g.norm(), other.parameters())
    other.zero_grad()
    plain(other, X, Y, 0, 0)
    assert torch.allclose(flat(model, grad=True), flat(other, grad=True), rtol=1e-10, atol=0)


def test_to_first_order_it_is_the_gradient_of_the_loss_plus_rho_times_its_norm():
    """d(L + rho |g|) = g + rho H g/|g|; the rest is of order rho^2."""
    model = net()
    g = torch.autograd.grad(
        F.cross_entropy(model(X), Y), list(model.parameters()), create_graph=True
    )
    norm = torch.sqrt(sum((part**2).sum() for part in g))
    hg = torch.autograd.grad(norm, list(model.parameters()))
    g, hg = (torch.cat([p.detach().flatten() for p in parts]) for parts in (g, hg))
    errors = []
    for rho in (1e-2, 1e-3):
        model.zero_grad()
        SharpnessAware(rho)(model, X, Y, 0, 0)
        errors.append(float((flat(model, grad=True) - g - rho * hg).norm()))
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1)


def test_radius_zero_is_plain_training():
    models = [net(), net()]
    a = train_by(SharpnessAware(0.0), models[0], X, Y, epochs=3, batch_size=5)
    b = train_by(plain, models[1], X, Y, epochs=3, batch_size=5)
    assert a == b and torch.equal(flat(models[0]), flat(models[1]))


def test_where_the_gradient_vanishes_the_weights_stay_finite():
    model = net()
    nn.utils.vector_to_parameters(torch.zeros(len(flat(model)), dtype=X.dtype), model.parameters())
    balanced = torch.arange(12) % 3
    SharpnessAware(0.1)(model, torch.zeros_like(X), balanced, 0, 0)
    assert torch.isfinite(flat(model)).all() and flat(model, grad=True).abs().max() < 1e-15


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), None])
def test_a_radius_that_is_no_distance_is_refused(rho):
    with pytest.raises(ValueError, match="rho, a distance"):
        SharpnessAware(rho)
