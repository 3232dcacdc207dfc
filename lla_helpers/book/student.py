"""The student edition: the book's sources without their solutions.

Three forms are known: a `{solution}` directive, everything from `{solution-start}` to
`{solution-end}` (code cells and their outputs included), and code cells tagged `solution`.
They are taken out of the sources before the build, so that no page, no search index and no
downloadable source can show them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lla_helpers.book.errors import BadInput
from lla_helpers.book.normalise import as_bytes
from lla_helpers.book.notebook import load, source, tags

FENCE = re.compile(r"\s*(`{3,}|~{3,}|:{3,})\s*\{(solution|solution-start|solution-end)\}")


class Stripper:
    """Takes solutions out of one page; a gate opened in one cell may close in a later one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inside = False  # between {solution-start} and {solution-end}

    def strip(self, text: str) -> str:
        kept, fence, found = [], "", ""
        for line in text.splitlines(keepends=True):
            opened = FENCE.match(line)
            if fence:
                closed = line.strip()
                if len(closed) >= len(fence) and set(closed) == {fence[0]}:
                    fence = ""
            elif opened:
                fence, found = opened.groups()
                self.gate(found)
            elif not self.inside:
                kept.append(line)
        if fence:
            raise BadInput(f"{self.name}: a {{{found}}} directive is never closed")
        return "".join(kept)

    def gate(self, found: str) -> None:
        if found == "solution":
            return
        if self.inside == (found == "solution-start"):
            raise BadInput(f"{self.name}: {{{found}}} without its counterpart")
        self.inside = found == "solution-start"

    def done(self) -> None:
        if self.inside:
            raise BadInput(f"{self.name}: {{solution-start}} without its {{solution-end}}")


def strip_page(path: Path) -> None:
    """Rewrite a staged page, Markdown or notebook, without its solutions."""
    stripper = Stripper(path.name)
    if path.suffix == ".md":
        content = stripper.strip(path.read_text(encoding="utf-8")).encode()
    else:
        notebook = load(path)
        notebook["cells"] = list(strip_cells(notebook["cells"], stripper))
        content = as_bytes(notebook)
    stripper.done()
    path.write_bytes(content)


def strip_cells(cells: Iterable[dict], stripper: Stripper) -> Iterator[dict]:
    for cell in cells:
        text = source(cell)
        if cell["cell_type"] == "markdown":
            cell["source"] = stripper.strip(text)
            kept = cell["source"] == text or cell["source"].strip()
        else:
            kept = not stripper.inside
        if kept and "solution" not in tags(cell):
            yield cell
