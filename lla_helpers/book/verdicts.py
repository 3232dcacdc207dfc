"""The claims that a notebook carries, and a run's beside the stored ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lla_helpers.claims import MIME, numbers

NONE = "-"


@dataclass(frozen=True)
class Row:
    """One condition of one claim, as stored and in this run; a claim that is absent reads '-'."""

    claim: str
    what: str
    stored: str
    fresh: str
    stored_outcome: str
    outcome: str
    stored_verdict: str
    verdict: str

    @property
    def moved(self) -> bool:
        return self.stored_verdict != self.verdict

    @property
    def outcome_moved(self) -> bool:
        return self.stored_outcome != self.outcome


def claims_of(notebook: Mapping) -> list[dict]:
    """Every claim judged in a notebook, in order."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [claim for output in outputs for claim in output.get("data", {}).get(MIME, [])]


def compare(stored: Sequence[Mapping], fresh: Sequence[Mapping]) -> list[Row]:
    """One row a condition, in the order of the run, then what only the stored claims have."""
    old, new = ({claim["id"]: claim for claim in claims} for claims in (stored, fresh))
    rows = []
    for name in {**new, **old}:
        before, after = measured(old.get(name)), measured(new.get(name))
        verdicts = [claim.get(name, {}).get("verdict", NONE) for claim in (old, new)]
        for what in {**after, **before}:
            numbers, outcomes = zip(
                *(m.get(what, (NONE, NONE)) for m in (before, after)), strict=True
            )
            rows.append(Row(name, what, *numbers, *outcomes, *verdicts))
    return rows


def measured(claim: Mapping | None) -> dict[str, tuple[str, str]]:
    """Condition -> its number in words, its outcome; one empty condition when there is none."""
    if claim is None:
        return {}
    rows = {
        f"{r['what']} {r['op']} {r['bound']:g}": (in_words(r), r["outcome"]) for r in claim["rows"]
    }
    return rows or {NONE: (NONE, NONE)}


def in_words(row: Mapping) -> str:
    return numbers(row) if row.get("value") is not None else NONE


def summary(rows: Sequence[Row]) -> str:
    """One sentence on what moved: verdicts, and outcomes below a verdict that stayed."""
    if not rows:
        return "No claim is judged."
    moved = {row.claim: f"{row.claim} ({row.stored_verdict} → {row.verdict})" for row in rows}
    moved = [text for name, text in moved.items() if any(r.claim == name and r.moved for r in rows)]
    said = "No verdict differs from the stored ones"
    if moved:
        said = f"Verdicts that differ from the stored ones: {', '.join(moved)}"
    outcomes = [
        f"{r.claim}: {r.what.rsplit(' ', 2)[0]} ({r.stored_outcome} → {r.outcome})"
        for r in rows
        if r.outcome_moved and not r.moved
    ]
    return f"{said}; outcomes that moved: {', '.join(outcomes)}." if outcomes else f"{said}."


HEADER = ("claim", "rule", "stored", "this run", "stored verdict", "verdict of this run")


def cells(row: Row) -> tuple[str, ...]:
    stored = with_outcome(row.stored, row.stored_outcome)
    fresh = with_outcome(row.fresh, row.outcome)
    return (row.claim, row.what, stored, fresh, row.stored_verdict, row.verdict)


def with_outcome(number: str, outcome: str) -> str:
    return number if outcome == NONE else f"{number}, {outcome}"
