"""Rank correlations against scipy and closed forms; what the bootstrap interval covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lla_helpers.correlation import bootstrap, holm, p_value, rank_correlation


def sample(n=40, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    return z + rng.normal(size=n), z + rng.normal(size=n), z


@pytest.mark.parametrize("ties", [False, True])
def test_without_controls_it_is_scipys(ties):
    x, y, _ = sample()
    x = np.round(x) if ties else x
    reference = stats.spearmanr(x, y)
    rho = rank_correlation(x, y)
    assert rho == pytest.approx(reference.statistic, abs=1e-12)
    assert p_value(rho, len(x)) == pytest.approx(reference.pvalue, rel=1e-9)


def test_one_control_follows_the_recursion():
    # rho_xy.z = (rho_xy - rho_xz rho_yz) / sqrt((1 - rho_xz^2) (1 - rho_yz^2))
    x, y, z = sample()
    xy, xz, yz = (stats.spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    formula = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert rank_correlation(x, y, [z]) == pytest.approx(formula, abs=1e-12)


def test_two_controls_are_the_inverse_of_the_correlation_matrix():
    x, y, z = sample()
    w = np.where(np.random.default_rng(1).random(len(x)) < 0.5, 0.0, 1.0)
    inverse = np.linalg.inv(np.corrcoef(stats.rankdata([x, y, z, w], axis=1)))
    formula = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    assert rank_correlation(x, y, [z, w]) == pytest.approx(formula, abs=1e-12)
    # The unit and the coding of a control do not matter, nor a control twice.
    assert rank_correlation(x, y, [np.exp(z), 7 - 3 * w, w]) == pytest.approx(formula, abs=1e-9)


def test_a_common_cause_is_taken_out():
    x, y, z = sample(2000)
    assert rank_correlation(x, y) > 0.4
    assert abs(rank_correlation(x, y, [z])) < 0.1  # four standard errors, and the ranks' curvature


def test_what_has_no_rank_correlation():
    x, y, z = sample()
    assert math.isnan(rank_correlation(np.ones(40), y))
    assert math.isnan(rank_correlation(np.exp(z), y, [z]))
    assert math.isnan(p_value(math.nan, 40))
    assert rank_correlation([1, 2, 3, math.inf], [1, 2, 3, 4]) == pytest.approx(1)
    assert p_value(1.0, 10) == 0.0
    for bad in (([1, 2, 3], [1, 2]), ([1, math.nan, 3], [1, 2, 3]), ([1, 2], [1, 2])):
        with pytest.raises(ValueError):
            rank_correlation(*bad)
    with pytest.raises(ValueError, match="one length"):
        rank_correlation(x, y, [z[:-1]])
    with pytest.raises(ValueError, match="degree of freedom"):
        p_value(0.5, 4, 2)


def test_holm_by_hand():
    # 3 x 0.01, 2 x 0.02 -> 0.04, 1 x 0.03 -> no less than 0.04
    np.testing.assert_allclose(holm([0.02, 0.01, 0.03]), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm([0.9, 0.5, math.nan]), [1, 1, 1])
    assert holm([0.04]) == pytest.approx([0.04]) and holm([]).shape == (0,)
    with pytest.raises(ValueError, match="probabilities"):
        holm([0.5, 1.5])


def test_p_values_are_uniform_with_controls():
    # Kolmogorov and Smirnov's 1 % bound for 300 values is 0.094.
    rng = np.random.default_rng(0)
    p = [
        p_value(rank_correlation(*rng.normal(size=(2, 25)), held=rng.normal(size=(3, 25))), 25, 3)
        for _ in range(300)
    ]
    assert stats.kstest(p, "uniform").statistic < 0.094


def test_the_bootstrap_of_a_mean_has_the_known_error():
    x = np.random.default_rng(0).normal(size=200)
    found = bootstrap(lambda i: x[i].mean(), 200)
    assert found.value == pytest.approx(x.mean()) and found.n == 200
    # 2000 draws know a standard deviation to 1.6 %, and its 2.5 % points a little worse.
    assert found.stderr == pytest.approx(x.std() / math.sqrt(200), rel=0.08)
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.stderr, rel=0.08)
    wide = bootstrap(lambda i: x[i].mean(), 200, level=0.99)
    assert wide.low < found.low < found.high < wide.high
    assert bootstrap(lambda i: x[i].mean(), 200) == found


def test_the_interval_of_a_rank_correlation_covers():
    # 95 %, give or take two standard errors of 60 trials and what the percentile method loses.
    rng = np.random.default_rng(0)
    truth = 6 / math.pi * math.asin(0.5 / 2)  # Spearman's of a normal pair with correlation 0.5
    hits = 0
    for trial in range(60):
        x, e = rng.normal(size=(2, 60))
        y = 0.5 * x + math.sqrt(0.75) * e
        found = bootstrap(
            lambda i, x=x, y=y: rank_correlation(x[i], y[i]), 60, draws=150, seed=trial
        )
        hits += found.low < truth < found.high
    assert 52 <= hits


def test_the_bootstrap_refuses_what_gives_no_number():
    with pytest.raises(ValueError, match="give a number"):
        bootstrap(lambda i: math.nan, 10, draws=20)
    with pytest.raises(ValueError, match="two items"):
        bootstrap(lambda i: 0.0, 1)
