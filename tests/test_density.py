"""Densities: closed forms for what is read off them, quadrature for where they come from."""

from __future__ import annotations

import io
import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lla_helpers import Hessian, SpectralDensity, slq, top_eigenpairs
from lla_helpers.data import load_digits
from lla_helpers.density import Complement
from lla_helpers.lanczos import NotConverged, lanczos
from lla_helpers.models import mlp
from lla_helpers.training import train
from lla_helpers.validity import Validity
from tests import reference

SPECTRUM = np.concatenate([[5.0, 3.0, -1.0], np.linspace(-0.2, 0.2, 197)])


def matrix(eigenvalues=SPECTRUM, dtype=torch.float64) -> torch.Tensor:
    return torch.from_numpy(reference.symmetric(eigenvalues)).to(dtype)


def by_hand() -> SpectralDensity:
    """Two probes with three nodes each, one of no weight."""
    return SpectralDensity(
        np.array([[-1.0, 0.0, 3.0], [0.0, 1.0, 1.0]]),
        np.array([[0.2, 0.5, 0.3], [0.4, 0.6, 0.0]]),
        dim=10,
    )


# What is read off -------------------------------------------------------------------------------


def test_moments_trace_and_support_by_hand():
    d = by_hand()
    assert d.moment(0) == pytest.approx(1.0)
    assert d.moment(1) == pytest.approx((0.7 + 0.6) / 2)
    assert d.moment(2) == pytest.approx((0.2 + 0.3 * 9 + 0.6) / 2)
    assert d.trace() == pytest.approx(10 * 0.65)
    assert d.support == (-1.0, 3.0) and d.probes == 2


