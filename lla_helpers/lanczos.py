"""Lanczos: a large symmetric operator seen through a small tridiagonal matrix.

Nothing here knows what a network is. An operator is anything with `shape`, `dtype` and `@`.
Everything is relative to the operator's own scale: multiplying it by c multiplies the Ritz values
by c and changes nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from lla_helpers.basis import Basis, divided, row_norms


@dataclass(frozen=True)
class Tridiagonal:
    """Q^T A Q = T for k runs of Lanczos, one a probe.

    alpha (k, m) and beta (k, m - 1), float64, are the diagonals of each T. `length` (k,) counts the
    steps before breakdown; entries beyond it are zero. `vectors` is a Basis.
    """

    alpha: np.ndarray
    beta: np.ndarray
    length: np.ndarray
    vectors: Basis

    @property
    def basis(self) -> Tensor:
        """The Lanczos vectors as rows, (k, m, P); zero after a breakdown."""
        k, size = self.vectors.shape
        rows = torch.cat(list(self.vectors.pieces()), dim=1)
        missing = rows.new_zeros(k, self.alpha.shape[1] - rows.shape[1], size)
        return torch.cat([rows, missing], dim=1)

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Ritz values and quadrature weights, (k, m) each: eigenvalues of T, (e_1 . s_j)^2.

        After a breakdown a row is filled with its last Ritz value at weight 0.
        """
        nodes, weights = np.zeros_like(self.alpha), np.zeros_like(self.alpha)
        for i, n in enumerate(self.length):
            values, vectors = eigh_tridiagonal(self.alpha[i, :n], self.beta[i, : n - 1])
            nodes[i, :n], nodes[i, n:] = values, values[-1]
            weights[i, :n] = vectors[0] ** 2 / np.sum(vectors[0] ** 2)
        return nodes, weights


def lanczos(
    op,
    start: Tensor,
    steps: int,
    *,
    reorthogonalise: bool = True,
    room: float | None = None,
    on_step: Callable[[], None] | None = None,
) -> Tridiagonal:
    """`steps` of Lanczos from each column of `start`, shape (P,) or (P, k). Returns Tridiagonal.

        beta_{j+1} q_{j+1} = A q_j - alpha_j q_j - beta_j q_{j-1}

    A run stops early when the next vector vanishes against the size of T (breakdown: the Krylov
    space is invariant). Without `reorthogonalise` copies of converged Ritz values appear, ghosts.
    Lanczos vectors that take more than `room` bytes are kept on disk. `on_step` is called after
    every step.

    Raises ValueError for a start vector that is zero, not finite or of another shape, or a number
    of steps below 1.
    (Lanczos 1950; Paige 1972; Parlett, The Symmetric Eigenvalue Problem, ch. 13.)
    """
    size = op.shape[0]
    if not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"steps must be a positive integer, not {steps!r}")
    if start.ndim not in (1, 2) or len(start) != size or not start.numel():
        raise ValueError(f"start has shape ({size},) or ({size}, k), not {tuple(start.shape)}")
    steps = min(steps, size)
    q = start.reshape(size, -1).T.to(op.dtype).contiguous()
    norms = row_norms(q)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        raise ValueError("a start vector of Lanczos must be finite and not zero")
    q = divided(q, norms)
    k = len(q)
    basis, previous = Basis(k, steps, size, like=q, room=room), None
    alpha, beta = np.zeros((k, steps)), np.zeros((k, max(steps - 1, 0)))
    length = np.full(k, steps)
    scale, tiny = np.zeros(k), 10 * torch.finfo(op.dtype).eps
    for j in range(steps):
        basis.append(q)
        w = (op @ q.T).T.contiguous()
        a = (q * w).sum(1, keepdim=True)
        w = w - a * q
        if j > 0:
            w = w - torch.as_tensor(beta[:, j - 1, None]).to(w) * previous
        if reorthogonalise:
            w = basis.orthogonalised(w)
        alpha[:, j] = a[:, 0].double().cpu().numpy()
        if on_step is not None:
            on_step()
        if j == steps - 1:
            break
        b = row_norms(w)
        beta[:, j] = b.cpu().numpy()
        scale = np.maximum.reduce([scale, abs(alpha[:, j]), beta[:, j]])
        broken = (beta[:, j] <= tiny * scale) & (length == steps)
        length[broken] = j + 1
        if (length <= j + 1).all():
            break
        # A broken run goes on with zero vectors, which cost nothing and change nothing.
        alive = torch.as_tensor(length > j + 1, device=q.device)
        following = divided(w, torch.where(alive, b, torch.ones_like(b)))
        previous, q = q, torch.where(alive[:, None], following, torch.zeros_like(w))
    for i, n in enumerate(length):
        alpha[i, n:], beta[i, n - 1 :] = 0.0, 0.0
    return Tridiagonal(alpha, beta, length, basis)


