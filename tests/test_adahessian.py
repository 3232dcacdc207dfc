"""AdaHessian against what its formula says on problems whose diagonal is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lla_helpers.adahessian import AdaHessian, averaged


def gradients_of(loss, params):
    gradients = torch.autograd.grad(loss, params, create_graph=True)
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.detach()
    return gradients


def test_a_diagonal_quadratic_is_solved_in_one_newton_step():
    """With a diagonal Hessian z * Hz = diag H for any signs; m_hat / sqrt(v_hat) is g / |h|."""
    h, start = torch.tensor([1.0, 10.0, 1e4]), torch.tensor([3.0, -2.0, 0.5])
    w = start.clone().requires_grad_()
    step = AdaHessian([w], lr=1.0, eps=0.0)
    step.step(gradients_of((h * w**2).sum() / 2, [w]))
    assert torch.allclose(w, torch.zeros(3), atol=1e-6)


def test_a_second_step_follows_the_formula():
    generator = torch.Generator().manual_seed(1)
    A = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    A = A + A.T
    w = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    signs, step = torch.Generator().manual_seed(7), AdaHessian([w], lr=0.1, weight_decay=0.2)
    step.generator.manual_seed(7)
    theta, m, v = w.detach().clone(), 0, 0
    for t in (1, 2):
        step.step(gradients_of(w @ A @ w / 2, [w]))
        z = (torch.randint(0, 2, (5,), generator=signs) * 2 - 1).double()
        g, d = A @ theta, z * (A @ z)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * d**2
        ratio = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-4)
        theta = theta - 0.1 * (ratio + 0.2 * theta)
        assert torch.allclose(w.detach(), theta, atol=1e-12)


def test_the_diagonal_is_right_on_average():
    """500 draws: the standard error of entry i is sqrt(sum_{j != i} A_ij^2 / 500)."""
    A = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    A = A + A.T
    w = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    step = AdaHessian([w])
    draws = []
    for _ in range(500):
        draws += step.diagonal(torch.autograd.grad(w @ A @ w / 2, [w], create_graph=True))
    error = torch.stack(draws).mean(0) - A.diag()
    spread = ((A**2).sum(1) - A.diag() ** 2).sqrt() / 500**0.5
    assert (error.abs() < 4 * spread).all() and spread.max() < 0.3


def test_kernels_are_averaged_and_matrices_not():
    d = torch.arange(18.0).reshape(2, 1, 3, 3)
    assert averaged(d)[0].unique() == 4 and averaged(d)[1].unique() == 13
    matrix = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(averaged(matrix), matrix)


def test_parameters_that_bend_nothing_or_are_not_used():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    step = AdaHessian([used, unused], lr=0.1)
    used.grad = torch.ones(2)
    step.step([torch.ones(2), None])  # a linear loss: the gradient has no graph
    assert torch.isfinite(used).all() and (used < 1).all() and (unused == 1).all()


@pytest.mark.parametrize("bad", [{"lr": -1}, {"eps": -1}, {"betas": (1.0, 0.9)}])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=r"must"):
        AdaHessian([torch.zeros(1, requires_grad=True)], **bad)
