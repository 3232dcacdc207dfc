"""The grid of a sweep: every combination of the values that a reader lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from lla_helpers.book.errors import BadInput
from lla_helpers.book.parameters import Parameter
from lla_helpers.book.values import overrides

MOST = 10_000
SEEDS = re.compile(r"(\d+):(\d+)")


def listed(
    options: Mapping[str, str], parameters: Mapping[str, Parameter], seeds: str | None
) -> dict[str, list[str]]:
    """Parameter -> its values as text. Commas separate values, semicolons separate lists.

    `seeds` is FIRST:END, as in Python: 0:5 stands for 0, 1, 2, 3, 4. Raises BadInput when a value
    is listed twice, or the seeds are no such range or listed in `options` too.
    """
    values = {}
    for name, text in options.items():
        plural = name in parameters and parameters[name].kind.startswith("list")
        values[name] = [word.strip() for word in text.split(";" if plural else ",")]
    if seeds is not None:
        found = SEEDS.fullmatch(seeds.strip())
        if not found or int(found[1]) >= int(found[2]):
            raise BadInput(f"--seeds is FIRST:END, such as 0:5 for 0 to 4, not {seeds!r}")
        if "seed" in values:
            raise BadInput("--seeds and -p seed both list seeds; give one of them")
        values["seed"] = [str(seed) for seed in range(int(found[1]), int(found[2]))]
    if not values:
        raise BadInput("a sweep needs values to go through: -p NAME A,B,C or --seeds 0:5")
    return values


def variants(
    chapter: str,
    parameters: Mapping[str, Parameter],
    preset: Mapping[str, Any],
    file: Mapping[str, Any],
    values: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """The values of every variant that differ from the defaults, in the order of the grid.

    Raises BadInput, before anything runs, for a name, type or range that is wrong in any of them,
    for two variants that are the same, or for more than 10,000.
    """
    count = 1
    for words in values.values():
        count *= len(words)
    if count > MOST:
        raise BadInput(f"the grid has {count:,} variants, more than {MOST:,}: list fewer values")
    found = [
        overrides(chapter, parameters, preset, file, dict(zip(values, words, strict=True)))
        for words in product(*values.values())
    ]
    for i, one in enumerate(found):
        if one in found[:i]:
            raise BadInput(f"{chapter}: the grid lists the variant {in_words(one)} twice")
    return found


def in_words(values: Mapping[str, Any]) -> str:
    words = (f"{name} {'empty' if value == '' else value}" for name, value in values.items())
    return ", ".join(words) or "at the defaults"
