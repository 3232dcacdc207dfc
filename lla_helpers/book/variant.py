"""One chapter rerun with a reader's parameters: its notebook, and its page in the book."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lla_helpers.book.banner import with_banner
from lla_helpers.book.chapters import Book, Chapter
from lla_helpers.book.errors import Failed
from lla_helpers.book.execute import run_jobs
from lla_helpers.book.files import write_whole
from lla_helpers.book.normalise import as_bytes
from lla_helpers.book.notebook import load
from lla_helpers.book.parameters import Parameter
from lla_helpers.book.render import render
from lla_helpers.book.verdicts import claims_of, compare
from lla_helpers.book.whole import job_for

LONGEST = 60
REPORT = "application/vnd.lla.report+json"


def slug(values: Mapping[str, Any]) -> str:
    """A short, readable name for a set of values that differ from the defaults.

    What does not fit a file name, or is too long for one, is told apart by a hash.
    """
    if not values:
        return "defaults"
    plain = "_".join(f"{name}-{in_name(value)}" for name, value in values.items())
    clean = re.sub(r"[^A-Za-z0-9._-]+", "", plain)
    doubtful = any(isinstance(v, str) and not v.isalnum() for v in flat(values))
    if clean == plain and len(plain) <= LONGEST and not doubtful:
        return plain
    exact = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]
    return f"{clean[:LONGEST]}-{exact}"


def flat(values: Mapping[str, Any]) -> list[Any]:
    return [one for v in values.values() for one in (v if isinstance(v, list) else [v])]


def in_name(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def run_variant(book: Book, chapter: Chapter, values: Mapping[str, Any]) -> Path:
    """Run a chapter; returns its notebook, which appears only when the chapter ran to its end."""
    place = book.output / "runs" / f"{chapter.name}-{slug(values)}" / f"{chapter.name}.ipynb"
    job = job_for(book, chapter, values)
    failures = run_jobs([job], lambda _, content: write_whole(place, content))
    if failures:
        raise Failed(failures[0])
    report = report_of(load(place))
    if report is not None:
        write_whole(place.with_suffix(".json"), report)
    return place


def report_of(notebook: Mapping) -> bytes | None:
    """The report for machines that a chapter left among its outputs, if it left one."""
    outputs = (o for cell in notebook["cells"] for o in cell.get("outputs", []))
    found = [o["data"][REPORT] for o in outputs if REPORT in o.get("data", {})]
    return (json.dumps(found[-1], indent=1) + "\n").encode() if found else None


def render_variant(
    book: Book,
    chapter: Chapter,
    parameters: Mapping[str, Parameter],
    values: Mapping[str, Any],
    notebook: Path,
) -> Path:
    """Build the book around a rerun chapter; returns the chapter's page.

    A warning does not stop it: the reader's run is worth a page in any case.
    """
    fresh = load(notebook)
    rows = compare(claims_of(chapter.load()), claims_of(fresh))
    page = as_bytes(with_banner(fresh, parameters, values, rows))
    place = notebook.parent / "html"
    render(book, place, replaced={chapter.page: page}, strict=False)
    report = notebook.with_suffix(".json")
    if report.is_file():
        write_whole((place / chapter.page).with_suffix(".json"), report.read_bytes())
    return place / f"{chapter.page}.html"