def test_cdf_is_a_right_continuous_step_function():
    d = by_hand()
    points = [-1.1, -1.0, -0.5, 0.0, 0.5, 1.0, 2.9, 3.0, 99.0]
    steps = [0.0, 0.1, 0.1, 0.55, 0.55, 0.85, 0.85, 1.0, 1.0]
    np.testing.assert_allclose(d.cdf(points), steps, atol=1e-15)
    assert d.cdf(0.0).shape == () and d.cdf(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("c", [1e-7, 1.0, 1e7])
@pytest.mark.parametrize("width", [None, 0.002, 0.1])
def test_pdf_is_a_gaussian_mixture_of_a_width_relative_to_the_range(width, c):
    """Traps 6 and 14: it integrates to 1 at every scale, on a grid that covers every probe."""
    d = SpectralDensity(c * by_hand().nodes, by_hand().weights, dim=10)
    sigma = (0.005 if width is None else width) * 4.0 * c
    assert d.sigma(width) == pytest.approx(sigma)
    t = d.grid(20_001, width)
    assert t[0] <= -c - 5 * sigma * 0.999 and t[-1] >= 3 * c + 5 * sigma * 0.999
    assert np.trapezoid(d.pdf(t, width), t) == pytest.approx(1.0, abs=1e-5)
    direct = sum(
        w * np.exp(-((0.3 * c - n) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        for n, w in zip(d.nodes.ravel(), d.weights.ravel(), strict=True)
    )
    assert d.pdf(0.3 * c, width) == pytest.approx(direct / 2)
    edges = np.linspace(-2 * c, 4 * c, 9)
    np.testing.assert_allclose(
        d.mass(edges, width),
        [np.trapezoid(d.pdf(s := np.linspace(a, b, 4001), width), s) for a, b in pairwise(edges)],
        atol=2e-6,
    )


def test_a_density_at_one_point_has_a_width_all_the_same():
    for node in (7.0, 0.0, -1e-9):
        d = SpectralDensity([[node, node]], [[0.5, 0.5]], dim=3)
        t = d.grid(2001)
        assert np.trapezoid(d.pdf(t), t) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("width", [0, -0.1, math.nan, math.inf])
def test_a_width_must_be_positive(width):
    with pytest.raises(ValueError, match="relative to the range"):
        by_hand().pdf(0.0, width)


def test_wasserstein_against_closed_forms():
    point = SpectralDensity([[2.0]], [[1.0]], dim=4)
    assert point.wasserstein([2.0]) == 0.0
    assert point.wasserstein([0.0, 1.0, 2.0, 5.0]) == pytest.approx((2 + 1 + 0 + 3) / 4)
    eigenvalues = np.random.default_rng(0).normal(size=50)
    d = SpectralDensity(eigenvalues[None], np.full((1, 50), 1 / 50), dim=50)
    assert d.wasserstein(eigenvalues) == pytest.approx(0.0, abs=1e-15)
    assert d.wasserstein(eigenvalues + 0.3) == pytest.approx(0.3)
    d = by_hand()
    pooled = reference.wasserstein(d.nodes.ravel(), d.weights.ravel() / 2, eigenvalues)
    assert d.wasserstein(eigenvalues) == pytest.approx(pooled)
    for wrong in ([], [math.nan], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="finite eigenvalues"):
            d.wasserstein(wrong)


def test_standard_errors_over_probes():
    d = by_hand()
    traces = np.array([7.0, 6.0])
    found = d.stderr(lambda nodes, weights: d.dim * weights @ nodes)
    assert found == pytest.approx(traces.std(ddof=1) / math.sqrt(2))
    one = SpectralDensity(d.nodes[0], d.weights[0], dim=10)
    assert one.probes == 1 and math.isnan(one.stderr(lambda n, w: w @ n))
    assert math.isnan(one.accuracy())


@pytest.mark.parametrize(
    ("nodes", "weights", "dim", "match"),
    [
        ([[1, 2]], [[1.0]], 2, "one shape"),
        ([[]], [[]], 2, "one shape"),
        ([[1, math.nan]], [[0.5, 0.5]], 2, "finite"),
        ([[1, 2]], [[0.5, math.nan]], 2, "finite"),
        ([[1, 2]], [[1.5, -0.5]], 2, "non-negative"),
        ([[1, 2]], [[0.5, 0.4]], 2, "sum to 1"),
        ([[1, 2], [1, 2]], [[0.5, 0.5], [1.0, 1.0]], 2, "each row must sum to 1"),
        ([[1, 2]], [[0.5, 0.5]], 0, "dim"),
    ],
    ids=["shape", "empty", "nan node", "nan weight", "negative", "sum", "row", "dim"],
)
def test_arrays_that_are_no_density_are_refused(nodes, weights, dim, match):
    """Trap 12."""
    with pytest.raises(ValueError, match=match):
        SpectralDensity(nodes, weights, dim)


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "validity", [None, Validity(1e-7, 2e-7, 3e-8, ("a hook", "ein Häkchen"), 1e-16, 4e-8)], ids=str
)
@pytest.mark.parametrize("steps", [None, 7])
def test_what_is_saved_is_what_is_loaded(tmp_path, validity, steps):
    d = SpectralDensity(by_hand().nodes, by_hand().weights, 10, steps, validity)
    d.save(tmp_path / "density.npz")
    found = SpectralDensity.load(tmp_path / "density.npz")
    assert (found.nodes == d.nodes).all() and (found.weights == d.weights).all()
    assert (found.dim, found.steps, found.validity) == (10, steps, validity)
    with np.load(tmp_path / "density.npz", allow_pickle=False) as arrays:
        assert all(array.dtype != object for array in arrays.values())


class Exploit:
    """What a pickle can do to whoever opens it."""

    ran = False

    def __reduce__(self):
        return setattr, (Exploit, "ran", True)


def malicious() -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer, nodes=np.array([Exploit()], dtype=object), weights=np.ones((1, 1)), dim=np.array(1)
    )
    return buffer.getvalue()


def incomplete() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, nodes=np.ones((1, 1)))
    return buffer.getvalue()


def negative() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, nodes=np.ones((1, 2)), weights=np.array([[2.0, -1.0]]), dim=np.array(2))
    return buffer.getvalue()


def saved() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, nodes=np.ones((1, 1)), weights=np.ones((1, 1)), dim=np.array(1))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [malicious, incomplete, negative, lambda: b"", lambda: b"text", lambda: saved()[:-40]],
    ids=["pickle", "incomplete", "no density", "empty", "text", "truncated"],
)
def test_files_that_are_no_density_are_refused_without_running_them(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content())
    with pytest.raises(ValueError, match=r"bad\.npz holds no spectral density"):
        SpectralDensity.load(tmp_path / "bad.npz")
    assert not Exploit.ran
    with pytest.raises(FileNotFoundError):
        SpectralDensity.load(tmp_path / "none.npz")


# Stochastic Lanczos quadrature ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_rows_are_gauss_quadratures(dtype):
    """Real float64 arrays, weights non-negative, rows summing to 1 (trap 12)."""
    A = matrix(dtype=dtype)
    d = slq(A, steps=30, probes=3)
    assert d.nodes.shape == d.weights.shape == (3, 30)
    assert d.nodes.dtype == d.weights.dtype == np.float64
    assert (d.weights >= 0).all()
    np.testing.assert_allclose(d.weights.sum(1), 1.0, rtol=1e-12)
    assert d.dim == 200 and d.steps == 30 and d.validity.faults() == ()
    assert d.support[1] == pytest.approx(5.0, rel=1e-5)
    assert d.support[0] == pytest.approx(-1.0, rel=1e-5)


