"""From sources to pages: the whole book is staged in a temporary folder and built there.

The checkout stays clean, a variant is a page of the real book (bibliography, glossary and all),
and the pages appear at their place only once every one of them exists.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lla_helpers.book.accessible import mend
from lla_helpers.book.chapters import Book
from lla_helpers.book.errors import Failed
from lla_helpers.book.files import scratch, swap_in
from lla_helpers.book.launch import settle
from lla_helpers.book.progress import progress
from lla_helpers.book.student import strip_page
from lla_helpers.book.text import plain

SOURCES = (
    "_config.yml",
    "_toc.yml",
    "*.md",
    "*.bib",
    "_static",
    "_templates",
    "vendor",
    "chapters",
    "tests",  # the page on checks offers them for download
)
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "_build")
ENTRY = "from jupyter_book.cli.main import main; main()"  # the package cannot be run with -m
TROUBLE = re.compile(r"(WARNING|ERROR|CRITICAL|SEVERE)\b")
STEP = re.compile(r"(reading sources|writing output)\.\.\. \[ *(\d+)%\]")


def render(
    book: Book,
    place: Path,
    *,
    replaced: Mapping[str, bytes] | None = None,
    student: bool = False,
    strict: bool = True,
    quiet: bool = False,
) -> None:
    """Build the book into the folder `place`, some notebooks replaced by others.

    `quiet` keeps Sphinx's warnings to itself, where a replaced page is not what others refer to.

    Raises Failed, with Sphinx's own lines, when the build fails (with `strict`, when it warns) or
    a page of the table of contents is missing afterwards.
    """
    pages = book.pages()
    with scratch(book.output, "stage-") as stage:
        copy_sources(book.root, stage)
        settle(stage / "_config.yml")
        for page, content in (replaced or {}).items():
            (stage / f"{page}.ipynb").write_bytes(content)
        if student:
            for path in pages_in(stage):
                strip_page(path)
        html = jupyter_book(stage, strict, quiet)
        missing = [page for page in pages if not (html / f"{page}.html").is_file()]
        if missing:
            raise Failed(f"the build left out: {', '.join(missing)}")
        mend(html)
        swap_in(html, place)


def copy_sources(root: Path, stage: Path) -> None:
    for path in (path for pattern in SOURCES for path in sorted(root.glob(pattern))):
        if path.is_dir():
            shutil.copytree(path, stage / path.name, ignore=LEFT_OUT)
        else:
            shutil.copy2(path, stage)


def pages_in(stage: Path) -> Iterator[Path]:
    return (path for path in sorted(stage.rglob("*")) if path.suffix in (".md", ".ipynb"))


def jupyter_book(stage: Path, strict: bool, quiet: bool = False) -> Path:
    """Run jupyter-book on a staged book; returns the folder of the pages."""
    command = [sys.executable, "-c", ENTRY, "build", str(stage), "-n", "--keep-going"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    progress.update("pages", "starting")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = subprocess.Popen(
            [*command, *(["-W"] if strict else [])],
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=env,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            follow(process)
        finally:
            process.kill()
            process.wait()
        complaints.seek(0)
        lines = plain(complaints.read()).replace(f"{stage}{os.sep}", "").splitlines()
    troubles = [line for line in lines if TROUBLE.search(line)]
    if process.returncode:
        progress.finish("pages", "failed")
        raise Failed("\n".join(["the pages were not built:", *(troubles or lines[-15:])]))
    progress.finish("pages", "built")
    for line in [] if quiet else troubles:
        print(line, file=sys.stderr)
    return stage / "_build" / "html"


def follow(process: subprocess.Popen) -> None:
    """Pass on how far Sphinx is, then wait for it."""
    for line in process.stdout:
        if step := STEP.search(plain(line)):
            progress.update("pages", f"{step[1]} {step[2]} %")
    process.wait()
