"""Numbers of a run as text on its page: glued into sentences, and set as tables."""

from __future__ import annotations

from collections.abc import Sequence

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def sayer(chapter: str):
    """`say` for one chapter: say(loss="0.12") makes {glue:text}`chapter_loss` for its prose."""
    from myst_nb import glue

    def say(**texts: object) -> None:
        for name, text in texts.items():
            glue(f"{chapter}_{name}", str(text), display=False)

    return say


def table(header: Sequence, *rows: Sequence):
    """A Markdown table as a cell's last value; every cell but a row's first is set to the right."""
    from IPython.display import Markdown

    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


def percent(x: float) -> str:
    """A share in words: 0.123 -> 12 %, 0.0123 -> 1.2 %, 0.0000001 -> less than 0.01 %."""
    if 0 < x < 1e-4:
        return "less than 0.01\u00a0%"
    return f"{100 * x:,.0f}\u00a0%" if x >= 0.1 else f"{100 * x:.2g}\u00a0%"


def power(x: float) -> str:
    """3.2e-05 -> 3 × 10⁻⁵, with spaces that do not break; 0.32 stays as it is."""
    if x == 0 or 0.01 <= abs(x) < 100:
        return f"{x:.2g}"
    digit, exponent = f"{x:.0e}".split("e")
    raised = str(int(exponent)).translate(RAISED)
    return f"{digit.replace('-', '−')}\u00a0×\u00a010{raised}"
