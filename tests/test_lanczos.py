"""Lanczos against dense matrices: the recurrence, quadrature, breakdown, scale, ghosts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lla_helpers.lanczos import lanczos
from tests import reference

DTYPES = [torch.float64, torch.float32]
SPECTRUM = np.concatenate([[5.0, 3.0, -1.0], np.linspace(-0.2, 0.2, 57)])


def matrix(eigenvalues=SPECTRUM, dtype=torch.float64, seed=0) -> torch.Tensor:
    return torch.from_numpy(reference.symmetric(eigenvalues, seed)).to(dtype)


def starts(size: int, k: int = 3, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(size, k, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 12, 60])
def test_t_is_the_operator_in_an_orthonormal_basis(steps, dtype):
    A, close = matrix(dtype=dtype), 100 * torch.finfo(dtype).eps
    run = lanczos(A, starts(60, dtype=dtype), steps)
    assert run.alpha.shape == (3, steps) and run.beta.shape == (3, steps - 1)
    assert run.alpha.dtype == run.beta.dtype == np.float64
    for i in range(3):
        Q = run.basis[i]
        T = np.diag(run.alpha[i]) + np.diag(run.beta[i], 1) + np.diag(run.beta[i], -1)
        assert (Q @ Q.T - torch.eye(steps).to(Q)).abs().max() < close
        assert (Q @ A @ Q.T - torch.from_numpy(T).to(Q)).abs().max() < 5 * close
        start = starts(60, dtype=dtype)[:, i]
        assert torch.allclose(Q[0], start / start.norm())


@pytest.mark.parametrize("steps", [5, 30, 60])
def test_nodes_and_weights_are_those_of_a_plain_implementation(steps):
    A, S = matrix(), starts(60)
    nodes, weights = lanczos(A, S, steps).ritz()
    for i in range(3):
        exact = reference.lanczos(A.numpy(), S[:, i].numpy(), steps)
        # At 60 = P steps the run is complete: these are all eigenvalues of the matrix.
        np.testing.assert_allclose(nodes[i], exact[0], atol=1e-9)
        np.testing.assert_allclose(weights[i], exact[1], atol=1e-7)
    assert steps < 60 or abs(nodes - np.sort(SPECTRUM)).max() < 1e-9


def test_quadrature_is_exact_to_degree_2m_minus_1_and_no_further():
    A, v, m = matrix(), starts(60)[:, 0], 4
    q = (v / v.norm()).numpy()
    nodes, weights = lanczos(A, v, m).ritz()
    for degree in range(2 * m + 1):
        exact = q @ np.linalg.matrix_power(A.numpy(), degree) @ q
        found = weights[0] @ nodes[0] ** degree
        assert (abs(found - exact) < 1e-12 * 5.0**degree) == (degree < 2 * m)


def test_runs_side_by_side_are_the_runs_alone():
    A, S = matrix(), starts(60)
    together = lanczos(A, S, 20)
    for i in range(3):
        alone = lanczos(A, S[:, i], 20)
        np.testing.assert_allclose(together.alpha[i], alone.alpha[0], atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("eigenvalues", "length"),
    [
        (np.ones(30), 1),
        (np.zeros(30), 1),
        (np.repeat([1.0, 2.0, 4.0], 10), 3),
        ([7.0], 1),
        ([0.0], 1),
        ([3.0, 1.0], 2),
        (-np.ones(30) * 1e-6, 1),
    ],
    ids=["identity", "zero", "three values", "P=1", "P=1 zero", "P=2", "tiny"],
)
def test_breakdown_ends_a_run_and_keeps_its_quadrature(eigenvalues, length, dtype):
    """The Krylov space is as large as there are distinct eigenvalues, whatever was asked for.

    Where rounding hides the end of a run it goes on, and finds further copies of eigenvalues that
    are there more than once: they share the weight.
    """
    eigenvalues = np.asarray(eigenvalues)
    A = matrix(eigenvalues, dtype)
    run = lanczos(A, starts(len(eigenvalues), 2, dtype), 12)
    nodes, weights = run.ritz()
    assert (run.length == length).all() or length == 3
    assert nodes.shape == weights.shape == (2, min(12, len(eigenvalues)))
    assert np.isfinite(nodes).all() and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    exact, scale = np.unique(eigenvalues), abs(eigenvalues).max()
    for row, weight, end in zip(nodes, weights, run.length, strict=True):
        assert not weight[end:].any() and set(row[end:]) <= set(row[:end])
        off = abs(row[weight > 1e-9, None] - exact)
        assert (off.min(1) <= 50 * torch.finfo(dtype).eps * scale).all()
        assert (off.min(0) <= 50 * torch.finfo(dtype).eps * scale).all()


def test_low_rank_and_a_start_inside_an_invariant_space():
    """A probe that breaks down early beside one that does not: neither disturbs the other."""
    values = np.concatenate([[3.0, 2.0], np.zeros(28)])
    A = torch.diag(torch.from_numpy(values))
    S = torch.stack([torch.eye(30, dtype=torch.float64)[0], starts(30)[:, 0]], dim=1)
    run = lanczos(A, S, 10)
    nodes, weights = run.ritz()
    assert run.length[0] == 1 and run.length[1] >= 3
    assert nodes[0, 0] == 3.0 and weights[0, 0] == 1.0
    q = (S[:, 1] / S[:, 1].norm()).numpy()
    assert weights[1] @ nodes[1] == pytest.approx(q @ (values * q), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("exponent", range(-7, 8, 2))
def test_multiplying_the_operator_multiplies_the_nodes_alone(exponent, dtype):
    """Trap 1: no absolute epsilon anywhere. Powers of two are exact in binary, so are the nodes."""
    A, S = matrix(dtype=dtype), starts(60, dtype=dtype)
    nodes, weights = lanczos(A, S, 40).ritz()
    c = 10.0**exponent
    scaled, same = lanczos(c * A, S, 40).ritz()
    close = 50 * torch.finfo(dtype).eps
    assert abs(scaled / c - nodes).max() < close * 5
    assert abs(same - weights).max() < close
    c = 2.0 ** round(np.log2(c))
    scaled, same = lanczos(c * A, S, 40).ritz()
    assert (scaled / c == nodes).all() and (same == weights).all()


@pytest.mark.parametrize("c", [2.0**-90, 2.0**-80, 2.0**66, 2.0**100])
def test_squares_that_float32_cannot_hold_are_no_breakdown(c):
    """Squares of 1e-24 are 0 in float32, and those of 1e20 infinite."""
    A, S = matrix(dtype=torch.float32), starts(60, dtype=torch.float32)
    nodes, weights = lanczos(A, S, 40).ritz()
    scaled, same = lanczos(c * A, S, 40).ritz()
    assert (scaled / c == nodes).all() and (same == weights).all()
    scaled, same = lanczos(A, c * S, 40).ritz()
    np.testing.assert_allclose(scaled, nodes, atol=1e-4)
    np.testing.assert_allclose(same, weights, atol=1e-4)


def test_float32_vectors_stay_float32():
    run = lanczos(matrix(dtype=torch.float32), starts(60, dtype=torch.float32), 5)
    assert run.basis.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_finds_the_extremes(dtype):
    A, S = matrix(dtype=dtype), starts(60)
    nodes, _ = lanczos(A, S, 12).ritz()
    assert abs(nodes.max(1) - 5).max() < 0.1 and abs(nodes.min(1) + 1).max() < 0.1
    # A norm of 2e5, where float16 ends at 65504.
    nodes, _ = lanczos(A, torch.full((60,), 3e4), 12).ritz()
    assert abs(nodes.max() - 5) < 0.1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_copy_of_the_largest_eigenvalue_at_200_steps(dtype):
    """Trap 3: ghosts come without re-orthogonalisation, and hardly move the density."""
    values = np.concatenate([[10.0, 6.0], np.linspace(0, 1, 298)])
    A, v = matrix(values, dtype), starts(300, 1, dtype)
    nodes, _ = lanczos(A, v, 200).ritz()
    assert (nodes > 9.99).sum() == 1 and (abs(nodes - 6) < 0.01).sum() == 1
    ghosts, _ = lanczos(A, v, 200, reorthogonalise=False).ritz()
    assert (ghosts > 9.99).sum() > 1


def test_every_step_is_reported():
    count = []
    lanczos(matrix(), starts(60), 7, on_step=lambda: count.append(1))
    assert len(count) == 7


@pytest.mark.parametrize(
    ("start", "steps", "match"),
    [
        (torch.zeros(60), 5, "finite and not zero"),
        (torch.full((60,), torch.nan), 5, "finite and not zero"),
        (torch.ones(60), 0, "positive integer, not 0"),
        (torch.ones(60), 2.5, "positive integer"),
        (torch.ones(3, 60), 5, r"\(60,\) or \(60, k\), not \(3, 60\)"),
        (torch.ones(59), 5, r"\(60,\) or \(60, k\), not \(59,\)"),
    ],
    ids=["zero", "nan", "no steps", "half a step", "transposed", "length"],
)
def test_bad_starts_and_steps_are_refused(start, steps, match):
    with pytest.raises(ValueError, match=match):
        lanczos(matrix(), start, steps)
