"""What a run would need, said before it starts: data, memory, products, time. Nothing is run.

`chapters/costs.yml` has what each part of a chapter cost at the defaults, and with which parameters
it grows. A chapter that is made for any model is asked itself, by `lla_helpers.needs`, which also
times the yardstick that tells how fast this machine is.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lla_helpers.book.chapters import Book, Chapter
from lla_helpers.book.errors import Failed
from lla_helpers.book.execute import kernel_env, positive
from lla_helpers.book.grid import in_words
from lla_helpers.book.parameters import Parameter
from lla_helpers.book.progress import progress
from lla_helpers.book.stamp import KEY, MISSING
from lla_helpers.book.values import load_yaml

SCALED = (
    "rough: the times at the defaults, scaled part by part (chapters/costs.yml), and by a yardstick"
)
OTHERWISE = (
    "torchvision's sets take other networks than chapters/costs.yml knows; "
    "`run your_model -p model resnet18 -p data cifar10 --dry-run` tells what one of them needs"
)
TIMED = "rough, at most: one product on a few samples, timed here and multiplied"


@dataclass(frozen=True)
class Needs:
    """What one run needs; None where nobody knows. `rows` says more, what -> words."""

    seconds: float | None = None
    gib: float | None = None
    products: float | None = None
    how: str = ""
    where: str = "one core here"
    rows: Mapping[str, str] = field(default_factory=dict)


def needs_of(
    book: Book,
    chapter: Chapter,
    parameters: Mapping[str, Parameter],
    points: Sequence[Mapping[str, Any]],
) -> list[Needs]:
    """The needs of a chapter at each of some sets of values that differ from the defaults."""
    defaults = {name: p.default for name, p in parameters.items()}
    every = [{**defaults, **values} for values in points]
    answer = asked(book, chapter, every)
    if answer["needs"]:
        return [Needs(**found, how=TIMED) for found in answer["needs"]]
    costs = load_yaml(book.root / "chapters" / "costs.yml")
    slower = answer["yardstick"] / costs["yardstick"]
    rows = {"data": "; ".join(filter(None, (shipped(book, chapter), answer["sets"])))}
    cost = costs.get(chapter.name)
    if cost is None or answer["sets"]:
        how = OTHERWISE if answer["sets"] else "chapters/costs.yml does not have it"
        return [Needs(how=how, rows=rows) for _ in points]
    return [
        Needs(
            seconds=slower
            * sum(p["seconds"] * seconds_grow(p, v, defaults) for p in cost["parts"]),
            gib=sum(p["gib"] * growth(p.get("grows", {}), v, defaults) for p in cost["memory"]),
            products=sum(
                p.get("products", 0) * growth(p.get("times", {}), v, defaults)
                for p in cost["parts"]
            ),
            how=SCALED,
            rows=rows,
        )
        for v in every
    ]


def asked(book: Book, chapter: Chapter, every: Sequence[Mapping[str, Any]]) -> dict:
    """What `lla_helpers.needs` answers, run as a kernel of this chapter would be."""
    progress.update("dry run", "timing this machine")
    process = subprocess.run(
        [sys.executable, "-m", "lla_helpers.needs", chapter.name],
        input=json.dumps(every),
        cwd=chapter.path.parent,
        env=kernel_env(book.root),
        capture_output=True,
        text=True,
    )
    progress.clear()
    if process.returncode:
        raise Failed(f"the dry run failed: {process.stderr.strip().splitlines()[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


def seconds_grow(part: Mapping, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> float:
    """A part's seconds grow with its number of products and with what each of them costs."""
    times, each = part.get("times", {}), part.get("each", {})
    powers = {n: times.get(n, 0) + each.get(n, 0) for n in {**times, **each}}
    return growth(powers, values, defaults)


def growth(
    powers: Mapping[str, float], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> float:
    """prod_n size(value_n) / size(default_n), where a list's size is that of its items summed."""
    return math.prod(size(values[n], p) / size(defaults[n], p) for n, p in powers.items())


def size(value: Any, power: float) -> float:
    return sum(x**power for x in value) if isinstance(value, list) else float(value) ** power


def shipped(book: Book, chapter: Chapter) -> str:
    """The data files that the stored chapter read, and whether they are there."""
    files = chapter.load().get("metadata", {}).get(KEY, {}).get("files", {})
    names = [name for name in files if name.startswith("data/")]
    gone = [f"{name} {MISSING} -- {name}`" for name in names if not (book.root / name).is_file()]
    return "; ".join(gone) or (f"{', '.join(names)}: there" if names else "none")


def run_rows(values: Mapping[str, Any], needs: Needs) -> list[tuple[str, str]]:
    """The table of one run."""
    found = [("parameters", in_words(values)), *needs.rows.items()]
    said = amounts(needs.gib, needs.products, needs.seconds, needs.where)
    return [*found, *said, ("how", needs.how)]


def sweep_rows(
    count: int, done: int, needs: Sequence[Needs], elsewhere: bool
) -> list[tuple[str, str]]:
    """The table of a sweep: the sum over the variants that are not done yet."""
    rows = [("variants", f"{count}, of which {done} are there already")]
    if not needs:
        return rows
    for what, text in needs[0].rows.items():
        others = {n.rows.get(what) for n in needs} - {text}
        rows.append((what, text + (" (others differ)" if others else "")))
    known = [n for n in needs if n.seconds is not None]
    if known:
        seconds = sum(n.seconds for n in known)
        rows += amounts(
            max(n.gib for n in known),
            sum(n.products for n in known),
            seconds,
            known[0].where,
            "the largest: ",
        )
        if not elsewhere:
            workers = min(positive("LLA_WORKERS", 2), len(known))
            rows.append(
                ("beside each other", f"{workers} at a time: {duration(seconds / workers)}")
            )
    return [*rows, ("how", needs[0].how)]


def amounts(
    gib: float | None, products: float | None, seconds: float | None, where: str, which: str = ""
) -> list[tuple[str, str]]:
    return [
        ("memory", "not known" if gib is None else f"{which}about {gib:.2g} GiB"),
        ("products", "not known" if products is None else f"about {rounded(products):,}"),
        ("time", "not known" if seconds is None else f"about {duration(seconds)} of {where}"),
    ]


def rounded(x: float) -> int:
    """Two significant digits: more would be a promise."""
    return int(float(f"{x:.2g}"))


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    if seconds < 6000:
        return f"{seconds / 60:.0f} minutes"
    hours = f"{seconds / 3600:.2g}" if seconds < 360_000 else f"{rounded(seconds / 3600):,}"
    return f"{hours} hours"
