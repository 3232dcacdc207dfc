"""The claims that the chapters judged, read from the chapters' own outputs."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lla_helpers.claims import MIME, numbers


@dataclass(frozen=True)
class Judged:
    """A judged claim, the chapter that judged it, and the figure nearest above the judgement."""

    claim: Mapping
    chapter: str
    title: str
    figure: str | None

    @property
    def link(self) -> str:
        """Where the reader finds what decided it, seen from another chapter's page."""
        return f"{self.chapter}.html" + (f"#{self.figure}" if self.figure else "")


def judged_in(folder: Path | str) -> dict[str, Judged]:
    """Every claim in the executed notebooks of a folder, by its id.

    Raises ValueError when two chapters judge one claim, or the folder holds no notebook.
    """
    found: dict[str, Judged] = {}
    paths = sorted(Path(folder).glob("*.ipynb"))
    if not paths:
        raise ValueError(f"no executed chapter in {Path(folder).name}/: run the chapters first")
    for path in paths:
        for one in judged_by(path):
            name = one.claim["id"]
            if name in found:
                both = f"{found[name].chapter} and {one.chapter}"
                raise ValueError(f"claim {name} is judged by two chapters: {both}")
            found[name] = one
    return found


def judged_by(path: Path) -> list[Judged]:
    """The claims of one notebook, in order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join(line for cell in cells for line in ["".join(cell["source"]), "\n"])
    title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), path.stem)
    found, figure = [], None
    for cell in cells:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name", figure)
        for output in cell.get("outputs", []):
            for claim in output.get("data", {}).get(MIME, []):
                found.append(Judged(claim, path.stem, title.strip(), figure))
    return found


def turning_point(row: Mapping) -> str:
    """What would change the outcome: the nearer end of the interval crossing the bound."""
    below = row["op"] == "<"
    low, high, bound = row["low"], row["high"], row["bound"]
    if low is None or high is None:
        return "more than one run"
    if row["outcome"] == "open":
        return "more seeds"
    end = high if below == (row["outcome"] == "holds") else low
    return f"{end:.3g} crosses {bound:g}"


def nearness(row: Mapping) -> float:
    """Distance of an interval to its bound over the bound's size: 0 where it straddles it."""
    if row["outcome"] == "open" or row["low"] is None or row["high"] is None:
        return 0.0
    gap = min(abs(row["low"] - row["bound"]), abs(row["high"] - row["bound"]))
    return gap / max(abs(row["bound"]), 1e-12)


def as_table(claims: Sequence[Mapping], judged: Mapping[str, Judged]) -> str:
    """One HTML row a condition; `claims` are mappings with id, source and statement."""
    body = []
    for claim in claims:
        one = judged.get(claim["id"])
        rows = (one.claim["rows"] or [None]) if one else [None]
        span = f' rowspan="{len(rows)}"'
        for i, row in enumerate(rows):
            cells = ""
            if i == 0:
                cells += f'<th scope="row"{span}>{html.escape(claim["id"])}</th>'
                cells += f"<td{span}>{html.escape(claim['statement'])}</td>"
                cells += f"<td{span}>{verdict_cell(one)}</td>"
            if row is None:
                why = one.claim["why"] if one else "no chapter of this run judges it"
                cells += f'<td colspan="3">{html.escape(why)}</td>'
            else:
                rule = f"{row['what']} {row['op']} {row['bound']:g}"
                for text in (rule, f"{numbers(row)}: {row['outcome']}", turning_point(row)):
                    cells += f"<td>{html.escape(text)}</td>"
            body.append(f"<tr>{cells}</tr>")
    titles = ("claim", "statement", "verdict", "rule", "measured, 95 % interval", "to change it")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        '<div class="claims-scroller" tabindex="0" role="region" aria-label="all claims">'
        f'<table class="claims"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def verdict_cell(one: Judged | None) -> str:
    if one is None:
        return "<strong>not judged</strong>"
    link = f'<a href="{html.escape(one.link)}">{html.escape(one.title)}</a>'
    return f"<strong>{html.escape(one.claim['verdict'])}</strong><br>{link}"
