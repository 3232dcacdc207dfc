"""A chapter from the template runs, is in order, and takes no name that is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.book import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("alpha", "there is a chapter alpha already"),
        ("../alpha", "a chapter is named by topic"),
        ("Alpha", "a chapter is named by topic"),
        ("a", "a chapter is named by topic"),
    ],
)
def test_bad_names_are_refused(book, call, name, complaint):
    answer = call(book, "new", name)
    assert (answer.code, answer.out) == (2, "")
    assert answer.last.startswith(f"error: {complaint}")


def test_a_new_chapter_is_refreshed_and_in_order(book, call):
    """In the real helpers' company: the template shows how they are used."""
    shutil.rmtree(book / "lla_helpers")
    shutil.copytree(ROOT / "lla_helpers", book / "lla_helpers")
    shutil.copy(ROOT / "data" / "digits.npz", book / "data")
    answer = call(book, "new", "own_topic")
    assert answer.code == 0 and answer.out.strip().endswith("chapters/own_topic.ipynb")
    assert "_toc.yml" in answer.err
    tiny.edit(book / "_toc.yml", "chapters/scorecard", "chapters/own_topic")
    done = call(book, "refresh", "own_topic")
    assert done.code == 0, done.err
    faults = [line for line in call(book, "check").out.splitlines() if "own_topic" in line]
    assert faults == []
    assert call(book, "run", "own_topic", "-p", "seeds", "2").code == 0
