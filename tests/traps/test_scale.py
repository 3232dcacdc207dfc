"""The scale of the loss is a unit: no criterion may feel it, near the bottom of float32 either."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lla_helpers import Hessian, SpectralDensity, criteria, hesd_type, hessian, slq
from lla_helpers.models import mlp
from lla_helpers.training import train
from tests.traps import broken, problems
from tests.traps.adapter import Ours
from tests.traps.problems import Problem, exact_hessian
from tests.traps.traps import extreme_ratio


@cache
def at_scale(factor: float) -> SpectralDensity:
    return Ours().density(problems.on_trained_mlp().scaled(factor), 80, 4)


@pytest.mark.parametrize("exponent", [-7, -5, -3, 3, 7])
def test_the_scale_of_the_loss_changes_nothing_else(exponent):
    """Loss x c: nodes x c to 1e-3 of the range; r_e, K_Hn, nu within 1 %; the same type."""
    factor = 10.0**exponent
    usual, scaled = at_scale(1.0), at_scale(factor)
    assert np.allclose(scaled.nodes / factor, usual.nodes, atol=1e-3 * usual.scale, rtol=0)
    a, b = criteria(usual), criteria(scaled)
    for name in ("r_e", "k_hn", "negative_share", "effective_rank"):
        assert float(getattr(b, name)) == pytest.approx(float(getattr(a, name)), rel=0.01), name
    assert hesd_type(b).label == hesd_type(a).label != "undetermined"
    assert hesd_type(b).quasi_singular == hesd_type(a).quasi_singular


@cache
def trained_to_1e_7() -> tuple[Problem, float]:
    """Two classes of digits, trained in float64 until the loss is near 1e-7, then in float32."""
    x, y = problems.digits(300)
    x, y = x[y < 2], y[y < 2]
    model = mlp((64, 6, 2)).double()
    loss = 1.0
    while loss > 1.2e-7:
        train(model, x.double(), y, epochs=1, lr=0.005, optimizer="adam")
        loss = F.cross_entropy(model(x.double()), y).item()
    problem = Problem(model.float(), [(x, y)])
    values = torch.linalg.eigvalsh(exact_hessian(problem))
    return problem, abs(values[0] / values[-1]).item()


def test_r_e_at_loss_1e_7_in_float32():
    """In float32, r_e is within 5 % of the dense float64 value at the same weights."""
    problem, exact = trained_to_1e_7()
    h = Hessian(problem.model, problem.loss, problem.batches)
    assert h.dtype == torch.float32
    assert 2e-8 < h.loss() < 3e-7
    assert float(criteria(slq(h, 80, 2)).r_e) == pytest.approx(exact, rel=0.05)


def test_r_e_at_loss_1e_7_with_broken_steps(monkeypatch):
    """What that guards: the epsilon in the normalisation, and 1 - p near 0 in float32."""
    problem, exact = trained_to_1e_7()
    with_epsilon = extreme_ratio(broken.EpsilonInNormalisation().slq(problem, 80, 2))
    assert with_epsilon != pytest.approx(exact, rel=0.05)
    monkeypatch.setattr(hessian, "loss_dtype", lambda *_: torch.float32)
    loss_in_float32 = extreme_ratio(Ours().slq(problem, 80, 2))
    assert loss_in_float32 != pytest.approx(exact, rel=0.05)