def test_rademacher_probes_are_exact_for_the_trace_of_a_diagonal():
    """v_i^2 = 1, so v^T D v = tr D for any signs: not a matter of luck."""
    D = torch.diag(torch.linspace(-1, 3, 50, dtype=torch.float64))
    for seed in range(3):
        d = slq(D, steps=10, probes=1, seed=seed)
        assert d.trace() == pytest.approx(50.0, rel=1e-12)


def test_moments_are_unbiased_and_standard_errors_honest():
    A = matrix()
    d = slq(A, steps=20, probes=64)
    for k in (1, 2, 3):
        exact = np.mean(SPECTRUM**k)
        stderr = d.stderr(lambda n, w, k=k: w @ n**k)
        assert stderr > 0
        assert abs(d.moment(k) - exact) < 3.5 * stderr


def test_a_probe_depends_on_its_seed_and_number_alone():
    A = matrix()
    d = slq(A, 20, 4, seed=5)
    same = slq(A, 20, 4, seed=5)
    assert (d.nodes == same.nodes).all() and (d.weights == same.weights).all()
    assert (slq(A, 20, 2, seed=5).nodes == d.nodes[:2]).all()
    assert not np.isclose(slq(A, 20, 4, seed=6).nodes[:, 5], d.nodes[:, 5]).any()
    assert len(np.unique(d.nodes[:, 5])) == 4
    state = torch.get_rng_state()
    slq(A, 5, 2)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("block_size", [2, 3, 4, 7])
def test_blocks_of_probes_change_nothing(block_size):
    class Blocked:
        def __init__(self, A):
            self.A, self.shape, self.dtype, self.block_size = A, A.shape, A.dtype, block_size
            self.widths = set()

        def __matmul__(self, v):
            self.widths.add(v.reshape(len(v), -1).shape[1])
            return self.A @ v

    op = Blocked(matrix())
    d, alone = slq(op, 20, 4), slq(op.A, 20, 4)
    assert max(op.widths) == min(block_size, 4)
    np.testing.assert_allclose(d.nodes, alone.nodes, atol=1e-11)
    np.testing.assert_allclose(d.weights, alone.weights, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("eigenvalues", "trace"),
    [(np.ones(30), 30.0), (np.zeros(30), 0.0), ([2.5], 2.5), (-np.ones(9) * 1e-7, -9e-7)],
    ids=["identity", "zero", "P=1", "tiny"],
)
def test_after_a_breakdown_rows_are_filled_up(eigenvalues, trace, dtype):
    d = slq(matrix(eigenvalues, dtype), steps=80, probes=3)
    assert d.nodes.shape == (3, min(80, len(eigenvalues)))
    assert np.isfinite(d.nodes).all() and np.isfinite(d.weights).all()
    assert d.trace() == pytest.approx(trace, rel=1e-5)
    assert np.isfinite(d.pdf(d.grid(101))).all()


@pytest.mark.parametrize("c", [1e-7, 1e-3, 1e5, 1e7])
@pytest.mark.parametrize("deflate", [0, 3])
def test_scale_changes_the_nodes_alone(c, deflate):
    A = matrix(dtype=torch.float32)
    d, scaled = slq(A, 25, 3, deflate=deflate), slq(c * A, 25, 3, deflate=deflate)
    assert abs(scaled.nodes / c - d.nodes).max() < 2e-5
    assert abs(scaled.weights - d.weights).max() < 2e-5
    assert scaled.validity.faults() == ()


@pytest.mark.parametrize("deflate", [1, 3, 10])
def test_deflated_eigenvalues_enter_exactly_and_first(deflate):
    A = matrix()
    d = slq(A, 30, 3, deflate=deflate)
    exact = SPECTRUM[np.argsort(-abs(SPECTRUM), kind="stable")][:deflate]
    assert d.nodes.shape == (3, deflate + 30)
    # The bulk is symmetric: equal moduli come in either order.
    np.testing.assert_allclose(abs(d.nodes[:, :deflate]), np.tile(abs(exact), (3, 1)), atol=1e-8)
    np.testing.assert_allclose(d.weights[:, :deflate], 1 / 200)
    np.testing.assert_allclose(d.weights.sum(1), 1.0, rtol=1e-12)
    assert abs(d.nodes[:, deflate:]).max() < abs(exact[-1]) + 1e-8


