"""Every variant of a grid, run once: a sweep that was killed goes on where it was.

A finished variant is a notebook that carries the stamp of the code that made it; the same sweep,
called again, runs only what has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lla_helpers.book.chapters import Book, Chapter
from lla_helpers.book.errors import BadInput
from lla_helpers.book.execute import Job, run_jobs
from lla_helpers.book.files import write_whole
from lla_helpers.book.grid import in_words
from lla_helpers.book.normalise import as_bytes
from lla_helpers.book.notebook import load, loads
from lla_helpers.book.progress import progress
from lla_helpers.book.stamp import KEY, Stamper
from lla_helpers.book.variant import slug
from lla_helpers.book.whole import job_for


@dataclass(frozen=True)
class Variant:
    """One point of the grid; `notebook` is where it lies once it is done, `why` how it failed."""

    values: Mapping[str, Any]
    notebook: Path
    why: str = ""


def folder_of(book: Book, chapter: Chapter, grid: Sequence[Mapping[str, Any]]) -> Path:
    """Where this sweep lives: another grid, another folder; the same grid, the same."""
    names = "-".join(dict.fromkeys(name for values in grid for name in values))
    code = hashlib.sha256(json.dumps(list(grid), sort_keys=True).encode()).hexdigest()[:8]
    return book.output / "sweeps" / f"{chapter.name}-{names or 'defaults'}"[:80] / code


def run_sweep(
    book: Book,
    chapter: Chapter,
    grid: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    scheduler: str | None = None,
    memory: float | None = None,
) -> list[Variant]:
    """Run what is not done yet, and tell of every variant, in the grid's order.

    A variant that fails leaves the others running, and is tried again by the next call.
    """
    stamp, found, left = unfinished(book, chapter, grid, folder)
    done = len(found) - len(left)
    if done:
        progress.finish("sweep", f"{done} of {len(found)} variants are there already")
    # A job tells its own name when it fails; here the values are what tells it from others.
    shared = {n: value for n, value in grid[0].items() if all(v.get(n) == value for v in grid)}
    jobs = {
        f"{chapter.name} ({in_words(own(v.values, shared))})": (
            v,
            replace(job_for(book, chapter, v.values), memory=memory),
        )
        for v in left
    }

    def store(job: Job, content: bytes) -> None:
        nonlocal done
        notebook = loads(content, job.chapter)
        notebook["metadata"][KEY] = {"stamp": stamp}
        write_whole(jobs[job.chapter][0].notebook, as_bytes(notebook))
        done += 1
        progress.update("sweep", f"{done} of {len(found)} variants done")

    renamed = [replace(job, chapter=name) for name, (_, job) in jobs.items()]
    failures = run_jobs(renamed, store, scheduler) if renamed else []
    why = {name: text for name in jobs for text in failures if text.startswith(name)}
    failed = {jobs[name][0].notebook: text.removeprefix(name) for name, text in why.items()}
    progress.finish("sweep", f"{done} of {len(found)} variants done")
    return [replace(v, why=failed.get(v.notebook, "").lstrip(",: ")) for v in found]


def unfinished(
    book: Book, chapter: Chapter, grid: Sequence[Mapping[str, Any]], folder: Path
) -> tuple[str, list[Variant], list[Variant]]:
    """The stamp of what is run now, every variant of the grid, and those that do not carry it."""
    stamp = Stamper(book).stamp(chapter, chapter.load())["stamp"]
    found = [Variant(values, folder / f"{slug(values)}.ipynb") for values in grid]
    return stamp, found, [v for v in found if stamp_of(v.notebook) != stamp]


def own(values: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The values that not all variants have; all of them where that leaves none."""
    return {n: v for n, v in values.items() if n not in shared} or dict(values)


def stamp_of(path: Path) -> str | None:
    """The stamp of a finished variant; None for one that is not there or cannot be read."""
    if not path.is_file():
        return None
    try:
        return load(path).get("metadata", {}).get(KEY, {}).get("stamp")
    except BadInput:
        return None
