"""Which of the fourteen traps each installed library falls into."""

from __future__ import annotations

import warnings

from tests.traps.adapter import Adapter, NotOffered
from tests.traps.traps import TRAPS, Trap, first_line


def verdict(trap: Trap, adapter: Adapter) -> dict[str, str]:
    """{"verdict": "stays out" | "falls" | "raises" | "not applicable", "number": ...}."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = trap(adapter)
    except NotOffered:
        return {"verdict": "not applicable", "number": ""}
    except Exception as error:
        return {"verdict": "raises", "number": first_line(error)}
    return {"verdict": "falls" if outcome.falls else "stays out", "number": outcome.number}


def run_traps(adapters: list[Adapter], tell) -> dict[str, dict]:
    """Every trap with every adapter: {number: {"title": ..., library: {verdict, number}}}."""
    table = {}
    for number, (title, trap) in TRAPS.items():
        row = table[str(number)] = {"title": title, "libraries": {}}
        for adapter in adapters:
            tell(f"trap {number}: {adapter.name}")
            row["libraries"][adapter.name] = verdict(trap, adapter)
    return table


def as_text(table: dict[str, dict]) -> str:
    """A table of verdicts, then what each was read off."""
    names = list(table["1"]["libraries"])
    verdicts = {n: [row["libraries"][n]["verdict"] for row in table.values()] for n in names}
    width = {name: max(len(name), 14) for name in names}
    lines = ["  # " + "  ".join(name.ljust(width[name]) for name in names)]
    for i, (number, row) in enumerate(table.items()):
        cells = "  ".join(verdicts[name][i].ljust(width[name]) for name in names)
        lines.append(f"{number:>3} {cells}  {row['title']}")
    out = (f"{verdicts[name].count('stays out')} of 14".ljust(width[name]) for name in names)
    lines.append("out " + "  ".join(out))
    for number, row in table.items():
        lines.append(f"\n{number}. {row['title']}")
        for name, cell in row["libraries"].items():
            number_seen = cell["number"] and f" ({cell['number']})"
            lines.append(f"   {name}: {cell['verdict']}{number_seen}")
    return "\n".join(lines)
