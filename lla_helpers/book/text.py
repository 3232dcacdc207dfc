"""Text that others wrote, made fit for one line of a terminal."""

from __future__ import annotations

import re

COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def plain(text: str) -> str:
    """`text` without the terminal's colour codes."""
    return COLOURS.sub("", text)


def one_line(text: str, width: int = 160) -> str:
    """`text` on one line, cut to `width` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 3] + "..."
