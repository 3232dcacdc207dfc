"""Running every chapter at its defaults: to store the results, or to build the book from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lla_helpers.book.chapters import SCORECARD, Book, Chapter
from lla_helpers.book.check import stored_faults
from lla_helpers.book.errors import Failed
from lla_helpers.book.execute import Job, run_jobs
from lla_helpers.book.files import scratch, swap_in, write_whole
from lla_helpers.book.normalise import as_bytes
from lla_helpers.book.notebook import loads
from lla_helpers.book.stamp import KEY, Stamper
from lla_helpers.book.verdicts import Row, claims_of, compare


def job_for(
    book: Book, chapter: Chapter, values: Mapping[str, Any], claims: Path | None = None
) -> Job:
    """The job that runs a chapter; `claims` is where the scorecard finds the other chapters."""
    claims = claims or chapter.path.parent
    env = {"LLA_CLAIMS_DIR": str(claims)} if chapter.name == SCORECARD else {}
    content = chapter.path.read_bytes()
    return Job(chapter.name, content, book.root, chapter.path.parent, dict(values), env)


def scorecard_last(
    chapters: Sequence[Chapter], run: Callable[[Sequence[Chapter]], list[str]]
) -> list[str]:
    """`run` all chapters but the scorecard, then the scorecard. Returns what failed, in words."""
    others = [chapter for chapter in chapters if chapter.name != SCORECARD]
    failures = run(others)
    last = [chapter for chapter in chapters if chapter.name == SCORECARD]
    if last and failures:
        return [*failures, f"{SCORECARD}: not run, because chapters that it reads failed"]
    return failures + run(last)


def refresh(
    book: Book, chapters: Sequence[Chapter], everything: bool, stored: Callable[[Chapter], None]
) -> list[str]:
    """Run and store the chapters that are stale; call `stored` for each. Returns what failed."""

    def run(candidates: Sequence[Chapter]) -> list[str]:
        stamper = Stamper(book)
        loaded = {chapter: chapter.load() for chapter in candidates}
        stale = [c for c in candidates if everything or any(stored_faults(stamper, c, loaded[c]))]
        stamps = {chapter.name: stamper.stamp(chapter, loaded[chapter]) for chapter in stale}
        by_name = {chapter.name: chapter for chapter in stale}

        def store(job: Job, content: bytes) -> None:
            chapter = by_name[job.chapter]
            if chapter.path.read_bytes() != job.notebook:
                raise Failed(f"{job.chapter}: edited while it ran, so not stored; refresh it again")
            notebook = loads(content, job.chapter)
            notebook["metadata"][KEY] = stamps[job.chapter]
            write_whole(chapter.path, as_bytes(notebook))
            stored(chapter)

        return run_jobs([job_for(book, chapter, {}) for chapter in stale], store) if stale else []

    return scorecard_last(chapters, run)


def execute_book(book: Book) -> tuple[dict[str, bytes], list[Row]]:
    """Run every chapter into `_build/executed`.

    Returns page -> executed notebook, and the claims of this run beside the stored ones. Raises
    Failed, with a line for each chapter that failed; `_build/executed` is then as it was.
    """
    chapters = book.chapters()
    pages = {chapter.name: chapter.page for chapter in chapters}
    done: dict[str, bytes] = {}
    with scratch(book.output, "executing-") as temporary:
        folder = temporary / "executed"

        def store(job: Job, content: bytes) -> None:
            write_whole(folder / f"{job.chapter}.ipynb", content)
            done[pages[job.chapter]] = content

        failures = scorecard_last(
            chapters, lambda some: run_jobs([job_for(book, c, {}, folder) for c in some], store)
        )
        if failures:
            raise Failed("\n".join(failures))
        swap_in(folder, book.output / "executed")
    rows = []
    for chapter in chapters:
        fresh = loads(done[chapter.page], chapter.name)
        rows += compare(claims_of(chapter.load()), claims_of(fresh))
    return done, rows
