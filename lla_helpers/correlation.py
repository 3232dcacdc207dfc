"""Do two numbers rank models alike? Rank correlation, with other numbers held, and its error bar.

    rho = corr(rank x, rank y)                            Spearman (1904)
    rho given z = corr(rank x - its fit by Z, rank y - its fit by Z)

Z holds a constant and the ranks of the controls; a control with the values 0 and 1 keeps them, up
to scale. Ties get the mean of their ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import t

from lla_helpers.claims import Interval

Array = Sequence[float] | np.ndarray


def rank_correlation(x: Array, y: Array, held: Sequence[Array] = ()) -> float:
    """Spearman's correlation of x and y with the controls `held` taken out of the ranks of both.

    Between -1 and 1; nan where nothing is left of x or y once the controls are taken out, as for a
    constant x. An infinite value ranks last. Raises ValueError for lengths that differ, nan, or
    too few values for the controls.
    """
    columns = [as_column(name, v) for name, v in (("x", x), ("y", y))]
    controls = [as_column("a control", v) for v in held]
    n = len(columns[0])
    if any(len(v) != n for v in (*columns, *controls)):
        raise ValueError(f"x, y and the controls need one length, not {lengths(columns, controls)}")
    if n < len(controls) + 3:
        raise ValueError(f"{n} values are too few with {len(controls)} controls held")
    z = np.column_stack([np.ones(n), *map(mean_ranks, controls)])
    ranks = np.column_stack([*map(mean_ranks, columns)])
    rest = ranks - z @ np.linalg.lstsq(z, ranks, rcond=None)[0]
    norm = np.linalg.norm(rest, axis=0)
    # What rounding leaves of a rank that the controls explain is no signal.
    if (norm <= 1e-8 * n * math.sqrt(n)).any():
        return math.nan
    return float(np.clip(rest[:, 0] @ rest[:, 1] / norm.prod(), -1, 1))


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; equal values share their mean rank."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, "left")
    return (below + np.searchsorted(ordered, values, "right") + 1) / 2


def as_column(name: str, values: Array) -> np.ndarray:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or np.isnan(column).any():
        raise ValueError(f"{name} must be a list of numbers without nan")
    return column


def lengths(columns: Sequence[np.ndarray], controls: Sequence[np.ndarray]) -> list[int]:
    return [len(v) for v in (*columns, *controls)]


def p_value(rho: float, n: int, controls: int = 0) -> float:
    """Two-sided probability of a |rank correlation| this large or larger if there is none.

    Student's approximation: rho sqrt(d / (1 - rho^2)) with d = n - 2 - controls degrees of freedom;
    without controls it is that of scipy.stats.spearmanr.
    """
    d = n - 2 - controls
    if d < 1:
        raise ValueError(f"{n} values with {controls} controls held leave no degree of freedom")
    if math.isnan(rho):
        return math.nan
    return float(2 * t.sf(abs(rho) * math.sqrt(d / max(1 - rho * rho, 1e-300)), d))


def holm(p: Array) -> np.ndarray:
    """p-values adjusted for looking at all of them (Holm 1979): reject where at most alpha.

    In ascending order the i-th of m, i = 0, 1, ..., is multiplied by m - i, and none is less than
    one before it. The chance of any false rejection is then at most alpha, whatever depends on
    what. A nan, a test that could not be made, counts as 1.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or (p < 0).any() or (p > 1).any():
        raise ValueError("holm needs a list of probabilities")
    p = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """statistic(all n items) and the percentiles of statistic(n items drawn with replacement).

    `statistic` takes indices, so that one draw serves several columns and a difference of two
    correlations is paired. Items must be independent draws from what the statement is about.
    Draws where the statistic is nan are left out; more than one in ten is a ValueError.
    (Efron and Tibshirani 1993, chapter 13.)
    """
    if n < 2 or not 0 < level < 1:
        raise ValueError("a bootstrap needs two items at least, and a level between 0 and 1")
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(draws)])
    values = values[~np.isnan(values)]
    if len(values) < 0.9 * draws:
        raise ValueError(f"only {len(values)} of {draws} draws give a number: too few items")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    value = float(statistic(np.arange(n)))
    return Interval(value, float(values.std(ddof=1)), float(low), float(high), n)
