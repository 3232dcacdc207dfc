"""Reading a notebook as plain JSON: quick, and without loading anything of Jupyter's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lla_helpers.book.errors import BadInput
from lla_helpers.book.text import one_line


def load(path: Path) -> dict:
    """The notebook at `path`. Raises BadInput when there is none, or it is not one."""
    try:
        return loads(path.read_bytes(), path.name)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None


def loads(content: bytes, name: str) -> dict:
    """The notebook in `content`. Raises BadInput when it is not one."""
    try:
        notebook = json.loads(content)
    except ValueError as error:
        raise BadInput(f"{name} is not a notebook: {one_line(str(error))}") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise BadInput(f"{name} is not a notebook of format 4: it has no list of cells")
    return notebook


def source(cell: Mapping) -> str:
    """A cell's text, whether it is stored as one string or as lines."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def tags(cell: Mapping) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def code_cells(notebook: Mapping) -> list[dict]:
    """The code cells that hold code, in order: the n-th carries execution count n."""
    return [c for c in notebook["cells"] if c.get("cell_type") == "code" and source(c).strip()]


def heading(cell: Mapping) -> int | None:
    """The line of a markdown cell that holds a title of the first level, if one does."""
    if cell.get("cell_type") != "markdown":
        return None
    lines = source(cell).splitlines()
    return next((i for i, line in enumerate(lines) if line.startswith("# ")), None)


def title(notebook: Mapping) -> str:
    """The text of the first title, or ''."""
    for cell in notebook["cells"]:
        line = heading(cell)
        if line is not None:
            return source(cell).splitlines()[line][2:].strip()
    return ""
