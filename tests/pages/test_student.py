"""The student edition holds no solution: in no page, no search index, no downloadable source."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.pages.conftest import ROOT, toc

CHAPTERS = [name for name in toc() if (ROOT / f"{name}.ipynb").is_file()]
# A directive, or all that stands between two directives, code cells included.
SOLUTION = re.compile(
    r"^(`{3,}|:{3,})\{solution\}.*?^\1|\{solution-start\}.*?\{solution-end\}",
    re.DOTALL | re.MULTILINE,
)
PLAIN = re.compile(r"[A-Za-z][a-z]+(?: [a-z]+){3,}")  # words that no markup interrupts


def source(name: str) -> str:
    cells = json.loads((ROOT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def markers(name: str) -> list[str]:
    """Runs of plain words that stand in a chapter's solutions, and outside of them nowhere."""
    runs = [run for found in SOLUTION.finditer(source(name)) for run in PLAIN.findall(found[0])]
    elsewhere = "\n".join(SOLUTION.sub("", source(chapter)) for chapter in CHAPTERS)
    return [run for run in runs if run not in elsewhere]


def everything(folder: Path) -> str:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


@pytest.fixture(scope="module")
def full(book):
    return everything(book)


@pytest.fixture(scope="module")
def student(student_book):
    return everything(student_book)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_sentence_of_a_solution_is_in_the_student_edition(full, student, chapter):
    sentences = markers(chapter)
    assert sentences, "the chapter has no solution, or none with a sentence in it"
    assert [run for run in sentences if run in full], "not even the full edition shows them"
    assert [run for run in sentences if run in student] == []


def test_no_solution_is_announced_in_the_student_edition(full, student):
    announced = " ".join(("Solution", "to"))  # this file is among the downloads
    assert announced in full
    assert announced not in student


def test_exercises_remain_in_the_student_edition(student_book):
    for chapter in CHAPTERS:
        assert "Exercise" in (student_book / f"{chapter}.html").read_text(encoding="utf-8")
