"""Every branch of the method on densities that were made to take it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lla_helpers import SpectralDensity, slq
from lla_helpers.methodology import assess
from lla_helpers.validity import Validity

SOUND = Validity(1e-9, 1e-9)


def density(negative, spread=0.0, *, rank=40, probes=4, validity=SOUND, scale=1.0):
    """Half the weight on -negative, half on 1 - negative, at `rank` of 100 places; nu = negative.

    `spread`: how far nu lies from that in every second probe.
    """
    shares = negative + spread * np.resize([1, -1], probes)
    nodes = np.stack([[-s, 1 - s, 0.0] for s in shares]) * scale
    weights = np.tile([rank / 200, rank / 200, 1 - rank / 100], (probes, 1))
    return SpectralDensity(nodes, weights, 100, 20, validity)


def test_mainly_positive_is_the_only_way_to_the_criteria():
    a = assess(density(0.1))
    assert a.valid and a.applicable and a.curvature and a.type.label == "MP"
    assert float(a.criteria.r_e) == pytest.approx(1 / 9)
    # Equal weights: K = (0.1 / 0.9)^(1/2).
    assert float(a.criteria.k_hn) == pytest.approx(1 / 3)
    text = str(a)
    assert "r_e = 0.111 ±" in text and "K_H0.5 = 0.333 ±" in text and "20 Lanczos steps" in text
    assert a.verdict.startswith("Verdict:") and "may be compared" in a.verdict
    assert "nothing about generalisation" in a.verdict
    assert "K_H1 = 0.111" in str(assess(density(0.1), n=1))


@pytest.mark.parametrize(
    ("made", "label", "advice"),
    [
        (density(0.7), "MN", "trace is negative"),
        (density(0.4), "undetermined", "more probes will not change"),
        (density(0.24, 0.02), "undetermined", "more probes may decide"),
        (density(0.49, 0.02), "undetermined", "more probes may decide"),
        (density(0.1, probes=1), "undetermined", "at least two probes"),
    ],
)
def test_no_other_type_lets_the_criteria_through(made, label, advice):
    a = assess(made)
    assert a.valid and not a.applicable and a.type.label == label
    assert advice in a.verdict and "not applicable" in a.verdict
    assert "r_e =" not in str(a) and "K_H" not in str(a)


def test_a_quasi_singular_spectrum_keeps_its_criteria_and_loses_its_reading():
    # Four places of 0.1 and 0.9: (4 x 0.5)^2 / (4 x (0.01 + 0.81) / 2) = 2.4
    a = assess(density(0.1, rank=4))
    assert a.applicable and a.type.quasi_singular and not a.curvature
    assert "effective rank 2.44, below 10 classes" in str(a) and "finite distance" in str(a)
    assert assess(density(0.1, rank=4), classes=2).curvature
    # The flag stands beside every type.
    mn = assess(density(0.7, rank=4))
    assert not mn.applicable and not mn.curvature


@pytest.mark.parametrize(
    ("validity", "word"),
    [
        (Validity(0.3, 1e-9), "not symmetric"),
        (Validity(1e-9, 0.5), "not linear"),
        (Validity(1e-9, 1e-9, 0.1, ("a hook on layer 2",)), "a hook on layer 2"),
    ],
)
def test_an_invalid_operator_ends_it(validity, word):
    a = assess(density(0.1, validity=validity))
    assert not a.valid and not a.applicable and not a.curvature
    assert word in str(a) and "nothing may be read" in a.verdict
    assert "r_e =" not in str(a)


def test_a_spectrum_that_vanishes_is_invalid_too():
    zeros = SpectralDensity(np.zeros((2, 3)), np.full((2, 3), 1 / 3), 10)
    a = assess(zeros)
    assert not a.valid and "no curvature" in str(a)


def test_an_unchecked_density_says_so():
    assert "nobody looked" in str(assess(density(0.1, validity=None)))
    assert "nobody looked" not in str(assess(density(0.1)))


def test_the_unit_of_the_loss_changes_no_verdict():
    for made in (0.1, 0.4, 0.7):
        small, large = (assess(density(made, scale=s)) for s in (1e-7, 1e7))
        assert small.verdict == large.verdict and small.type == large.type


def test_of_an_operator_whose_spectrum_is_known():
    values = torch.cat([torch.linspace(0.5, 2, 80), -torch.linspace(0.05, 0.1, 20)]).double()
    a = assess(slq(torch.diag(values), 40, 6))
    assert a.applicable and a.curvature
    assert float(a.criteria.r_e) == pytest.approx(0.05, rel=0.01)  # 40 Lanczos steps
    torn = torch.diag(values) + 0.5 * torch.triu(torch.ones(100, 100), 1)
    assert not assess(slq(torn.double(), 40, 6)).valid


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        assess(density(0.1), classes=0)
    with pytest.raises(ValueError, match="K_Hn"):
        assess(density(0.1), n=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        assess(density(0.1)).valid = False
