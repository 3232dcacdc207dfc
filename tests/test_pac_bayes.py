"""Bounds in closed cases, divergences against full covariance matrices, and validity by trial."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from lla_helpers import pac_bayes
from lla_helpers.models import cnn, mlp
from lla_helpers.pac_bayes import (
    DELTA,
    GRID,
    LARGEST,
    Posterior,
    certify,
    digits_for_bounds,
    excess,
    grid_variance,
    kl_bernoulli,
    kl_inverse,
    optimise,
    sampled_error,
)


def problem(n=60, seed=0, dims=4, classes=3):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dims, generator=g)
    return x, (x @ torch.randn(dims, classes, generator=g)).argmax(1)


def posterior(basis="kronecker", seed=0, variance=0.01, double=True):
    """Means away from the centres, uneven variances, and (Kronecker) axes that are turned."""
    first, second = mlp((4, 5, 3), seed=seed), mlp((4, 5, 3), seed=seed + 1)
    x, y = problem(seed=seed)
    if double:
        first, second, x = first.double(), second.double(), x.double()
    q = Posterior(first, second, basis, variance)
    g = torch.Generator().manual_seed(seed)
    for log_s in q.log_s:
        with torch.no_grad():
            log_s.add_(torch.randn(log_s.shape, generator=g, dtype=log_s.dtype))
    q.rebase(x, y)
    return q, x, y


# The kl of two coins ------------------------------------------------------------------------------


def test_kl_and_its_inverse_in_closed_cases():
    assert kl_bernoulli(0.3, 0.3) == 0
    assert kl_bernoulli(0, 0.25) == pytest.approx(-math.log(0.75))
    assert kl_bernoulli(1, 0.25) == pytest.approx(math.log(4))
    assert kl_bernoulli(0.5, 0) == kl_bernoulli(0.5, 1) == math.inf
    for c in (1e-12, 0.01, 1.0, 5.0):
        assert kl_inverse(0, c) == pytest.approx(-math.expm1(-c), rel=1e-12)
    assert kl_inverse(1, 0.3) == kl_inverse(0.2, math.inf) == 1
    assert kl_inverse(0.2, 0) == 0.2


def test_the_inverse_goes_round_and_errs_upwards():
    for q in (0, 1e-4, 0.1, 0.5, 0.93):
        for p in np.linspace(q, 1, 13)[1:-1]:
            c = kl_bernoulli(q, p)
            back = kl_inverse(q, c)
            assert back == pytest.approx(p, abs=1e-12)
            assert kl_bernoulli(q, back) >= c * (1 - 1e-12)
            # Pinsker: the inverse is never above q + sqrt(c / 2).
            assert back <= q + math.sqrt(c / 2) + 1e-12
    values = [kl_inverse(0.2, c) for c in np.linspace(0, 4, 50)]
    assert values == sorted(values)


def test_the_excess_is_the_published_form_on_the_grid():
    kl, m = 123.0, 1437
    for j in (1, 10, 333):
        variance = grid_variance(j)
        b_squared = (
            kl
            + 2 * math.log(GRID * math.log(LARGEST / variance))
            + math.log(math.pi**2 * m / (6 * DELTA))
        ) / (2 * (m - 1))
        assert excess(kl, m, j) == pytest.approx(2 * b_squared, rel=1e-12)
    # The failures allowed to the priors add up to delta: sum 6 / (pi^2 j^2) = 1.
    assert sum(6 / (math.pi * j) ** 2 for j in range(1, 10**5)) == pytest.approx(1, abs=1e-5)


def test_the_constant_is_no_smaller_than_maurers():
    """E exp(m kl) = sum_k C(m,k) (k/m)^k (1-k/m)^(m-k) <= 2 sqrt(m), and m - 1 < m."""
    for m in (8, 60, 1437):
        k = np.arange(m + 1)
        from scipy.special import gammaln, xlogy

        log = gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1)
        moment = np.exp(log + xlogy(k, k / m) + xlogy(m - k, 1 - k / m)).sum()
        assert math.sqrt(m) <= moment <= 2 * math.sqrt(m) <= m
        assert moment == pytest.approx(math.sqrt(math.pi * m / 2) + 2 / 3, abs=0.2)


# The posterior ------------------------------------------------------------------------------------


def full_gaussians(q: Posterior, variance: float):
    """Q and P with dense covariance matrices, layer by layer."""
    for mean, centre, log_s, (u, v) in zip(q.means, q.centres, q.log_s, q.axes, strict=True):
        r = torch.kron(u, v)
        covariance = r @ log_s.detach().exp().flatten().diag() @ r.T
        eye = torch.eye(len(r), dtype=r.dtype)
        yield (
            MultivariateNormal(mean.detach().flatten(), (covariance + covariance.T) / 2),
            MultivariateNormal(centre.flatten(), variance * eye),
        )


@pytest.mark.parametrize("basis", ["parameters", "kronecker"])
def test_divergence_against_dense_covariances(basis):
    q, *_ = posterior(basis)
    for variance in (0.003, 0.08):
        exact = sum(float(kl_divergence(*pair)) for pair in full_gaussians(q, variance))
        assert float(q.kl(variance)) == pytest.approx(exact, rel=1e-9)
        as_tensor = q.kl(torch.tensor(variance, dtype=torch.float64))
        assert as_tensor.item() == pytest.approx(exact, rel=1e-9)
    assert q.kl(np.array([0.003, 0.08])).shape == (2,)


def test_q_equal_to_the_prior_has_no_divergence():
    net = mlp((4, 5, 3)).double()
    assert float(Posterior(net, net, variance=0.02).kl(0.02)) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("basis", ["parameters", "kronecker"])
def test_logits_have_the_mean_and_covariance_of_the_weights(basis):
    """One layer: z = W x with W = mean + U (sqrt(s) noise) V^T, both ways of drawing."""
    x, y = problem(dims=4)
    net, other = (nn.Sequential(nn.Linear(4, 3)).double() for _ in "ab")
    q = Posterior(net, other, basis, 0.05)
    with torch.no_grad():
        q.log_s[0].add_(torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5))
    q.rebase(x.double(), y)
    one = x[:1].double()
    (u, v), s = q.axes[0], q.log_s[0].detach().exp()
    turned = torch.cat([one, torch.ones(1, 1, dtype=torch.float64)], 1) @ v
    exact = u @ (s @ turned.square().T).flatten().diag() @ u.T
    g = torch.Generator().manual_seed(0)
    fresh = q(one.expand(20_000, -1), g).detach()
    drawn = torch.cat([q.draw(one, g) for _ in range(4_000)])
    for z in (fresh, drawn):
        # A sample covariance is off by about sqrt(2 / n) of the variance: 5 sigmas.
        error = (z.T.cov() - exact).abs().max() / exact.diag().max()
        assert error < 5 * math.sqrt(2 / len(z))
        assert (z.mean(0) - net(one)[0]).abs().max() < 5 * exact.diag().max().sqrt() / len(z) ** 0.5


def test_fresh_weights_for_every_sample_give_the_error_of_common_draws():
    q, x, y = posterior(variance=0.1)
    fresh = sampled_error(q, x, y, 1000)
    g = torch.Generator().manual_seed(1)
    common = np.mean([(q.draw(x, g).argmax(1) != y).double().mean().item() for _ in range(1000)])
    # Common draws scatter by at most 0.5 each: three standard errors of 1000 are below 0.05.
    assert 0.05 < fresh < 0.9 and abs(fresh - common) < 0.03


def test_turning_the_basis_keeps_mean_trace_and_the_variances_along_the_new_axes():
    q, x, y = posterior()
    before = [pair[0] for pair in full_gaussians(q, 1.0)]
    with torch.no_grad():
        q.means[0].mul_(1.7)  # another network has other factors
    q.rebase(x, y)
    for old, new, log_s, (u, v) in zip(
        before, full_gaussians(q, 1.0), q.log_s, q.axes, strict=True
    ):
        r = torch.kron(u, v)
        along = (r.T @ old.covariance_matrix @ r).diagonal()
        assert torch.allclose(log_s.exp().flatten(), along, rtol=1e-9)
        assert float(new[0].covariance_matrix.trace()) == pytest.approx(
            float(old.covariance_matrix.trace()), rel=1e-9
        )
    plain, x, y = posterior("parameters")
    before = [log_s.detach().clone() for log_s in plain.log_s]
    plain.rebase(x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, plain.log_s, strict=True))


def test_optimising_lowers_the_objective_the_same_way_for_the_same_seed():
    ends = []
    for _ in range(2):
        q, x, y = posterior("kronecker", double=False)
        told = []
        optimise(
            q, x, y, steps=60, lr=0.03, rebase_every=20,
            on_step=lambda step, objective, variance, told=told: told.append(objective),
        )  # fmt: skip
        assert np.mean(told[-10:]) < 0.9 * np.mean(told[:10])
        ends.append(told)
    assert ends[0] == ends[1] and len(ends[0]) == 60


def test_the_mean_network_is_the_trained_one_and_the_argument_stays():
    first, second = mlp((4, 5, 3), seed=0), mlp((4, 5, 3), seed=1)
    x, y = problem()
    before = [p.clone() for p in first.parameters()]
    q = Posterior(first, second)
    assert torch.equal(q.mean_network()(x), first(x))
    optimise(q, x, y, steps=5)
    assert all(torch.equal(a, b) for a, b in zip(before, first.parameters(), strict=True))
    assert not torch.equal(q.mean_network()(x), first(x))


# Validity by trial --------------------------------------------------------------------------------


def fitted(x, y, seed, widths, steps, scale=1.0):
    """A network pulled hard to its few samples, from its initial weights."""
    initial, model = mlp(widths, seed=seed), mlp(widths, seed=seed)
    weights = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        weights.zero_grad()
        nn.functional.cross_entropy(scale * model(x), y).backward()
        weights.step()
    return Posterior(model, initial, variance=0.003)


def test_the_bound_never_undercuts_one_half_on_random_labels():
    """Labels that have nothing to do with x: every Q errs with probability exactly 1/2."""
    undercut = without_kl = 0
    g = torch.Generator().manual_seed(0)
    for trial in range(200):
        x, y = torch.randn(30, 24, generator=g), torch.randint(0, 2, (30,), generator=g)
        q = fitted(x, y, trial, (24, 2), 12)
        found = certify(q, x, y, draws=20, seed=trial)
        undercut += found.bound < 0.5
        without_kl += kl_inverse(found.error_bound, float(excess(0.0, 30, 1))) < 0.5
    assert undercut <= 200 * (1 - found.confidence)
    assert without_kl > 20  # a bound that forgets the divergence is caught


def exact_risk(q: Posterior) -> float:
    """P(wrong) for labels 1[x_1 > 0], x ~ N(0, I_2) and two logits W x: an integral over angles."""
    mean = (q.means[0][1] - q.means[0][0]).detach().double().numpy()
    s = q.log_s[0].detach().double().exp().sum(0).numpy()
    phi = (np.arange(20_000) + 0.5) / 20_000 * 2 * np.pi
    u = np.stack([np.cos(phi), np.sin(phi)])
    return float(norm.cdf(-np.sign(u[0]) * (mean @ u) / np.sqrt(s @ u**2)).mean())


def test_the_bound_never_undercuts_a_risk_known_by_quadrature():
    """Two dimensions, a risk of a few per cent, and a posterior that moves with the sample."""
    undercut, bounds, risks = 0, [], []
    g = torch.Generator().manual_seed(1)
    for trial in range(200):
        x = torch.randn(50, 2, generator=g)
        y = (x[:, 0] > 0).long()
        net, zero = (nn.Sequential(nn.Linear(2, 2, bias=False)) for _ in "ab")
        nn.init.zeros_(zero[0].weight)
        with torch.no_grad():
            net[0].weight.copy_(torch.outer(torch.tensor([-1.0, 1]), (2.0 * y - 1) @ x / 50))
        q = Posterior(net, zero, variance=0.05)
        bound, risk = certify(q, x, y, draws=20, seed=trial).bound, exact_risk(q)
        undercut += bound < risk
        bounds.append(bound), risks.append(risk)
    assert undercut <= 200 * 0.035
    assert np.mean(bounds) < 0.45 and np.mean(risks) > 0.03  # it says something, of something


def test_the_known_risk_is_the_error_on_many_fresh_samples():
    """Also when the samples come from a generator of the same seed: its noise is not theirs."""
    net, zero = (nn.Sequential(nn.Linear(2, 2, bias=False)) for _ in "ab")
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-0.8, 0.1], [0.7, 0.2]]))
    q = Posterior(net, zero, variance=0.05)
    x = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    assert sampled_error(q, x, (x[:, 0] > 0).long(), 2) == pytest.approx(exact_risk(q), abs=0.003)


def test_the_digits_for_bounds_are_a_plain_random_split_scaled_by_constants():
    split = digits_for_bounds(3, m=1000)
    assert split.x_train.shape == (1000, 1, 8, 8) and len(split.y_test) == 797
    pixels = torch.cat([split.x_train, split.x_test]).flatten()
    assert pixels.min() == -1 and pixels.max() == 1
    assert torch.equal(pixels * 8, (pixels * 8).round())  # whole numbers: no statistic entered
    counts = torch.cat([split.y_train, split.y_test]).bincount()
    assert counts.sum() == 1797 and counts.min() == 174
    assert not torch.equal(split.y_train, digits_for_bounds(4, m=1000).y_train)
    refused(ValueError, "lies in 1..1796", digits_for_bounds, 0, 1797)


# Bad input ----------------------------------------------------------------------------------------


def refused(error, why, call, *args, **options):
    with pytest.raises(error, match=why) as found:
        call(*args, **options)
    assert "\n" not in str(found.value)


def test_bad_input_is_one_sentence():
    q, x, y = posterior(double=False)
    net = mlp((4, 5, 3))
    refused(ValueError, "all 60 samples are of class 1", certify, q, x, torch.ones_like(y))
    refused(ValueError, "all 60 samples are of class 0", optimise, q, x, torch.zeros_like(y))
    refused(ValueError, "two labelled samples", certify, q, x[:1], y[:1])
    refused(ValueError, "delta is a probability", certify, q, x, y, delta=1.5)
    refused(ValueError, "delta_draws is a probability", certify, q, x, y, delta_draws=0)
    refused(ValueError, "draws must be", certify, q, x, y, draws=0)
    refused(ValueError, "an error rate", kl_inverse, 1.2, 0.1)
    refused(ValueError, "an error rate", kl_bernoulli, 0.2, math.nan)
    refused(ValueError, "the bound diverges", kl_inverse, 0.2, math.nan)
    refused(ValueError, "the bound diverges", kl_inverse, 0.2, -1.0)
    refused(ValueError, "basis must be", Posterior, net, net, "eigen")
    refused(ValueError, "variance must be positive", Posterior, net, net, variance=0.0)
    refused(ValueError, "the shapes of the trained one", Posterior, net, mlp((4, 6, 3)))
    refused(ValueError, "BatchNorm1d is none", Posterior, *(mlp((4, 5, 3), batch_norm=True),) * 2)
    refused(ValueError, "Conv2d is none", Posterior, *(cnn((2, 3), 4, side=4),) * 2)
    refused(ValueError, "Linear is none", Posterior, *(nn.Linear(4, 3),) * 2)
    refused(ValueError, "no dense layer", Posterior, *(nn.Sequential(nn.ReLU()),) * 2)
    with torch.no_grad():
        q.log_s[0][0, 0] = -math.inf
    refused(ValueError, "the bound diverges: KL", certify, q, x, y)


def test_a_diverging_optimisation_names_its_step():
    q, x, y = posterior(double=False)
    refused(FloatingPointError, r"diverges at step \d+", optimise, q, x, y, lr=1e4, steps=50)


def test_the_coins_that_judge_are_not_those_that_were_fitted_to(monkeypatch):
    """Streams of one seed and two purposes differ, and each function asks for its own."""
    streams = [torch.rand(5, generator=pac_bayes.own_generator(3, p)) for p in (1, 2)]
    assert not torch.equal(*streams)
    asked, made = [], pac_bayes.own_generator

    def listening(seed, purpose):
        asked.append((seed, purpose))
        return made(seed, purpose)

    monkeypatch.setattr(pac_bayes, "own_generator", listening)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    q = Posterior(mlp((3, 2), seed=1), mlp((3, 2), seed=2))
    optimise(q, x, y, steps=1, seed=3)
    certify(q, x, y, draws=1, seed=3)
    assert asked == [(3, pac_bayes.OPTIMISING), (3, pac_bayes.SAMPLING)]
