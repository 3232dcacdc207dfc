"""Criteria and types against closed forms of small hand-made densities."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lla_helpers import Hessian, SpectralDensity, criteria, hesd_type, slq
from lla_helpers.data import load_digits
from lla_helpers.hesd import Estimate
from lla_helpers.models import mlp
from lla_helpers.validity import Validity


def density(rows, weights=None, dim=100, **options) -> SpectralDensity:
    rows = np.array(rows, dtype=float)
    weights = np.full(rows.shape, 1 / rows.shape[1]) if weights is None else np.array(weights)
    return SpectralDensity(rows, weights, dim, **options)


def test_every_criterion_by_hand():
    c = criteria(density([[-1.0, 0.0, 3.0], [-2.0, 1.0, 4.0]]))
    assert c.r_e.value == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert c.r_e.stderr == pytest.approx(np.std([1 / 3, 1 / 2], ddof=1) / math.sqrt(2))
    k_hn = [1 / math.sqrt(3), math.sqrt(2) / (1 + 2)]
    assert c.k_hn.value == pytest.approx(np.mean(k_hn))
    assert c.negative_share.value == pytest.approx((1 + 2) / (4 + 7))
    assert c.effective_rank.value == pytest.approx(100 * ((4 + 7) / 6) ** 2 / ((10 + 21) / 6))
    assert (c.lambda_max.value, c.lambda_min.value) == (4.0, -2.0)
    assert c.trace.value == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert c.trace.stderr == pytest.approx(100 * np.std([2 / 3, 1], ddof=1) / math.sqrt(2))
    assert (c.steps, c.probes, c.dim) == (None, 2, 100)
    assert float(c.r_e) == c.r_e.value


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [(171.2, 12.3, "171 ± 10"), (0.0355, 0.0071, "0.0355 ± 0.007"), (0.5, math.nan, "0.5 ± nan")],
)
def test_an_estimate_shows_one_digit_of_its_error(value, stderr, text):
    assert str(Estimate(value, stderr)) == text


def test_k_hn_has_the_weight_inside_the_power():
    c = criteria(density([[-1.0, 2.0]], [[0.25, 0.75]]), n=2)
    assert c.k_hn.value == pytest.approx(0.25**2 / 1.5**2)
    split = criteria(density([[-1.0, 2.0, 2.0]], [[0.25, 0.375, 0.375]]), n=0.5)
    whole = criteria(density([[-1.0, 2.0]], [[0.25, 0.75]]), n=0.5)
    # The same density in more nodes has another K_Hn: that is why it moves with the steps.
    assert split.k_hn.value == pytest.approx(whole.k_hn.value / math.sqrt(2))
    assert split.negative_share.value == pytest.approx(whole.negative_share.value)


def test_negative_share_above_half_means_a_negative_trace():
    generator = np.random.default_rng(0)
    for _ in range(200):
        c = criteria(density(generator.normal(size=(3, 7))))
        assert (c.negative_share.value > 0.5) == (c.trace.value < 0)


def test_effective_rank_counts_equal_eigenvalues():
    one_in_ten = density([[0.0, 5.0]] * 2, [[0.9, 0.1]] * 2, dim=100)
    assert criteria(one_in_ten).effective_rank.value == pytest.approx(10)


@pytest.mark.parametrize("c", [1e-30, 1e-7, 1e7])
def test_units_do_not_matter(c):
    rows = np.random.default_rng(1).normal(size=(3, 9))
    one, other = criteria(density(rows)), criteria(density(c * rows))
    for name in ("r_e", "k_hn", "negative_share", "effective_rank"):
        assert getattr(other, name).value == pytest.approx(getattr(one, name).value, rel=1e-12)
        assert getattr(other, name).stderr == pytest.approx(getattr(one, name).stderr, rel=1e-9)
    assert other.trace.value == pytest.approx(c * one.trace.value)


def test_nodes_that_fill_a_row_do_not_count():
    filled = density([[-1.0, 2.0, 2.0]], [[0.5, 0.5, 0.0]])
    assert criteria(filled).k_hn.value == criteria(density([[-1.0, 2.0]])).k_hn.value
    assert criteria(filled).lambda_max.value == 2.0


def test_one_probe_has_no_error_and_no_type():
    c = criteria(density([[1.0, 2.0]]))
    assert math.isnan(c.negative_share.stderr) and math.isnan(c.trace.stderr)
    t = hesd_type(c)
    assert t.label == "undetermined" and "one probe" in t.reasons[0]


def test_a_spectrum_without_positive_or_without_any_nodes():
    negative = criteria(density([[-1.0, -2.0]] * 2))
    assert negative.r_e.value == math.inf and negative.k_hn.value == math.inf
    assert hesd_type(negative).label == "MN"
    zero = criteria(density([[0.0, 0.0]] * 2))
    assert math.isnan(zero.negative_share.value)
    assert hesd_type(zero).label == "undetermined" and "vanishes" in hesd_type(zero).reasons[0]


@pytest.mark.parametrize(
    "negatives, label",
    [((0.1, 0.1), "MP"), ((0.2, 0.28), "undetermined"), ((0.45, 0.45), "undetermined"),
     ((0.49, 0.55), "undetermined"), ((0.7, 0.7), "MN")],
)  # fmt: skip
def test_types_by_the_negative_share_and_its_error(negatives, label):
    # Two nodes, -1 and 1: the share of the absolute mass below zero is the weight of -1.
    c = criteria(density([[-1.0, 1.0]] * 2, [[a, 1 - a] for a in negatives]))
    assert hesd_type(c).label == label


def test_thresholds_are_arguments():
    c = criteria(density([[-1.0, 1.0]] * 2, [[0.4, 0.6]] * 2))
    assert hesd_type(c).label == "undetermined"
    assert hesd_type(c, positive_below=0.45).label == "MP"
    assert hesd_type(c, negative_above=0.35).label == "MN"
    assert hesd_type(c, classes=10).quasi_singular is False
    assert hesd_type(c, classes=101).quasi_singular is True


@pytest.mark.parametrize(
    "fault, word",
    [(Validity(1e-2, 0.0), "not symmetric"), (Validity(0.0, 1e-2), "not linear"),
     (Validity(math.nan, 0.0), "not symmetric"), (Validity(0, 0, 1.0), "gradient is not that")],
)  # fmt: skip
def test_an_operator_that_is_no_hessian_has_no_type(fault, word):
    t = hesd_type(criteria(density([[-1.0, 9.0]] * 2, validity=fault)))
    assert t.label == "undetermined" and word in t.reasons[0]


def test_a_reversal_layer_is_recognised_and_named():
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            return -g

    class Reversed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp((64, 6, 10), "tanh")

        def forward(self, x):
            return Reverse.apply(self.net(x))

    data = load_digits()
    h = Hessian(Reversed(), F.cross_entropy, (data.x_train[:50], data.y_train[:50]))
    t = hesd_type(criteria(slq(h, steps=20, probes=2)))
    assert t.label == "undetermined"
    assert any("gradient is not that of the loss" in reason for reason in t.reasons)
    assert any("Reverse" in reason for reason in t.reasons)


def test_a_parameter_hook_is_named_but_does_not_reach_the_operator():
    data, net = load_digits(), mlp((64, 6, 10), "tanh")
    pair = (data.x_train[:50], data.y_train[:50])
    clean = Hessian(net, F.cross_entropy, pair).dense()
    net[1].weight.register_hook(lambda g: -g)
    hooked = Hessian(net, F.cross_entropy, pair)
    assert torch.equal(hooked.dense(), clean)
    assert hooked.check().faults() == ()
    assert "1.weight has a gradient hook" in hooked.check().notes[0]


@pytest.mark.parametrize("n", [0, -1, math.nan, "half"])
def test_a_bad_power_is_refused(n):
    with pytest.raises(ValueError, match="must be positive"):
        criteria(density([[1.0, 2.0]]), n=n)
