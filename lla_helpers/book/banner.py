"""The banner of a rerun: what differs from the defaults, and what became of the claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lla_helpers.book.notebook import heading, source
from lla_helpers.book.parameters import Parameter
from lla_helpers.book.tables import as_html
from lla_helpers.book.verdicts import HEADER, Row, cells, summary


def with_banner(
    notebook: dict,
    parameters: Mapping[str, Parameter],
    values: Mapping[str, Any],
    rows: Sequence[Row],
) -> dict:
    """The notebook with the banner directly under its title (or on top, when it has none)."""
    text = banner(parameters, values, rows)
    cell = next((cell for cell in notebook["cells"] if heading(cell) is not None), None)
    if cell is None:
        top = {"cell_type": "markdown", "id": "banner", "metadata": {}, "source": text}
        return {**notebook, "cells": [top, *notebook["cells"]]}
    lines = source(cell).splitlines()
    lines.insert(heading(cell) + 1, f"\n{text}\n")
    new = {**cell, "source": "\n".join(lines)}
    return {**notebook, "cells": [new if old is cell else old for old in notebook["cells"]]}


def banner(
    parameters: Mapping[str, Parameter], values: Mapping[str, Any], rows: Sequence[Row]
) -> str:
    """A MyST admonition. Values appear in HTML only, escaped: a value cannot become markup."""
    parts = ["```{admonition} A rerun with other parameters", ":class: important rerun-banner", ""]
    if values:
        lines = [(name, repr(parameters[name].default), repr(v)) for name, v in values.items()]
        parts += ["What differs from the defaults:", ""]
        parts += [as_html("parameters changed", ("parameter", "default", "this run"), lines), ""]
    else:
        parts[0] = "```{admonition} A rerun at the defaults"
        parts += ["Nothing differs from the defaults.", ""]
    parts += [summary(rows), ""]
    if rows:
        parts += [as_html("claims compared", HEADER, [cells(row) for row in rows]), ""]
    return "\n".join([*parts, "```"])
