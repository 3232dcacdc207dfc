"""The trace of an operator from products alone: Hutchinson's estimator, and Hutch++.

Nothing here knows what a network is. Both are unbiased whatever the sign of the trace, and neither
has a stopping rule that divides by it.
"""

from __future__ import annotations

import math

import torch


def hutchinson_trace(op, probes: int = 32, seed: int = 0) -> tuple[float, float]:
    """tr A ~ (1/k) sum_i v_i^T A v_i over random signs v_i, and its standard error.

    The variance of one term is 2 sum_{i != j} A_ij^2: a diagonal matrix is exact with one probe.
    The standard error is nan with one probe. (Hutchinson 1990.)
    """
    if not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes must be an integer, at least 1, not {probes!r}")
    v = random_signs(op, probes, seed)
    return mean_and_stderr(column_products(v, products(op, v)))


def hutchpp_trace(op, probes: int = 33, seed: int = 0) -> tuple[float, float]:
    """Hutch++ with `probes` products: the range of A found by one third is traced exactly.

        tr A = tr(Q^T A Q) + tr((1 - QQ^T) A (1 - QQ^T)),    Q = orth(A S), S random signs

    The second term is Hutchinson's, and small where few eigenvalues hold most of the norm. The
    standard error is that of the second term. Q is orthonormal to float32 at least, whatever the
    dtype of the operator. (Meyer, Musco, Musco and Woodruff 2021.)

    Memory: all probes of a third are held at once, with the integers that their signs come from
    about 5/3 `probes` vectors of P in float32: 100 for 60 probes. `op.room` is not asked.

    Raises ValueError for fewer than 6 probes, which leave no two for the error.
    """
    if not isinstance(probes, int) or probes < 6:
        raise ValueError(f"Hutch++ needs at least 6 probes, two for each part, not {probes!r}")
    third = min(probes // 3, op.shape[0])
    # LAPACK knows no half precision.
    least_single = torch.promote_types(op.dtype, torch.float32)
    q, _ = torch.linalg.qr(products(op, random_signs(op, third, seed)).to(least_single))
    exact = float(column_products(q, products(op, q.to(op.dtype))).sum())
    if third == op.shape[0]:
        return exact, 0.0
    v = random_signs(op, third, seed + 1).to(least_single)
    v = (v - q @ (q.T @ v)).to(op.dtype)
    rest, stderr = mean_and_stderr(column_products(v, products(op, v)))
    return exact + rest, stderr


def products(op, v: torch.Tensor) -> torch.Tensor:
    """A v, as many columns at a time as the operator likes."""
    block = getattr(op, "block_size", None) or 1
    return torch.cat([op @ part for part in v.split(block, dim=1)], dim=1)


def column_products(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """u_i . v_i for the columns of two (P, k), in float64, (k,)."""
    return torch.stack([a.double() @ b.double() for a, b in zip(u.T, v.T, strict=True)])


def random_signs(op, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (op.shape[0], count), generator=generator) * 2 - 1
    return signs.to(getattr(op, "device", "cpu"), op.dtype)


def mean_and_stderr(terms: torch.Tensor) -> tuple[float, float]:
    n = len(terms)
    stderr = float(terms.std()) / math.sqrt(n) if n > 1 else math.nan
    return float(terms.mean()), stderr
