"""What a sweep found: one table, one figure, one page."""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lla_helpers.book import tables
from lla_helpers.book.chapters import Book, Chapter
from lla_helpers.book.files import write_whole
from lla_helpers.book.grid import in_words
from lla_helpers.book.normalise import as_bytes
from lla_helpers.book.notebook import load, title
from lla_helpers.book.render import render
from lla_helpers.book.sweep import Variant
from lla_helpers.book.verdicts import claims_of

FAILED = "failed"
MOST_NAMED = 60  # variants that a figure has room to name
OUTCOMES = ("holds", "open", "fails")
COLORS = {"holds": "#009E73", "fails": "#D55E00", "open": "#0072B2"}
MARKERS = {"holds": "o", "fails": "X", "open": "s"}


def names_of(variants: Sequence[Variant], defaults: Mapping[str, Any]) -> list[str]:
    """The parameters that are not the same in all variants; all that were set, if they are."""
    every = list(dict.fromkeys(name for v in variants for name in v.values))
    moving = [n for n in every if len({str(v.values.get(n, defaults[n])) for v in variants}) > 1]
    return moving or every


def records(variants: Sequence[Variant], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record a condition of a claim a variant; one, with the reason, for a failed variant."""
    found = []
    for variant in variants:
        given = {n: variant.values.get(n, defaults[n]) for n in names_of(variants, defaults)}
        if variant.why:
            found.append({**given, "claim": "", "verdict": FAILED, "what": variant.why})
            continue
        claims = claims_of(load(variant.notebook))
        for claim in claims:
            for row in claim["rows"] or [{}]:
                rule = f"{row['what']} {row['op']} {row['bound']:g}" if row else claim["why"]
                numbers = {k: row.get(k) for k in ("value", "low", "high", "n", "bound", "outcome")}
                found.append(
                    {**given, "claim": claim["id"], "verdict": claim["verdict"], "what": rule}
                    | numbers
                )
        if not claims:
            found.append({**given, "claim": "", "verdict": "done", "what": "judges no claim"})
    return found


def shown(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    value = record.get("value")
    number = "" if value is None else f"{value:.3g}"
    if value is not None and record["low"] is not None and record["n"] > 1:
        number += f" [{record['low']:.3g}, {record['high']:.3g}]"
    given = [str(record[n]) for n in names]
    outcome = record.get("outcome") or ""
    return (*given, record["claim"], record["what"], number, outcome, record["verdict"])


def header(names: Sequence[str]) -> tuple[str, ...]:
    return (*names, "claim", "rule", "measured, 95 % interval", "outcome", "verdict")


def as_csv(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    columns = [*names, "claim", "verdict", "what", "value", "low", "high", "n", "bound", "outcome"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue().encode()


def figure(
    found: Sequence[Mapping[str, Any]], variants: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> bytes | None:
    """A panel a condition: its number with its interval in every variant, and the rule's bound.

    variants: the values of `names` in each of them, from top to bottom.
    """
    labels = [", ".join(str(values[n]) for n in names) for values in variants]
    panels: dict[tuple[str, str], list[tuple[int, Mapping[str, Any]]]] = {}
    place = {in_words(values): i for i, values in enumerate(variants)}
    for record in found:
        if record.get("value") is not None:
            where = place[in_words({n: record[n] for n in names})]
            panels.setdefault((record["claim"], record["what"]), []).append((where, record))
    if not panels:
        return None
    from matplotlib.figure import Figure

    named = len(variants) <= MOST_NAMED
    height = 1.6 + 0.24 * min(len(variants), MOST_NAMED)
    fig = Figure(figsize=(5.2, height * len(panels)), dpi=130, layout="constrained")
    axes = fig.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, ((claim, what), points) in zip(axes, panels.items(), strict=True):
        for where, r in points:
            low, high = (r["value"] if r[k] is None else r[k] for k in ("low", "high"))
            style = {"color": COLORS[r["outcome"]], "marker": MARKERS[r["outcome"]]}
            ax.plot([low, high], [where, where], lw=1.5, color=style["color"])
            ax.plot(r["value"], where, ls="", ms=6, **style)
        ax.axvline(points[0][1]["bound"], color="black", lw=1, ls="--")
        ax.set_ylabel(", ".join(names))
        if named:
            ax.set_yticks(range(len(variants)), labels, fontsize=9)
        ax.set_ylim(len(variants) - 0.5, -0.5)
        ax.set_title(f"{claim}: {what}", fontsize=10, loc="left")
        ax.grid(axis="x", alpha=0.25)
        for outcome in OUTCOMES:
            ax.plot([], [], ls="", marker=MARKERS[outcome], color=COLORS[outcome], label=outcome)
        ax.legend(fontsize=8, frameon=False, loc="best")
    picture = io.BytesIO()
    fig.savefig(picture, facecolor="white")
    return picture.getvalue()


def page(
    chapter: str, found: Sequence[Mapping[str, Any]], names: Sequence[str], picture: bytes | None
) -> dict:
    """The summary as a notebook: what was swept, the figure, the table."""
    total = len({tuple(str(r[n]) for n in names) for r in found})
    failed = sum(r["verdict"] == FAILED for r in found)
    intro = (
        f"# A sweep of: {chapter}\n\n{total} variants, {failed} of them failed. Swept: "
        f"{', '.join(f'`{n}`' for n in names)}. Every claim was judged by the chapter's own rule.\n"
    )
    rows = [shown(record, names) for record in found]
    table = tables.as_html("every variant and its claims", header(names), rows)
    cells = [markdown("sweep-title", f"{intro}\n{in_short(found)}\n")]
    if picture is not None:
        said = {
            "figure": {
                "caption": "What each variant measured, with its 95 % interval, beside the bound "
                "of the rule (dashed). Circle: the condition holds; square: the interval straddles "
                "the bound; cross: it fails.",
                "name": "fig-sweep",
            },
            "image": {"alt": "One panel for each rule; the table below has the same numbers."},
        }
        data = {"image/png": base64.b64encode(picture).decode()}
        output = {"output_type": "display_data", "metadata": {}, "data": data}
        cells.append(
            {
                "cell_type": "code",
                "id": "sweep-figure",
                "metadata": {"mystnb": said, "tags": ["remove-input"]},
                "source": "figure",
                "execution_count": 1,
                "outputs": [output],
            }
        )
    cells.append(markdown("sweep-table", f"## Every variant\n\n{table}\n"))
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def in_short(found: Sequence[Mapping[str, Any]]) -> str:
    """How often each rule held, as a table; nothing where no claim was judged."""
    counts: dict[tuple[str, str], Counter] = {}
    for record in found:
        if record.get("outcome"):
            counts.setdefault((record["claim"], record["what"]), Counter())[record["outcome"]] += 1
    # The counts come before the rules, which are long: a phone shows the left of a table.
    rows = [
        (claim, *(str(count[o]) for o in OUTCOMES), what) for (claim, what), count in counts.items()
    ]
    return (
        tables.as_html("how often each rule held", ("claim", *OUTCOMES, "rule"), rows)
        if rows
        else ""
    )


def markdown(name: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def write_outcome(
    book: Book,
    chapter: Chapter,
    variants: Sequence[Variant],
    defaults: Mapping[str, Any],
    folder: Path,
) -> tuple[str, Path]:
    """Write results.csv, results.png and the page; returns the table as text and the page."""
    names = names_of(variants, defaults)
    found = records(variants, defaults)
    moving = [{n: v.values.get(n, defaults[n]) for n in names} for v in variants]
    picture = figure(found, moving, names)
    write_whole(folder / "results.csv", as_csv(found, names))
    if picture is not None:
        write_whole(folder / "results.png", picture)
    content = as_bytes(page(title(chapter.load()), found, names, picture))
    # A warning does not stop it: references to the chapter's figures lead nowhere here.
    render(book, folder / "html", replaced={chapter.page: content}, strict=False, quiet=True)
    text = tables.aligned(header(names), [shown(record, names) for record in found])
    return text, folder / "html" / f"{chapter.page}.html"
