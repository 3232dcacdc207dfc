"""One table, for the terminal and for a page."""

from __future__ import annotations

import html
from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text, its columns padded to their widest cell."""
    table = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def as_html(label: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table as HTML, on one line, everything escaped: it goes into a page as it stands."""
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in header)
    body = "".join(f"<tr>{''.join(map(td, row))}</tr>" for row in rows)
    return (
        f'<div class="claims-scroller" tabindex="0" role="region" aria-label="{label}">'
        f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def td(cell: str) -> str:
    return f"<td>{html.escape(' '.join(cell.split()))}</td>"
