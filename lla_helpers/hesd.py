"""Numbers read off a spectral density, with standard errors, and the type that they give.

Every criterion is free of units: multiplying the loss by c > 0 leaves it as it is (lambda_max,
lambda_min and the trace are multiplied by c). The definitions of the types are this book's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lla_helpers.density import SpectralDensity
from lla_helpers.validity import Validity


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error over probes, nan when there is one probe; float() of it."""

    value: float
    stderr: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {float(f'{self.stderr:.1g}'):g}"  # 12 as 10, not as 1e+01


@dataclass(frozen=True)
class Criteria:
    """What `criteria` returns; see there."""

    r_e: Estimate
    k_hn: Estimate
    negative_share: Estimate
    effective_rank: Estimate
    lambda_max: Estimate
    lambda_min: Estimate
    trace: Estimate
    steps: int | None
    probes: int
    dim: int
    validity: Validity | None


def criteria(density: SpectralDensity, n: float = 0.5) -> Criteria:
    """The criteria of a density, an Estimate each.

    r_e = |min_j l_j / max_j l_j|, per probe, then averaged (Gabdullin 2024).
    k_hn = sum_{l_j<0} |l_j w_j|^n / sum_{l_j>0} (l_j w_j)^n, per probe, then averaged, as published
        (Gabdullin 2024). The weight stands inside the power, so the value grows with the number of
        steps: never compare it across steps. Deflation changes the nodes, and so the value.
    negative_share nu = sum_{l<0} |l| / sum |l|; nu > 1/2 means exactly tr < 0, because
        tr = (1 - 2 nu) sum |l|.
    effective_rank = (sum |l|)^2 / sum l^2, between 1 and P: how many equal eigenvalues would give
        the same two moments.
    lambda_max, lambda_min: the extreme nodes of all probes. trace = P times the mean node.

    Sums over the spectrum are taken over all probes together; their standard errors are the
    jackknife's over probes. r_e and k_hn are inf where no node is positive, and nu and the
    effective rank nan where every node is 0. Raises ValueError unless n is positive.
    """
    if not (isinstance(n, (int, float)) and math.isfinite(n) and n > 0):
        raise ValueError(f"n, the power in K_Hn, must be positive, not {n!r}")
    # Nodes of weight 0 fill a row after a breakdown, and are no part of the spectrum.
    rows = [(x[w > 0], w[w > 0]) for x, w in zip(density.nodes, density.weights, strict=True)]
    size = np.array([w @ abs(x) for x, w in rows])
    negative = np.array([w @ np.maximum(-x, 0) for x, w in rows])
    square = np.array([w @ (x / density.scale) ** 2 for x, w in rows])
    mean = np.array([w @ x for x, w in rows])
    low, high = np.array([x.min() for x, _ in rows]), np.array([x.max() for x, _ in rows])
    return Criteria(
        r_e=averaged(np.divide(abs(low), high, out=np.full_like(low, math.inf), where=high > 0)),
        k_hn=averaged([published_k_hn(x, w, n) for x, w in rows]),
        negative_share=jackknife(lambda i: ratio(negative[i].sum(), size[i].sum()), len(rows)),
        effective_rank=jackknife(
            lambda i: density.dim * ratio((size[i].mean() / density.scale) ** 2, square[i].mean()),
            len(rows),
        ),
        lambda_max=Estimate(float(high.max()), averaged(high).stderr),
        lambda_min=Estimate(float(low.min()), averaged(low).stderr),
        trace=averaged(density.dim * mean),
        steps=density.steps,
        probes=density.probes,
        dim=density.dim,
        validity=density.validity,
    )


def published_k_hn(nodes: np.ndarray, weights: np.ndarray, n: float) -> float:
    scaled = nodes * weights / max(abs(nodes).max(), np.finfo(float).tiny)
    positive = np.sum(scaled[scaled > 0] ** n)
    return ratio(np.sum(abs(scaled[scaled < 0]) ** n), positive) if positive > 0 else math.inf


def ratio(a: float, b: float) -> float:
    return float(a / b) if b != 0 else math.nan


def averaged(values) -> Estimate:
    """The mean over probes and its standard error."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return Estimate(float(values.mean()), math.nan)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def jackknife(statistic: Callable[[np.ndarray], float], n: int) -> Estimate:
    """statistic(all probes), and sqrt((n-1)/n sum (statistic without probe i - their mean)^2)."""
    everyone = np.arange(n)
    value = statistic(everyone)
    if n < 2:
        return Estimate(value, math.nan)
    without = np.array([statistic(np.delete(everyone, i)) for i in range(n)])
    return Estimate(value, float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))))


@dataclass(frozen=True)
class HesdType:
    """label: "MP", "MN" or "undetermined"; the quasi-singular flag beside it; the reasons."""

    label: str
    quasi_singular: bool
    reasons: tuple[str, ...]


def hesd_type(
    c: Criteria,
    *,
    negative_above: float = 0.5,
    positive_below: float = 0.25,
    classes: int = 10,
    sigmas: float = 2.0,
    tolerance: float = 1e-6,
) -> HesdType:
    """The type of a spectrum by this book's operational definitions.

    Valid first: an operator that is not symmetric or not linear to `tolerance`, whose gradient is
    not that of its loss, or whose spectrum vanishes, is "undetermined", and the reasons say why.
    MN (mainly negative) when nu - sigmas se > negative_above; MP (mainly positive) when
    nu + sigmas se < positive_below; else "undetermined". Quasi-singular when the effective rank is
    below `classes`, the number of classes (ten for the embedded data).

    With one probe there is no standard error, and the type is "undetermined".
    """
    nu, rank = c.negative_share, c.effective_rank
    reasons = list(c.validity.faults(tolerance)) if c.validity is not None else []
    if reasons:
        return HesdType("undetermined", False, tuple(reasons))
    if not math.isfinite(nu.value):
        return HesdType("undetermined", False, ("the spectrum vanishes: there is no curvature",))
    quasi_singular = rank.value < classes
    rank_text = f"effective rank {rank.value:.3g} of {c.dim}, {classes} classes"
    reasons.append(f"quasi-singular: {rank_text}" if quasi_singular else rank_text)
    margin = sigmas * nu.stderr
    share = f"negative share {nu.value:.3g} ± {nu.stderr:.1g}"
    if math.isnan(margin):
        return HesdType(
            "undetermined", quasi_singular, (f"{share}: one probe has no standard error", *reasons)
        )
    if nu.value - margin > negative_above:
        return HesdType("MN", quasi_singular, (f"{share}, above {negative_above:g}", *reasons))
    if nu.value + margin < positive_below:
        return HesdType("MP", quasi_singular, (f"{share}, below {positive_below:g}", *reasons))
    return HesdType(
        "undetermined",
        quasi_singular,
        (f"{share}, neither below {positive_below:g} nor above {negative_above:g}", *reasons),
    )
