"""Judging a claim: a rule written down before the run, the numbers of the run, a verdict.

A rule is a list of conditions. Each compares one measured number, with its 95 % interval over
seeds, with a bound that was fixed beforehand. A condition *holds* when the whole interval lies on
the right side of its bound, *fails* when the whole interval lies on the wrong side, and is *open*
when the interval straddles it.

    all hold -> reproduced      some hold, not all -> partly
    all are open -> undecided   none holds and some fail -> not reproduced
"""

from __future__ import annotations

import html
import json
import math
import statistics
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass

MIME = "application/vnd.lla.claims+json"


@dataclass(frozen=True)
class Interval:
    """A number with its standard error and its 95 % interval, from n independent seeds."""

    value: float
    stderr: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], n = {self.n}"


def interval(values: Sequence[float]) -> Interval:
    """Mean of `values` with Student's 95 % interval, mean +- t_{0.975, n-1} s / sqrt(n).

    With fewer than two values the interval is all of the real line: one run decides nothing.
    Raises ValueError when there is no value or one is not finite.
    """
    from scipy.stats import t

    values = [float(v) for v in values]
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"interval needs finite values, at least one; got {values}")
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, -math.inf, math.inf, n)
    stderr = statistics.stdev(values) / math.sqrt(n)
    half = float(t.ppf(0.975, n - 1)) * stderr
    return Interval(mean, stderr, mean - half, mean + half, n)


@dataclass(frozen=True)
class Condition:
    """`what` `op` `bound`, as in: "W1 over the range" "<" 5e-3."""

    what: str
    op: str
    bound: float

    def __post_init__(self) -> None:
        if self.op not in ("<", ">"):
            raise ValueError(f"a condition compares with '<' or '>', not {self.op!r}")

    def holds(self, measured: Interval) -> str:
        """'holds', 'fails' or 'open' for a measured interval."""
        below, above = measured.high < self.bound, measured.low > self.bound
        if self.op == ">":
            below, above = above, below
        return "holds" if below else "fails" if above else "open"


@dataclass(frozen=True)
class Rule:
    """What decides a claim: its id and source (see the glossary of claims), and its conditions."""

    id: str
    source: str
    statement: str
    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError(f"claim {self.id}: a rule needs at least one condition")

    def judge(self, measured: Mapping[str, Sequence[float] | Interval], why: str = "") -> Claim:
        """Compare `measured[condition.what]`, values over seeds or an Interval, with its bound.

        Raises ValueError when a condition has no measurement or a measurement no condition.
        """
        wanted, given = {c.what for c in self.conditions}, set(measured)
        if wanted != given:
            raise ValueError(
                f"claim {self.id}: measured {sorted(given)}, but the rule asks for {sorted(wanted)}"
            )
        rows = []
        for condition in self.conditions:
            number = measured[condition.what]
            number = number if isinstance(number, Interval) else interval(number)
            rows.append({**asdict(condition), **asdict(number), "outcome": condition.holds(number)})
        found = verdict({row["outcome"] for row in rows})
        return Claim(self.id, self.source, self.statement, tuple(rows), found, why)

    def not_testable(self, why: str) -> Claim:
        """The claim cannot be put to the test here, and why."""
        return Claim(self.id, self.source, self.statement, (), "not testable here", why)


def verdict(outcomes: Set[str]) -> str:
    """What the outcomes of all conditions come to."""
    if "holds" in outcomes:
        return "reproduced" if outcomes == {"holds"} else "partly"
    return "not reproduced" if "fails" in outcomes else "undecided"


@dataclass(frozen=True)
class Claim:
    """A judged claim; the last line of a cell shows it as a table and stores it in the notebook."""

    id: str
    source: str
    statement: str
    rows: tuple[dict, ...]
    verdict: str
    why: str = ""


class Claims(list):
    """A list of judged claims that a notebook displays, and keeps as a JSON output."""

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        data = json.loads(json.dumps([asdict(claim) for claim in self], default=float))
        return {MIME: finite(data), "text/html": as_html(data), "text/plain": as_text(data)}


def finite(data):
    """Replace nan and infinities by None: JSON has no word for them."""
    if isinstance(data, list):
        return [finite(item) for item in data]
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    return None if isinstance(data, float) and not math.isfinite(data) else data


def numbers(row: Mapping) -> str:
    """The measured number of one row in words; a stored row has None for what is not finite."""
    value, low, high = (
        "?" if row[k] is None else f"{row[k]:.3g}" for k in ("value", "low", "high")
    )
    return f"{value} (one run)" if row["n"] < 2 else f"{value} [{low}, {high}], n = {row['n']}"


def as_text(data: Sequence[Mapping]) -> str:
    return "\n".join(f"{claim['id']}: {claim['verdict']}" for claim in data)


def as_html(data: Sequence[Mapping]) -> str:
    """One table row a condition; the claim and its verdict span the rows of their conditions."""
    body = []
    for claim in data:
        rows = claim["rows"] or [None]
        span = f' rowspan="{len(rows)}"'
        for i, row in enumerate(rows):
            cells = ""
            if i == 0:
                cells += (
                    f'<th scope="row"{span}>{html.escape(claim["id"])}</th>'
                    f"<td{span}>{html.escape(claim['statement'])}</td>"
                )
            if row:
                rule = f"{row['what']} {row['op']} {row['bound']:g}"
                for text in (rule, numbers(row), row["outcome"]):
                    cells += f"<td>{html.escape(text)}</td>"
            else:
                cells += f'<td colspan="3">{html.escape(claim["why"])}</td>'
            if i == 0:
                why = f"<br>{html.escape(claim['why'])}" if row and claim["why"] else ""
                cells += f"<td{span}><strong>{html.escape(claim['verdict'])}</strong>{why}</td>"
            body.append(f"<tr>{cells}</tr>")
    head = "".join(
        f'<th scope="col">{title}</th>'
        for title in (
            "claim",
            "statement",
            "rule, written before the run",
            "measured, 95 % interval",
            "outcome",
            "verdict",
        )
    )
    return (
        '<div class="claims-scroller" tabindex="0" role="region" aria-label="claims judged">'
        f'<table class="claims"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