class NotConverged(UserWarning):
    """Some eigenpairs have residuals above the tolerance; the message says how large."""


ORDER = {"LA": lambda x: -x, "SA": lambda x: x, "LM": lambda x: -abs(x)}


def top_eigenpairs(
    op,
    k: int,
    which: str = "LA",
    *,
    tol: float | None = None,
    max_products: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, Tensor]:
    """The k extreme eigenvalues (k,) and eigenvectors (P, k) of a symmetric operator.

    which: "LA" the largest, descending; "SA" the smallest, ascending; "LM" by modulus, descending.

    Lanczos with full re-orthogonalisation and thick restarts (Wu and Simon 2000), stopped when
    every residual |A y - lambda y| is at most `tol` times the largest |Ritz value|, by default
    eps^(2/3) of the operator's dtype. Then another random direction is let in, and the answer must
    stand: an eigenvector that the first start vector missed shows itself (a repeated eigenvalue).
    Warns NotConverged, naming the residual, when `max_products` do not suffice.
    Raises ValueError for k outside 1..P or another `which`.

    Memory: max(2k + 20, 40) vectors of P, and up to k + 8 of them again at a restart. Where an
    operator has `room`, bytes left for such vectors, fewer are kept and restarts are more frequent.
    A restart must leave room to grow: k + 12 vectors, and k + 2 again, are taken even where they
    exceed the room.
    """
    size = op.shape[0]
    if not isinstance(k, Integral) or not 1 <= k <= size:
        raise ValueError(f"asked for k = {k!r} eigenpairs of an operator of dimension {size}")
    if which not in ORDER:
        raise ValueError(f"which must be 'LA', 'SA' or 'LM', not {which!r}")
    tol = torch.finfo(op.dtype).eps ** (2 / 3) if tol is None else tol
    space = KrylovSpace(op, seed, krylov_width(op, k))
    space.grow(min(2 * k, space.width))
    before = None
    while True:
        values, s, residuals = space.ritz_pairs(ORDER[which])
        scale = abs(values).max(initial=0.0)
        enough = len(values) >= k and (residuals[:k] <= tol * scale).all()
        if before is not None:
            enough = enough and stands_apart(ORDER[which](values), residuals, k, tol * scale)
        settled = before is not None and abs(values[:k] - before).max() <= tol * scale
        if space.filled == size or (enough and settled):
            break
        if space.products >= max_products:
            warnings.warn(
                f"{k} eigenpairs not converged after {space.products} products: largest relative "
                f"residual {residuals[:k].max() / scale:.1e}, asked for {tol:.1e}",
                NotConverged,
                stacklevel=2,
            )
            break
        if enough:
            before = values[:k]
            space.restart(values, s, keep=k, fresh=True)
        elif space.filled >= space.width:
            space.restart(values, s, keep=min(k + 8, space.width - 10))
        space.grow(min(10, space.width - space.filled))
    return values[:k], space.combined(s[:, :k])