def test_deflation_takes_away_what_the_outliers_add_to_the_spread():
    plain, deflated = slq(matrix(), 30, 12), slq(matrix(), 30, 12, deflate=3)
    spread = [d.stderr(lambda n, w: w @ n**2) for d in (plain, deflated)]
    assert spread[1] < 0.1 * spread[0]


def test_probes_see_nothing_of_what_is_deflated():
    """A start vector with a share in the deflated space would put that share at zero."""
    eigenvalues = np.linspace(1, 3, 60)
    d = slq(matrix(eigenvalues), 20, 4, deflate=30)
    assert d.nodes[d.weights > 1e-9].min() > 0.999
    assert d.wasserstein(eigenvalues) < 0.05


def test_accuracy_is_reached_or_its_lack_is_told():
    A = matrix()
    d = slq(A, 30, accuracy=0.01)
    assert d.accuracy() <= 0.01 and d.probes >= 4
    with pytest.warns(NotConverged, match="4 probes reach an accuracy of .*raise max_probes"):
        few = slq(A, 120, accuracy=1.1 * slq(A, 120, 4).resolution(), max_probes=4)
    assert few.probes == 4
    # More probes cannot mend what too few steps cost, so they are not spent.
    with pytest.warns(NotConverged, match="4 probes reach an accuracy of .*raise steps"):
        coarse = slq(A, 5, accuracy=1e-4)
    assert coarse.probes == 4


@pytest.mark.parametrize(("probes", "most"), [(4, 2), (1, 3), (9, 5)])
def test_max_probes_ends_it_below_four_and_below_probes(probes, most):
    with pytest.warns(NotConverged, match=f"{most} probes reach an accuracy of"):
        assert slq(matrix(), 30, probes, accuracy=1e-6, max_probes=most).probes == most


@pytest.mark.parametrize("c", [2.0**-80, 2.0**66])
def test_squares_that_float32_cannot_hold_change_nothing(c):
    A = matrix(dtype=torch.float32)
    d, scaled = slq(A, 25, 3), slq(c * A, 25, 3)
    assert (scaled.nodes / c == d.nodes).all() and (scaled.weights == d.weights).all()


def test_half_precision_has_a_density():
    d = slq(matrix(dtype=torch.bfloat16), 20, 2, deflate=2)
    assert d.support[1] == pytest.approx(5.0, rel=0.03)


def test_deflated_vectors_leave_less_room():
    op = matrix()
    vectors = torch.linalg.qr(torch.randn(200, 3, dtype=torch.float64))[0]
    assert Complement(op, vectors).room is None

    class Roomy:
        shape, dtype, room = op.shape, op.dtype, 10_000.0

    assert Complement(Roomy(), vectors).room == 10_000 - 3 * 200 * 8
    Roomy.room = 100.0
    assert Complement(Roomy(), vectors).room == 0


@pytest.mark.parametrize("deflate", [0, 3])
@pytest.mark.parametrize("probes", [2, 8])
@pytest.mark.parametrize("steps", [10, 40])
def test_accuracy_claims_what_happens(steps, probes, deflate):
    """Never much too little; where steps are few the guess at their share may be 3 times too much.

    Deflated, the scatter alone claims 2.5 times too little at 10 steps and 8 probes.
    """
    A = matrix()
    many = [slq(A, steps, probes, seed=s, deflate=deflate) for s in range(12)]
    happened = np.mean([m.wasserstein(SPECTRUM) for m in many]) / 6.0
    assert 0.3 < happened / np.mean([m.accuracy() for m in many]) < 1.25


def test_resolution_by_hand():
    # Areas 1 * (0.04 + 0.25) / (4 * 0.7) and 3 * (0.25 + 0.09) / (4 * 0.8), then
    # 1 * (0.16 + 0.36) / (4 * 1.0); the node of no weight is not there. Over two probes and 4.
    areas = 0.29 / 2.8 + 3 * 0.34 / 3.2 + 0.52 / 4
    assert by_hand().resolution() == pytest.approx(areas / 2 / 4)
    # A node in every row at weight 1/P is exact; what is left here is one step each.
    exact = SpectralDensity(np.array([[9.0, 1.0], [9.0, 2.0]]), np.array([[0.1, 0.9]] * 2), dim=10)
    assert exact.resolution() == 0.0


