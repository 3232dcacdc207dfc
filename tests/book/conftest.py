"""One tiny book, executed and stored once; each test gets a copy of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lla_helpers.book.cli import main
from tests.book import tiny


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr: where an error is told, after any progress."""
        return self.err.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def stored(tmp_path_factory) -> Path:
    root = tiny.make(tmp_path_factory.mktemp("stored") / "book")
    assert main(["--root", str(root), "refresh"]) == 0
    return root


@pytest.fixture
def book(stored, tmp_path) -> Path:
    """A stored tiny book that the test may change."""
    return Path(shutil.copytree(stored, tmp_path / "book"))


@pytest.fixture
def call(capfd) -> Callable[..., Answer]:
    """Run one command as a user would; returns its exit code and what it printed."""

    def run(root: Path, *args: str) -> Answer:
        capfd.readouterr()
        code = main(["--root", str(root), *args])
        return Answer(code, *capfd.readouterr())

    return run