def krylov_width(op, k: int) -> int:
    """How many rows a KrylovSpace has for k eigenpairs: max(2k + 20, 40), or what fits `op.room`.

    Half of the room is for the rows, half for their combinations at a restart. At least k + 12: a
    restart keeps k and two more, and leaves ten to grow.
    """
    width, room = max(2 * k + 20, 40), getattr(op, "room", None)
    if room is not None:
        fit = room / (2 * op.shape[0] * op.dtype.itemsize)
        width = max(k + 12, int(min(width, fit)))
    return min(op.shape[0], width)


def stands_apart(keys: np.ndarray, residuals: np.ndarray, k: int, tol: float) -> bool:
    """Is the first Ritz value beyond the k clearly worse than they are, or an eigenvalue itself?

    `keys` are ascending. A fresh direction approaches the best eigenvalue of the complement from
    below: while its residual is comparable with its distance to the k, it may still overtake them.
    """
    if len(keys) <= k:
        return False
    return residuals[k] <= max(tol, 0.1 * (keys[k] - keys[k - 1]))


class KrylovSpace:
    """Orthonormal rows Q with S = Q A Q^T, where A Q^T = Q^T S + beta `next` e_last^T."""

    def __init__(self, op, seed: int, width: int):
        self.op, self.width = op, width
        self.generator = torch.Generator().manual_seed(int(seed))
        self.device = getattr(op, "device", torch.device("cpu"))
        self.rows = torch.zeros(width, op.shape[0], dtype=op.dtype, device=self.device)
        self.s = np.zeros((width, width))
        self.filled, self.products, self.beta = 0, 0, 0.0
        self.next = self.random_direction()

    def random_direction(self) -> Tensor:
        """A random unit vector orthogonal to the rows that are filled."""
        v = torch.randn(self.op.shape[0], generator=self.generator, dtype=torch.float64)
        rows, v = self.rows[: self.filled], v.to(self.device, self.op.dtype)
        for _ in range(2):
            v = v - rows.T @ (rows @ v)
        return divided(v[None], row_norms(v[None]))[0]

    def grow(self, steps: int) -> None:
        """Append `next` and take A `next`, less its part in the rows, as the one after it."""
        for _ in range(steps):
            n = self.filled
            self.rows[n] = self.next
            self.filled, self.products = n + 1, self.products + 1
            rows, w = self.rows[: n + 1], self.op @ self.next
            size = row_norms(w[None]).item()
            for _ in range(2):
                along = rows @ w
                self.s[: n + 1, n] += along.double().cpu().numpy()
                w = w - rows.T @ along
            self.s[n, : n + 1] = self.s[: n + 1, n]
            self.beta = row_norms(w[None]).item()
            if self.filled == self.op.shape[0]:
                return
            if self.beta <= 10 * torch.finfo(self.op.dtype).eps * max(size, abs(self.s).max()):
                self.beta, self.next = 0.0, self.random_direction()
            else:
                self.next = w / self.beta

    def ritz_pairs(self, order) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values in `order`, eigenvectors s_j of S (n, n), residuals beta |last entry of s_j|.

        The Ritz vectors are Q^T s_j; `combined` makes as many of them as are needed.
        """
        values, s = np.linalg.eigh(self.s[: self.filled, : self.filled])
        first = np.argsort(order(values), kind="stable")
        values, s = values[first], s[:, first]
        return values, s, self.beta * abs(s[-1:]).reshape(-1)

    def combined(self, s: np.ndarray) -> Tensor:
        """Q^T s, (P, n): combinations of the rows that are filled."""
        return self.rows[: self.filled].T @ torch.from_numpy(s).to(self.rows)

    def restart(self, values: np.ndarray, s: np.ndarray, keep: int, fresh: bool = False) -> None:
        """Keep the first Ritz vectors as the basis; go on from `next`, or from a random vector."""
        self.rows[:keep] = self.combined(s[:, :keep]).T
        self.s[:] = 0.0
        self.s[range(keep), range(keep)] = values[:keep]
        self.filled = keep
        if fresh:
            self.beta, self.next = 0.0, self.random_direction()
