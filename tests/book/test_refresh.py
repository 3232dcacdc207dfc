"""Storing what is stale, and only that; one failure costs nothing else."""

import os

import pytest

from lla_helpers.book.files import write_whole
from tests.book import tiny


def bytes_of(book):
    return {path.name: path.read_bytes() for path in (book / "chapters").glob("*.ipynb")}


def test_a_stored_book_stays_as_it_is(book, call):
    before = bytes_of(book)
    answer = call(book, "refresh")
    assert (answer.code, answer.out, answer.err) == (0, "nothing is stale\n", "")
    assert bytes_of(book) == before


def test_running_again_stores_the_same_bytes(book, call):
    before = bytes_of(book)
    answer = call(book, "refresh", "--all")
    assert (answer.code, answer.out.count("\n")) == (0, 3)
    assert bytes_of(book) == before


def test_only_what_is_stale_runs(book, call):
    before = bytes_of(book)
    tiny.edit(book / "lla_helpers" / "deep.py", "return 2", "return 3")
    answer = call(book, "refresh")
    assert answer.code == 0
    assert [line.rsplit("/", 1)[-1] for line in answer.out.splitlines()] == ["alpha.ipynb"]
    after = bytes_of(book)
    assert {name for name in after if after[name] != before[name]} == {"alpha.ipynb"}
    assert "scaled 240" in tiny.text_of(book / "chapters" / "alpha.ipynb")
    assert call(book, "check").code == 0


def test_a_chapter_whose_counts_were_cleared_runs_again(book, call):
    before = bytes_of(book)
    tiny.edit(book / "chapters" / "beta.ipynb", '"execution_count": 1', '"execution_count": null')
    assert call(book, "refresh", "alpha").out == "nothing is stale\n", "beta was not asked for"
    assert call(book, "refresh", "beta").code == 0
    assert bytes_of(book) == before


def test_changed_claims_take_the_scorecard_along_after_its_chapters(book, call):
    tiny.edit(book / "chapters" / "alpha.ipynb", "low = 1e-3", "low = 9e-2")
    answer = call(book, "refresh")
    names = [line.rsplit("/", 1)[-1] for line in answer.out.splitlines()]
    assert names == ["alpha.ipynb", "scorecard.ipynb"]
    assert "claims of ['alpha']" in tiny.text_of(book / "chapters" / "scorecard.ipynb")
    assert call(book, "check").code == 0


def test_the_scorecard_waits_for_all_the_others(book):
    from lla_helpers.book.chapters import Book
    from lla_helpers.book.whole import scorecard_last

    rounds = []

    def run(chapters):
        rounds.append([chapter.name for chapter in chapters])
        return []

    assert scorecard_last(Book(book).chapters()[::-1], run) == []
    assert rounds == [["beta", "alpha"], ["scorecard"]]


def test_one_failure_does_not_lose_the_others_results(book, call):
    before = bytes_of(book)
    tiny.edit(book / "chapters" / "alpha.ipynb", "if steps == 13", "if steps == 80")
    tiny.edit(book / "chapters" / "beta.ipynb", "torch loaded:", "torch there:")
    edited = (book / "chapters" / "alpha.ipynb").read_bytes()
    answer = call(book, "refresh")
    assert answer.code == 1
    assert "alpha, code cell 2 (`from lla_helpers import scale`): ValueError" in answer.err
    assert answer.last == "scorecard: not run, because chapters that it reads failed"
    after = bytes_of(book)
    assert after["alpha.ipynb"] == edited, "what failed keeps what it held"
    assert after["scorecard.ipynb"] == before["scorecard.ipynb"]
    assert "torch there: False" in tiny.text_of(book / "chapters" / "beta.ipynb")
    assert call(book, "check").out == "alpha: stale: code cell 2 changed\n"


def test_an_edit_during_the_run_is_not_overwritten(book, call):
    path = book / "chapters" / "beta.ipynb"
    edit = f"open({str(path)!r}, 'a').write(' ')"
    tiny.edit(path, '\\"torch loaded:\\"', f'\\"torch loaded:\\", {edit}')
    answer = call(book, "refresh", "beta")
    assert answer.code == 1
    assert answer.last == "error: beta: edited while it ran, so not stored; refresh it again"
    assert path.read_text().endswith(" ")


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "kept"
    write_whole(path, b"old")

    def full(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]
