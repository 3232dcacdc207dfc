"""What a stored chapter was made of, so that `check` can say what has changed since.

A stamp covers the chapter's code cells with their tags (parameters included), the text of every
helper module that this code reaches, and the files under data/ that the code or these modules
name. Prose is not covered: mending a sentence must not ask for a rerun.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path

from lla_helpers.book.chapters import SCORECARD, Book, Chapter
from lla_helpers.book.closure import Helpers
from lla_helpers.book.errors import BadInput
from lla_helpers.book.notebook import code_cells, source, tags
from lla_helpers.book.verdicts import claims_of

MAGIC = re.compile(r"(?m)^(\s*)(?:%%?\w|!).*")
MISSING = "is missing: restore it with `git checkout"
KEY = "lla"  # where a notebook's metadata keeps its stamp


class Stamper:
    """Computes stamps for the chapters of one book, reading every helper and data file once."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.helpers = Helpers(book.root)
        self.texts: dict[Path, str] = {}
        self.hashes: dict[Path, str] = {}

    def stamp(self, chapter: Chapter, notebook: Mapping) -> dict:
        """`{"stamp": one hash, "cells": [hash, ...], "files": {path: hash}}`.

        Raises BadInput when the code of the chapter or of a helper is no Python.
        """
        parts = {"cells": [cell_hash(cell) for cell in code_cells(notebook)]}
        parts["files"] = {
            path.relative_to(self.book.root).as_posix(): self.file_hash(path)
            for path in sorted(self.files(chapter, notebook))
        }
        if chapter.name == SCORECARD:
            parts["claims"] = self.claim_hashes()
        return {"stamp": digest(json.dumps(parts, sort_keys=True)), **parts}

    def changes(self, chapter: Chapter, notebook: Mapping) -> list[str]:
        """What changed since the chapter was stored, in words; empty when it is fresh."""
        stored = notebook.get("metadata", {}).get(KEY, {})
        if not isinstance(stored, dict) or "stamp" not in stored:
            return ["never stored by `refresh`"]
        current = self.stamp(chapter, notebook)
        if stored["stamp"] == current["stamp"]:
            return []
        changed = list(changed_cells(stored.get("cells", []), current["cells"]))
        lost = self.missing(chapter, notebook, stored.get("files", {}))
        for part, what in (("files", ""), ("claims", "claims of ")):
            changed += changed_keys(stored.get(part, {}), current.get(part, {}), what, lost)
        return changed or ["the stamp itself was edited"]

    def files(self, chapter: Chapter, notebook: Mapping) -> Iterator[Path]:
        """The helper modules and the data files that the chapter's code reaches."""
        modules, text = self.reached(chapter, notebook)
        yield from modules
        yield from (path for path in self.data if mentions(text, path.name))

    def missing(self, chapter: Chapter, notebook: Mapping, stored: Iterable[str]) -> set[str]:
        """The stored data files that the code still names and that are not there."""
        _, text = self.reached(chapter, notebook)
        gone = {f for f in stored if f.startswith("data/") and not (self.book.root / f).exists()}
        return {file for file in gone if mentions(text, Path(file).name)}

    def reached(self, chapter: Chapter, notebook: Mapping) -> tuple[list[Path], str]:
        """The helper modules that the chapter's code reaches, and all of this code as text."""
        code = [source(cell) for cell in code_cells(notebook)]
        try:
            tree = ast.Module([line for cell in code for line in parsed(cell)], [])
            modules = list(self.helpers.closure(tree).values())
        except SyntaxError as error:
            where = f"{error.filename}, line {error.lineno}"
            raise BadInput(f"{chapter.name}: {where}: not Python ({error.msg})") from None
        return modules, "\n".join([*code, *(self.text(path) for path in modules)])

    @cached_property
    def data(self) -> list[Path]:
        """What ships in data/; data/downloads is the reader's own."""
        folder = self.book.root / "data"
        files = (path for path in folder.rglob("*") if path.is_file())
        return [p for p in files if p.relative_to(folder).parts[0] != "downloads"]

    def text(self, path: Path) -> str:
        if path not in self.texts:
            self.texts[path] = path.read_text(encoding="utf-8")
        return self.texts[path]

    def file_hash(self, path: Path) -> str:
        if path not in self.hashes:
            self.hashes[path] = digest(path.read_bytes())[:16]
        return self.hashes[path]

    def claim_hashes(self) -> dict[str, str]:
        """The scorecard is made of the other chapters' claims as well."""
        others = [chapter for chapter in self.book.chapters() if chapter.name != SCORECARD]
        claims = {chapter.name: claims_of(chapter.load()) for chapter in others}
        return {n: digest(json.dumps(c, sort_keys=True))[:16] for n, c in claims.items() if c}


def digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def cell_hash(cell: Mapping) -> str:
    return digest(json.dumps([source(cell), sorted(tags(cell))]))[:16]


def parsed(code: str) -> list[ast.stmt]:
    """A cell's statements; IPython's `%magic` and `!shell` lines count as empty."""
    try:
        return ast.parse(code, "code cell").body
    except SyntaxError:
        return ast.parse(MAGIC.sub(r"\1pass", code), "code cell").body


def mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def changed_cells(stored: list[str], current: list[str]) -> Iterator[str]:
    for kind, i, j, first, last in SequenceMatcher(None, stored, current, False).get_opcodes():
        if kind in ("replace", "insert"):
            yield from (f"code cell {n + 1} changed" for n in range(first, last))
        elif kind == "delete":
            yield f"{j - i} code cell(s) removed after code cell {first}"


def changed_keys(
    stored: Mapping, current: Mapping, what: str, lost: Collection[str]
) -> Iterator[str]:
    for key in sorted({**stored, **current}):
        if key in lost:
            yield f"{key} {MISSING} -- {key}`"
        elif key not in current:
            yield f"{what}{key} no longer used"
        elif key not in stored:
            yield f"{what}{key} newly used"
        elif stored[key] != current[key]:
            yield f"{what}{key} changed"
