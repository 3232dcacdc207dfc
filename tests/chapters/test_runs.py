"""Every chapter, run: the stored outputs again under nbval, and the smoke preset as a page.

nbval compares strictly; figures and cells tagged `nbval-ignore-output` are left out, and the claims
among those are compared by value. Two chapters run at a time, each on one thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from lla_helpers.book.chapters import Book
from lla_helpers.book.notebook import loads
from lla_helpers.book.verdicts import claims_of

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = [chapter.name for chapter in Book(ROOT).chapters()]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PAGE = "lanczos_density"


def python(*words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **ONE_THREAD, "LLA_WORKERS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def nbval(chapter: str) -> subprocess.CompletedProcess:
    words = ("--nbval", f"chapters/{chapter}.ipynb", "-p", "tests.chapters.nbval_claims")
    return python("pytest", "-q", "-x", "-p", "no:cacheprovider", *words)


def smoke(chapter: str) -> subprocess.CompletedProcess:
    build = ("--build",) if chapter == PAGE else ()
    return python("lla_helpers", "run", chapter, "--preset", "smoke", *build)


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], Future]:
    """All runs at once, two at a time; a test waits for its own."""
    with ThreadPoolExecutor(2) as executor:
        jobs = [("nbval", nbval), ("smoke", smoke)]
        yield {
            (name, chapter): executor.submit(run, chapter)
            for name, run in jobs
            for chapter in CHAPTERS
        }


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_fresh_run_gives_the_stored_outputs(runs, chapter):
    done = runs["nbval", chapter].result()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_smoke_preset_runs(runs, chapter):
    done = runs["smoke", chapter].result()
    assert done.returncode == 0, done.stderr[-3000:]
    assert (ROOT / done.stdout.split()[0]).is_file()


def test_a_variant_is_a_page_that_differs_from_the_stored_chapter(runs):
    done = runs["smoke", PAGE].result()
    notebook, page = (ROOT / line for line in done.stdout.splitlines())
    assert page.parts[-3:] == ("html", "chapters", f"{PAGE}.html")
    html = page.read_text(encoding="utf-8")
    for name, value in yaml.safe_load((ROOT / "chapters/presets.yml").read_text())[PAGE][
        "smoke"
    ].items():
        assert f">{name}<" in html or name in html, f"the banner does not mention {name} = {value}"
    stored = loads((ROOT / f"chapters/{PAGE}.ipynb").read_bytes(), PAGE)
    fresh = loads(notebook.read_bytes(), PAGE)
    assert claims_of(fresh) != claims_of(stored)
    assert figures(fresh) and not figures(fresh) & figures(stored)


def figures(notebook) -> set[str]:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    pictures = (output.get("data", {}).get("image/png", "") for output in outputs)
    return {"".join(picture) for picture in pictures if picture}