def test_scatter_of_two_probes_by_hand():
    # F differs by d between the two: s = d / sqrt(2), E s = 0.798 sigma, se = s / 0.798 / sqrt(2).
    d = SpectralDensity(np.array([[0.0, 1.0]] * 2), np.array([[0.2, 0.8], [0.6, 0.4]]), dim=10)
    assert d.scatter() == pytest.approx(np.sqrt(2 / np.pi) * 0.4 / 2 / np.sqrt(2 / np.pi))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(steps=0), "steps must be an integer, at least 1, not 0"),
        (dict(steps=2.5), "steps"),
        (dict(steps=True), "steps"),
        (dict(probes=0), "probes must be an integer, at least 1"),
        (dict(seed=-1), "seed must be an integer, at least 0"),
        (dict(deflate=-1), "deflate"),
        (dict(deflate=200), "leaves nothing of an operator of dimension 200"),
        (dict(accuracy=0.0), "accuracy"),
        (dict(accuracy=math.nan), "accuracy"),
        (dict(accuracy="1e-3"), "accuracy is a share of the range"),
        (dict(max_probes=None), "max_probes must be an integer, at least 1, not None"),
        (dict(max_probes=8.0, accuracy=0.1), "max_probes must be an integer, at least 2, not 8.0"),
        (dict(max_probes=1, accuracy=0.1), "max_probes must be an integer, at least 2, not 1"),
    ],
    ids=str,
)
def test_bad_numbers_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        slq(matrix(), **options)


def test_numpy_integers_are_integers():
    d = slq(matrix(), np.int64(5), np.int64(2), seed=np.int64(3), deflate=np.int64(1))
    assert d.nodes.shape == (2, 6)


def test_progress_goes_to_stderr(capsys):
    slq(matrix(), 5, 2, progress=True)
    found = capsys.readouterr()
    assert found.out == "" and "Lanczos" in found.err
    slq(matrix(), 5, 2)
    assert capsys.readouterr().err == ""


# The digits MLP of 2130 parameters --------------------------------------------------------------


@cache
def digits():
    """A trained network, its operator on 500 samples, and the exact spectrum."""
    data = load_digits()
    model = mlp()
    train(model, data.x_train, data.y_train, epochs=10, lr=0.05)
    x, y = data.x_train[:500], data.y_train[:500]
    dense = reference.Flat(model, F.cross_entropy, [(x, y)]).hessian()
    return Hessian(model, F.cross_entropy, (x, y)), dense, torch.linalg.eigvalsh(dense).numpy()


def test_digits_product_and_extremes():
    H, dense, exact = digits()
    assert H.shape == (2130, 2130)
    v = torch.randn(2130, 2, generator=torch.Generator().manual_seed(0))
    product = dense @ v.double()
    assert (H @ v - product).norm() < 2e-6 * product.norm()
    values, _ = top_eigenpairs(H, 5)
    np.testing.assert_allclose(values, exact[::-1][:5], rtol=1e-5)
    values, _ = top_eigenpairs(H, 3, "SA")
    np.testing.assert_allclose(values, exact[:3], atol=1e-5 * exact[-1])


def test_digits_densities_are_as_near_as_dense_float64_lanczos():
    """Over 20 seeds, 80 steps and 4 probes: the median W1 to the exact spectrum is at most 1.25
    times that of float64 Lanczos on the dense matrix, the worst at most 5e-3 of the range."""
    H, _, exact = digits()
    span = exact[-1] - exact[0]
    ours = [slq(H, 80, 4, seed=s).wasserstein(exact) / span for s in range(20)]
    rng, theirs = np.random.default_rng(0), []
    for _ in range(30):
        # In its eigenbasis the matrix is diagonal, and random signs are as good as Gaussians.
        runs = [reference.lanczos(exact, rng.normal(size=2130), 80) for _ in range(4)]
        nodes, weights = (np.concatenate(arrays) for arrays in zip(*runs, strict=True))
        theirs.append(reference.wasserstein(nodes, weights / 4, exact) / span)
    assert np.median(ours) <= 1.25 * np.median(theirs)
    assert max(ours) <= 5e-3


def test_digits_have_one_largest_ritz_value_at_200_steps():
    """Trap 3 on a real Hessian, in float32."""
    H, _, exact = digits()
    start = torch.randn(2130, generator=torch.Generator().manual_seed(0))
    nodes, _ = lanczos(H, start, 200).ritz()
    gap = (exact[-1] - exact[-2]) / 2
    assert (nodes > exact[-1] - gap).sum() == 1
    ghosts, _ = lanczos(H, start, 200, reorthogonalise=False).ritz()
    assert (ghosts > exact[-1] - gap).sum() > 1
