"""Eigenpairs at both ends against eigenvalues that were planted."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from lla_helpers import lanczos, top_eigenpairs
from lla_helpers.lanczos import NotConverged
from tests import reference

KEYS = {"LA": lambda x: -x, "SA": lambda x: x, "LM": lambda x: -abs(x)}
BULK = np.random.default_rng(0).normal(size=295) * 0.1


class Counted:
    """An operator that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype, self.products = matrix, matrix.shape, matrix.dtype, 0

    def __matmul__(self, v):
        self.products += 1
        return self.matrix @ v


def operator(eigenvalues, seed=0, dtype=torch.float64) -> Counted:
    return Counted(torch.from_numpy(reference.symmetric(eigenvalues, seed)).to(dtype))


def check(op, eigenvalues, k, which, close, seed=0):
    """Right values in the right order, right residuals, orthonormal vectors, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, vectors = top_eigenpairs(op, k, which, seed=seed)
    eigenvalues = np.asarray(eigenvalues, dtype=np.float64)
    exact = eigenvalues[np.argsort(KEYS[which](eigenvalues), kind="stable")][:k]
    scale = abs(eigenvalues).max() or 1.0
    assert values.shape == (k,) and vectors.shape == (op.shape[0], k)
    assert values.dtype == np.float64 and vectors.dtype == op.dtype
    assert abs(values - exact).max() <= close * scale
    residual = op.matrix @ vectors - vectors * torch.from_numpy(values).to(vectors)
    assert residual.norm(dim=0).max() <= 10 * torch.finfo(op.dtype).eps ** (2 / 3) * scale
    identity = torch.eye(k, dtype=op.dtype)
    assert (vectors.T @ vectors - identity).abs().max() < 100 * torch.finfo(op.dtype).eps


def planted(*top):
    return np.concatenate([top, BULK])


CASES = {
    "distinct": (planted(5, 4, 3, 2, 1), 5),
    "inside the bulk": (BULK, 20),
    "double": (planted(5, 5, 3, 2, 1), 4),
    "triple": (planted(5, 5, 5, 2, 1), 3),
    "triple cut in two": (planted(5, 5, 5, 2, 1), 2),
    "tenfold": (planted(*[5] * 10), 10),
    "close": (planted(5, 4.9999, 4.9998, 4.9997), 4),
    "double above close ones": (planted(5, 5, 4.99, 4.98, 4.97), 3),
    "double above a dense spectrum": (np.concatenate([[1.0], np.linspace(0, 1, 299)]), 2),
    "all": (BULK[:30], 30),
    "all but one": (BULK[:30], 29),
    "identity": (np.ones(50), 5),
    "zero": (np.zeros(50), 3),
    "low rank": (np.concatenate([[3.0, 2.0, 1.0], np.zeros(97)]), 6),
    "negative definite": (-abs(BULK) - 1, 3),
    "P = 1": ([3.0], 1),
    "P = 2, double": ([3.0, 3.0], 2),
}


@pytest.mark.parametrize("which", ["LA", "SA"])
@pytest.mark.parametrize("name", CASES)
def test_both_ends_find_every_copy(name, which):
    eigenvalues, k = CASES[name]
    eigenvalues = np.asarray(eigenvalues) * (1 if which == "LA" else -1)
    for seed in range(4):
        check(operator(eigenvalues, seed), eigenvalues, k, which, 1e-8, seed)


def test_by_modulus_both_signs_come_in_order():
    eigenvalues = planted(-5, 4, -3, 2, -1)
    check(operator(eigenvalues), eigenvalues, 5, "LM", 1e-8)
    eigenvalues = planted(-5, 5, 4)  # equal moduli: either sign may come first
    values, _ = top_eigenpairs(operator(eigenvalues), 3, "LM")
    np.testing.assert_allclose(sorted(values[:2]), [-5, 5], atol=1e-8)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e7])
@pytest.mark.parametrize("name", ["distinct", "triple", "close", "low rank", "all"])
def test_float32_and_any_scale(name, scale):
    eigenvalues, k = CASES[name]
    eigenvalues = np.asarray(eigenvalues) * scale
    check(operator(eigenvalues, dtype=torch.float32), eigenvalues, k, "LA", 1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e20, 1e30])
def test_squares_that_float32_cannot_hold(scale):
    for name in ("distinct", "low rank"):
        eigenvalues, k = CASES[name]
        eigenvalues = np.asarray(eigenvalues) * scale
        # The residuals of `check` square as well, so they are taken in float64.
        op = operator(eigenvalues, dtype=torch.float32)
        values, vectors = top_eigenpairs(op, k)
        assert abs(values / scale - np.sort(eigenvalues / scale)[::-1][:k]).max() < 1e-4
        products = (op.matrix.double() / scale) @ vectors.double()
        residual = products - vectors * torch.from_numpy(values / scale)
        assert residual.norm(dim=0).max() < 1e-3 and op.products < 200


@pytest.fixture
def spaces(monkeypatch):
    """The KrylovSpaces that are made, and the most vectors that each combined at a time."""
    made = []

    class Spy(lanczos.KrylovSpace):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.most = 0
            made.append(self)

        def combined(self, s):
            self.most = max(self.most, s.shape[1])
            return super().combined(s)

    monkeypatch.setattr(lanczos, "KrylovSpace", Spy)
    return made


@pytest.mark.parametrize("which", ["LA", "SA"])
@pytest.mark.parametrize("name", ["distinct", "triple", "close", "inside the bulk", "all but one"])
@pytest.mark.parametrize("vectors", [0, 40, 64, 1000])
def test_room_bounds_the_vectors_and_restarts_do_the_rest(vectors, name, which, spaces):
    eigenvalues, k = CASES[name]
    eigenvalues = np.asarray(eigenvalues) * (1 if which == "LA" else -1)
    op = operator(eigenvalues)
    op.room = vectors * op.shape[0] * 8
    check(op, eigenvalues, k, which, 1e-8)
    space = spaces[0]
    floor = min(op.shape[0], k + 12)
    assert space.most <= k + 8
    assert space.width == floor or space.width + space.most <= vectors
    if vectors == 1000:
        assert space.width == min(op.shape[0], max(2 * k + 20, 40))


def test_one_seed_one_answer():
    values, vectors = top_eigenpairs(operator(planted(5, 4, 3)), 3, seed=7)
    again, same = top_eigenpairs(operator(planted(5, 4, 3)), 3, seed=7)
    assert (values == again).all() and torch.equal(vectors, same)
    _, other = top_eigenpairs(operator(planted(5, 4, 3)), 3, seed=8)
    assert not torch.equal(vectors, other)


def test_outliers_cost_few_products():
    """Outliers converge in a few tens of products; a power iteration would take thousands."""
    op = operator(planted(5, 4, 3, 2, 1))
    top_eigenpairs(op, 5)
    assert op.products <= 80


def test_what_has_not_converged_says_so():
    op = operator(np.linspace(0, 1, 300))
    with pytest.warns(
        NotConverged, match=r"5 eigenpairs not converged after \d+ products.*e-"
    ) as w:
        values, vectors = top_eigenpairs(op, 5, max_products=30)
    assert values.shape == (5,) and vectors.shape == (300, 5)
    assert w[0].filename == __file__
    assert op.products < 60


@pytest.mark.parametrize("k", [0, -1, 301, 2.0, "5", None])
def test_impossible_counts_are_refused(k):
    with pytest.raises(ValueError, match=r"k = .* of an operator of dimension 300"):
        top_eigenpairs(operator(planted(5, 4, 3, 2, 1)), k)


def test_an_unknown_end_is_refused():
    with pytest.raises(ValueError, match="'LA', 'SA' or 'LM', not 'LR'"):
        top_eigenpairs(operator(BULK[:10]), 1, "LR")
