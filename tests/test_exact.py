"""The exact spectrum of a small network, and its density without error bars."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers import Hessian, criteria, hesd_type
from lla_helpers.exact import exact_density, exact_hessian
from lla_helpers.models import cnn, mlp

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 1, 8, 8, generator=GENERATOR)
Y = torch.randint(0, 10, (30,), generator=GENERATOR)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    "model",
    [
        mlp((64, 4, 10), "relu"),
        mlp((64, 4, 10), "tanh", batch_norm=True),
        cnn((2,), 3, "gelu", batch_norm=True),
    ],
    ids=["relu", "tanh-bn", "cnn-bn"],
)
def test_the_same_matrix_as_one_column_at_a_time(model, mode):
    slow = Hessian(model, F.cross_entropy, (X, Y), mode=mode, dtype=torch.float64).dense()
    fast = exact_hessian(model, F.cross_entropy, (X, Y), mode=mode, rows=50)
    assert torch.equal(fast, fast.T)
    assert (slow - fast).abs().max() < 1e-12 * slow.abs().max()


def test_a_quadratic_has_the_hessian_that_was_put_in():
    """L = mean over samples of |W x - y|^2 / 2 has H = I (x) x x^T, by hand."""
    model = nn.Linear(3, 2, bias=False)
    x, y = torch.randn(7, 3), torch.randn(7, 2)
    found = exact_hessian(model, lambda z, t: ((z - t) ** 2).sum(1).mean() / 2, (x, y))
    by_hand = torch.kron(torch.eye(2).double(), x.double().T @ x.double() / 7)
    assert torch.allclose(found, by_hand, atol=1e-14)


def test_nothing_of_the_model_changes():
    model = mlp((64, 4, 10), batch_norm=True)
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    exact_hessian(model, F.cross_entropy, (X, Y), mode="train")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_a_linear_loss_has_no_curvature():
    found = exact_hessian(
        nn.Linear(3, 2), lambda z, y: z.mean(), (torch.randn(5, 3), torch.ones(5))
    )
    assert found.shape == (8, 8) and not found.any()


def test_bad_input():
    model = mlp((64, 4, 10))
    with pytest.raises(ValueError, match="as many targets as samples"):
        exact_hessian(model, F.cross_entropy, (X[:0], Y[:0]))
    with pytest.raises(ValueError, match="limit of 10: estimate"):
        exact_hessian(model, F.cross_entropy, (X, Y), limit=10)
    with pytest.raises(ValueError, match="no parameters"):
        exact_hessian(nn.Flatten(), F.cross_entropy, (X, Y))
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        exact_hessian(model, F.cross_entropy, (X * torch.nan, Y))
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="random"):
        exact_hessian(dropping, F.cross_entropy, (X, Y), mode="train")


def test_exact_numbers_have_no_error_bar():
    values = np.array([-1.0, 0.0, 1.0, 4.0])
    found = criteria(exact_density(values))
    assert found.negative_share.value == 1 / 6 and found.negative_share.stderr == 0
    assert found.effective_rank.value == pytest.approx(36 / 18)
    assert found.trace.value == pytest.approx(4) and found.lambda_max.value == 4
    assert hesd_type(found).label == "MP" and hesd_type(found).quasi_singular
    with pytest.raises(ValueError, match="at least one eigenvalue"):
        exact_density([])
    with pytest.raises(ValueError, match="finite"):
        exact_density([1.0, np.nan])
