"""The spectral density of a symmetric operator by stochastic Lanczos quadrature.

    phi(t) = (1/P) sum_i delta(t - lambda_i)  ~  (1/k) sum_i sum_j w_j^(i) delta(t - node_j^(i))

Nodes are Ritz values, weights the squared first components of T's eigenvectors (Golub and Welsch
1969; Ubaru, Chen and Saad 2017). The nodes are the estimate; smoothing them is for the eye only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from scipy.special import ndtr
from scipy.stats import wasserstein_distance

from lla_helpers.lanczos import NotConverged, lanczos, top_eigenpairs
from lla_helpers.validity import Validity, check_operator

Row = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class SpectralDensity:
    """Weighted nodes, one row a probe; each row is an estimate of the density by itself.

    nodes, weights: float64 arrays of one shape (probes, n), weights non-negative, each row summing
    to 1. dim: P, the dimension of the operator, so that trace = P times the mean node. steps: the
    Lanczos steps. validity: what `check` found on the operator, or None if nobody looked.

    Raises ValueError for arrays that are no such thing.
    """

    nodes: np.ndarray
    weights: np.ndarray
    dim: int
    steps: int | None = None
    validity: Validity | None = None

    def __post_init__(self) -> None:
        nodes = np.atleast_2d(np.asarray(self.nodes, dtype=np.float64))
        weights = np.atleast_2d(np.asarray(self.weights, dtype=np.float64))
        if nodes.shape != weights.shape or nodes.size == 0:
            raise ValueError(
                f"nodes and weights need one shape (probes, n), not {nodes.shape} and "
                f"{weights.shape}"
            )
        if not (np.isfinite(nodes).all() and np.isfinite(weights).all()):
            raise ValueError("nodes and weights must be finite")
        if (weights < 0).any() or not np.allclose(weights.sum(1), 1.0, atol=1e-6):
            raise ValueError("weights must be non-negative, and each row must sum to 1")
        if self.dim < 1:
            raise ValueError(f"dim is the number of parameters, at least 1, not {self.dim}")
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "weights", weights)

    @property
    def probes(self) -> int:
        return len(self.nodes)

    @property
    def support(self) -> tuple[float, float]:
        """The smallest and the largest node of all probes."""
        return float(self.nodes.min()), float(self.nodes.max())

    @property
    def scale(self) -> float:
        """The length that widths are relative to: the range, or |node| if all nodes are one."""
        low, high = self.support
        return (high - low) or max(abs(low), abs(high)) or 1.0

    def moment(self, k: int) -> float:
        """tr(A^k) / P, the mean over probes of sum_j w_j node_j^k."""
        return float(np.mean(np.sum(self.weights * self.nodes**k, axis=1)))

    def trace(self) -> float:
        """tr(A) = P times the first moment."""
        return self.dim * self.moment(1)

    def cdf(self, t) -> np.ndarray:
        """Share of eigenvalues at most t; the shape of t."""
        t = np.asarray(t, dtype=np.float64)
        order = np.argsort(self.nodes, axis=None)
        nodes = self.nodes.reshape(-1)[order]
        steps = np.concatenate([[0.0], np.cumsum(self.weights.reshape(-1)[order])]) / self.probes
        return np.minimum(steps[np.searchsorted(nodes, t, side="right")], 1.0)

    def pdf(self, t, width: float | None = None) -> np.ndarray:
        """phi_sigma(t) = sum_j w_j N(t; node_j, sigma^2), sigma = width times the range.

        `width` is 0.005 by default. Integrates to 1 over the real line, whatever the scale.
        """
        t = np.asarray(t, dtype=np.float64)
        sigma = self.sigma(width)
        density = np.zeros_like(t)
        for node, weight in zip(self.nodes.reshape(-1), self.weights.reshape(-1), strict=True):
            if weight > 0:
                density += weight * np.exp(-0.5 * ((t - node) / sigma) ** 2)
        return density / (sigma * math.sqrt(2 * math.pi) * self.probes)

    def mass(self, edges, width: float | None = None) -> np.ndarray:
        """The smoothed density's mass between consecutive `edges`; shape (len(edges) - 1,)."""
        z = (np.asarray(edges, dtype=np.float64)[:, None] - self.nodes.reshape(-1)) / self.sigma(
            width
        )
        return np.diff(ndtr(z) @ self.weights.reshape(-1)) / self.probes

    def sigma(self, width: float | None = None) -> float:
        """The kernel width in units of the eigenvalues."""
        width = 0.005 if width is None else width
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"width is relative to the range and must be positive, not {width!r}")
        return width * self.scale

    def grid(self, n: int = 1000, width: float | None = None) -> np.ndarray:
        """n points that cover every node of every probe, five kernel widths beyond the extremes."""
        low, high = self.support
        return np.linspace(low - 5 * self.sigma(width), high + 5 * self.sigma(width), n)

    def wasserstein(self, eigenvalues) -> float:
        """W1 = int |cdf(t) - exact cdf(t)| dt to a full spectrum, in units of the eigenvalues."""
        eigenvalues = np.asarray(eigenvalues, dtype=np.float64).reshape(-1)
        if eigenvalues.size == 0 or not np.isfinite(eigenvalues).all():
            raise ValueError("wasserstein compares with finite eigenvalues, at least one")
        return float(
            wasserstein_distance(
                self.nodes.reshape(-1), eigenvalues, u_weights=self.weights.reshape(-1)
            )
        )

    def stderr(self, functional: Callable[[np.ndarray, np.ndarray], float]) -> float:
        """Standard error over probes of functional(nodes, weights), taken of each row; nan of one.

        `density.stderr(lambda nodes, weights: density.dim * weights @ nodes)` is the trace's.
        """
        if self.probes < 2:
            return math.nan
        rows = [functional(n, w) for n, w in zip(self.nodes, self.weights, strict=True)]
        return float(np.std(rows, ddof=1) / math.sqrt(self.probes))

    def accuracy(self) -> float:
        """Expected W1 to the exact spectrum over the range: `scatter` and `resolution` combined.

        The root of the sum of their squares; nan for one probe. On networks with known spectra it
        was never less than 0.8 of the true mean W1, with and without deflation; where the steps are
        few it may claim up to three times too much, since `resolution` is a cautious guess.
        """
        return math.hypot(self.scatter(), self.resolution())

    def scatter(self) -> float:
        """The probes' part of the expected W1 over the range, from their spread; nan for one.

            sqrt(2/pi) int se(F(t)) dt,  se(F(t)) = s_i(F_i(t)) / (c_k sqrt(k))

        For each t the error of the mean cdf is about normal with standard error se, and its
        absolute value has mean sqrt(2/pi) se. The sample's standard deviation s is on average
        c_k = sqrt(2/(k-1)) Gamma(k/2) / Gamma((k-1)/2) times the true one: 0.80 for two probes.
        """
        k = self.probes
        if k < 2:
            return math.nan
        t = np.sort(self.nodes, axis=None)
        cdfs = np.stack(
            [
                np.concatenate([[0.0], np.cumsum(w[np.argsort(n)])])[
                    np.searchsorted(np.sort(n), t[:-1], side="right")
                ]
                for n, w in zip(self.nodes, self.weights, strict=True)
            ]
        )
        c = math.sqrt(2 / (k - 1)) * math.exp(math.lgamma(k / 2) - math.lgamma((k - 1) / 2))
        se = cdfs.std(axis=0, ddof=1) / (c * math.sqrt(k))
        return float(math.sqrt(2 / math.pi) * np.sum(se * np.diff(t)) / self.scale)

    def resolution(self) -> float:
        """The steps' part of the expected W1 over the range, which all probes have in common.

        A quadrature of m nodes is a staircase. At a node t_j the cdf of the probe's own measure
        lies between the feet and the top of the step (Chebyshev, Markov, Stieltjes); say half way.
        On a straight line from there to the next node it encloses with the staircase the area

            (t_{j+1} - t_j) (w_j^2 + w_{j+1}^2) / (4 (w_j + w_{j+1})).

        Deflated nodes, the same in every row, are exact and count nothing.
        """
        exact = (np.ptp(self.nodes, axis=0) == 0) & (self.weights == 1 / self.dim).all(axis=0)
        exact &= self.probes > 1
        total = 0.0
        for nodes, weights in zip(self.nodes[:, ~exact], self.weights[:, ~exact], strict=True):
            order = np.argsort(nodes[weights > 0])
            t, w = nodes[weights > 0][order], weights[weights > 0][order]
            a, b = w[:-1], w[1:]
            total += np.sum(np.diff(t) * (a**2 + b**2) / (4 * (a + b)))
        return float(total / self.probes / self.scale)

    def save(self, path: str | Path) -> None:
        """Write an .npz file, without pickle. `load` reads it back."""
        extra = {} if self.steps is None else {"steps": self.steps}
        if self.validity is not None:
            v = self.validity
            extra["validity"] = np.array(
                [v.asymmetry, v.nonlinearity, v.gradient_error, v.precision, v.product_error]
            )
            extra["notes"] = np.array(v.notes, dtype=np.str_)
        with open(path, "wb") as file:
            np.savez(file, nodes=self.nodes, weights=self.weights, dim=self.dim, **extra)

    @classmethod
    def load(cls, path: str | Path) -> SpectralDensity:
        """Read what `save` wrote. Raises ValueError when the file is no such thing."""
        try:
            with np.load(path, allow_pickle=False) as f:
                validity = None
                if "validity" in f:
                    numbers, notes = map(float, f["validity"]), tuple(map(str, f["notes"]))
                    asymmetry, nonlinearity, gradient, *rest = numbers
                    validity = Validity(asymmetry, nonlinearity, gradient, notes, *rest)
                steps = int(f["steps"]) if "steps" in f else None
                return cls(f["nodes"], f["weights"], int(f["dim"]), steps, validity)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} holds no spectral density: {error}") from error


