"""The two ways in which a command ends badly, and how a near miss is pointed out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import click


class BadInput(click.ClickException):
    """What was asked for cannot be done: nothing was run and nothing was written."""

    exit_code = 2


class Failed(click.ClickException):
    """Something ran and failed."""

    exit_code = 1


def did_you_mean(word: str, known: Iterable[str], what: str = "known") -> str:
    """'; did you mean ...?' when a known word is near, else the list of known words."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {what}: {', '.join(known)}" if known else ""
