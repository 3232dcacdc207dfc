"""Trace estimators against matrices whose trace is known."""

import math

import numpy as np
import pytest
import torch

from lla_helpers import hutchinson_trace, slq
from lla_helpers.trace import hutchpp_trace


def symmetric(eigenvalues, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return (q * torch.as_tensor(eigenvalues, dtype=torch.float64)) @ q.T


@pytest.mark.parametrize("estimator", [hutchinson_trace, hutchpp_trace])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_covers_the_trace_whatever_its_sign(estimator, sign):
    a = symmetric(sign * np.linspace(-0.2, 1, 80) ** 3)
    exact = float(a.trace())
    assert exact * sign > 0
    z = [(t - exact) / se for t, se in (estimator(a, 30, seed=s) for s in range(40))]
    # 40 studentised errors with 10 to 30 terms each: mean 0 +- 0.16, spread 1 +- 0.15; at 4 sigma.
    assert abs(np.mean(z)) < 0.7 and 0.5 < np.std(z) < 1.7


def test_a_diagonal_matrix_needs_one_probe():
    trace, stderr = hutchinson_trace(torch.diag(torch.arange(5.0).double()), 1)
    assert trace == pytest.approx(10) and math.isnan(stderr)


def test_hutchpp_is_exact_on_low_rank_and_on_small_matrices():
    low = symmetric([5.0, -3.0, 2.0] + [0.0] * 47)
    trace, stderr = hutchpp_trace(low, 18)
    assert trace == pytest.approx(4.0, abs=1e-10) and stderr < 1e-10
    small = symmetric([1.0, 2.0])
    assert hutchpp_trace(small, 9)[0] == pytest.approx(3.0)


def test_hutchpp_beats_hutchinson_on_outliers():
    a = symmetric([50.0, 30.0, 20.0] + [0.1] * 97)
    errors = {
        estimator: np.sqrt(np.mean([(estimator(a, 30, seed=s)[0] - 109.7) ** 2 for s in range(20)]))
        for estimator in (hutchinson_trace, hutchpp_trace)
    }
    # Three outliers hold nearly all of the norm, and ten sketch vectors find them.
    assert errors[hutchpp_trace] < 0.1 * errors[hutchinson_trace]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("estimator", [hutchinson_trace, hutchpp_trace])
def test_half_precision(estimator, dtype):
    a = symmetric([50.0, 30.0, 20.0] + [0.1] * 97).to(dtype)
    trace, stderr = estimator(a, 30)
    assert abs(trace - 109.7) < 4 * stderr + 0.02 * 109.7


def test_trace_and_moments_agree_between_estimators():
    a = symmetric(np.linspace(-1, 3, 60))
    density = slq(a, steps=60, probes=3)
    signs = hutchinson_trace(a, 400)
    assert abs(signs[0] - density.trace()) < 4 * math.hypot(
        signs[1], density.stderr(lambda n, w: 60 * w @ n)
    )


@pytest.mark.parametrize(
    "estimator, probes", [(hutchinson_trace, 0), (hutchinson_trace, 1.5), (hutchpp_trace, 5)]
)
def test_too_few_probes_are_refused(estimator, probes):
    with pytest.raises(ValueError, match="probes"):
        estimator(torch.eye(3), probes)