def slq(
    op,
    steps: int = 80,
    probes: int = 4,
    *,
    seed: int = 0,
    deflate: int = 0,
    accuracy: float | None = None,
    max_probes: int = 64,
    progress: bool = False,
) -> SpectralDensity:
    """Stochastic Lanczos quadrature: `probes` runs of `steps` Lanczos steps from random signs.

    For random signs v (Rademacher), E[v^T f(A) v] = tr f(A), and the Gauss quadrature of Lanczos
    is exact for polynomials f up to degree 2 steps - 1. A probe's signs depend on `seed` and the
    probe's number alone.

    deflate: find this many eigenpairs of largest modulus first; they enter every row exactly, with
    weight 1/P and before the others, and the probes see only their complement.

    accuracy: add probes, at least four, until the density's `accuracy()`, the expected W1 over the
    range, is at most this. `max_probes` ends it, be it below four or below `probes`, or a
    `resolution()` that no number of probes can mend, with a warning that says what was reached.

    Lanczos vectors beyond `op.room`, the bytes that an operator leaves for them, lie on disk; those
    of the deflation are as many as `top_eigenpairs` says.

    Raises ValueError for steps or probes below 1, a seed or deflate below 0, or max_probes below 1
    (2 where it decides: one probe has no accuracy).
    """
    for name, value, least in (
        ("steps", steps, 1),
        ("probes", probes, 1),
        ("deflate", deflate, 0),
        ("seed", seed, 0),
        ("max_probes", max_probes, 1 if accuracy is None else 2),  # one probe has no accuracy
    ):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer, at least {least}, not {value!r}")
    dim = op.shape[0]
    if deflate >= dim:
        raise ValueError(f"deflate = {deflate} leaves nothing of an operator of dimension {dim}")
    if accuracy is not None and not (isinstance(accuracy, Real) and accuracy > 0):
        raise ValueError(f"accuracy is a share of the range and must be positive, not {accuracy!r}")
    validity = op.check() if hasattr(op, "check") else check_operator(op)
    exact = np.empty(0)
    if deflate:
        exact, vectors = top_eigenpairs(op, deflate, "LM", seed=seed)
        op = Complement(op, vectors)
    runs, wanted = [], probes if accuracy is None else min(max(probes, 4), max_probes)
    with progress_bar(progress) as tick:
        while True:
            runs += ritz_of_probes(op, steps, seed, range(len(runs), wanted), tick)
            density = assembled(runs, exact, dim, steps, validity)
            if accuracy is None or density.accuracy() <= accuracy or wanted >= max_probes:
                break
            left = accuracy**2 - density.resolution() ** 2
            if left <= 0:
                break
            # Scatter falls with the root of the probes: ask for what that predicts, within 2x.
            predicted = wanted * min(density.scatter() ** 2 / left, 2)
            wanted = min(max(wanted + 1, math.ceil(predicted)), max_probes)
    if accuracy is not None and density.accuracy() > accuracy:
        too_few = "steps" if density.resolution() >= accuracy else "max_probes"
        warnings.warn(
            f"{wanted} probes reach an accuracy of {density.accuracy():.1e} of the range, not "
            f"{accuracy:.1e}: raise {too_few}, or deflate",
            NotConverged,
            stacklevel=2,
        )
    return density


