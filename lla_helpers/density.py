"""The spectral density of a symmetric operator by stochastic Lanczos quadrature.

    phi(t) = (1/P) sum_i delta(t - lambda_i)  ~  (1/k) sum_i sum_j w_j^(i) delta(t - node_j^(i))

Nodes are Ritz values, weights the squared first components of T's eigenvectors (Golub and Welsch
1969; Ubaru, Chen and Saad 2017). The nodes are the estimate; smoothing them is for the eye only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from scipy.special import ndtr
from scipy.stats import wasserstein_distance

from lla_helpers.lanczos import lanczos, top_eigenpairs
from lla_helpers.validity import Validity, check_operator


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

    def save(self, path: str | Path) -> None:
        """Write an .npz file, without pickle. `load` reads it back."""
        extra = {} if self.steps is None else {"steps": self.steps}
        if self.validity is not None:
            v = self.validity
            extra["validity"] = np.array(
                [v.asymmetry, v.nonlinearity, v.gradient_error, v.precision]
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
                    *numbers, precision = map(float, f["validity"])
                    validity = Validity(*numbers, tuple(map(str, f["notes"])), precision)
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
    progress: bool = False,
) -> SpectralDensity:
    """Stochastic Lanczos quadrature: `probes` runs of `steps` Lanczos steps from random signs.

    For random signs v (Rademacher), E[v^T f(A) v] = tr f(A), and the Gauss quadrature of Lanczos
    is exact for polynomials f up to degree 2 steps - 1. A probe's signs depend on `seed` and the
    probe's number alone.

    deflate: find this many eigenpairs of largest modulus first; they enter every row exactly, with
    weight 1/P and before the others, and the probes see only their complement.

    Lanczos vectors that would take more than half of `op.memory_cap` are kept on disk.

    Raises ValueError for steps or probes below 1, or a seed or deflate below 0.
    """
    for name, value, least in (
        ("steps", steps, 1),
        ("probes", probes, 1),
        ("deflate", deflate, 0),
        ("seed", seed, 0),
    ):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer, at least {least}, not {value!r}")
    dim = op.shape[0]
    if deflate >= dim:
        raise ValueError(f"deflate = {deflate} leaves nothing of an operator of dimension {dim}")
    validity = op.check() if hasattr(op, "check") else check_operator(op)
    signs = torch.stack([rademacher(dim, seed, i) for i in range(probes)], dim=1)
    signs = signs.to(getattr(op, "device", "cpu"), op.dtype)
    # Half of an operator's memory cap is for the Lanczos vectors, the other for its graphs.
    room = op.memory_cap * 2**29 if hasattr(op, "memory_cap") else None
    exact = np.empty(0)
    if deflate:
        exact, vectors = top_eigenpairs(op, deflate, "LM", seed=seed)
        op = Complement(op, vectors)
        signs = op.project(signs)
    block = getattr(op, "block_size", None) or 1
    groups = signs.split(block, dim=1)
    with progress_bar(progress, total=min(steps, dim) * len(groups)) as tick:
        runs = [lanczos(op, group, steps, room=room, on_step=tick).ritz() for group in groups]
    nodes = np.concatenate([nodes for nodes, _ in runs])
    weights = np.concatenate([weights for _, weights in runs])
    if deflate:
        nodes = np.hstack([np.tile(exact, (probes, 1)), nodes])
        share = (dim - deflate) / dim
        weights = np.hstack([np.full((probes, deflate), 1 / dim), share * weights])
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

    def project(self, v: torch.Tensor) -> torch.Tensor:
        return v - self.vectors @ (self.vectors.T @ v)

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        return self.project(self.op @ self.project(v))


class progress_bar:
    """A tqdm bar on stderr while `wanted`; gives the function that advances it."""

    def __init__(self, wanted: bool, total: int):
        self.wanted, self.total = wanted, total

    def __enter__(self):
        if not self.wanted:
            return None
        from tqdm import tqdm

        self.bar = tqdm(total=self.total, desc="Lanczos", unit="step")
        return self.bar.update

    def __exit__(self, *_):
        if self.wanted:
            self.bar.close()