def ritz_of_probes(op, steps: int, seed: int, numbers: range, tick) -> list[Row]:
    """Ritz values and weights of the probes with these numbers, a block of them at a time."""
    block = getattr(op, "block_size", None) or 1
    room = getattr(op, "room", None)
    if room is not None:
        one_run = min(steps, op.shape[0]) * op.shape[0] * op.dtype.itemsize
        block = max(1, min(block, int(room / one_run)))
    rows: list[Row] = []
    for first in range(numbers.start, numbers.stop, block):
        group = range(first, min(first + block, numbers.stop))
        signs = torch.stack([rademacher(op.shape[0], seed, i) for i in group], dim=1)
        signs = signs.to(getattr(op, "device", "cpu"), op.dtype)
        if isinstance(op, Complement):
            signs = op.project(signs)
        nodes, weights = lanczos(op, signs, steps, room=room, on_step=tick).ritz()
        rows += zip(nodes, weights, strict=True)
    return rows


def assembled(
    rows: list[Row], exact: np.ndarray, dim: int, steps: int, validity: Validity
) -> SpectralDensity:
    """The density of some rows, with exact nodes of weight 1/P before each."""
    nodes, weights = (np.stack(arrays) for arrays in zip(*rows, strict=True))
    if len(exact):
        k, share = len(exact), (dim - len(exact)) / dim
        nodes = np.hstack([np.tile(exact, (len(nodes), 1)), nodes])
        weights = np.hstack([np.full((len(weights), k), 1 / dim), share * weights])
    return SpectralDensity(nodes, weights, dim, steps, validity)


def rademacher(size: int, seed: int, number: int) -> torch.Tensor:
    """Random signs of length `size`; probe `number` of `seed`, whatever the block it runs in."""
    state = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> 1))
    return torch.randint(0, 2, (size,), generator=generator, dtype=torch.float64) * 2 - 1


class Complement:
    """An operator restricted to the orthogonal complement of some columns: (1-VV^T) A (1-VV^T)."""

    def __init__(self, op, vectors: torch.Tensor):
        self.op, self.vectors = op, vectors
        self.shape, self.dtype = op.shape, op.dtype
        self.device = getattr(op, "device", vectors.device)
        self.block_size = getattr(op, "block_size", None)
        room = getattr(op, "room", None)
        self.room = None if room is None else max(room - vectors.nbytes, 0.0)

    def project(self, v: torch.Tensor) -> torch.Tensor:
        return v - self.vectors @ (self.vectors.T @ v)

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        return self.project(self.op @ self.project(v))


@contextmanager
def progress_bar(wanted: bool) -> Iterator[Callable[[], None] | None]:
    """A count of Lanczos steps on stderr while `wanted`; gives the function that advances it."""
    if not wanted:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc="Lanczos", unit="step") as bar:
        yield bar.update
