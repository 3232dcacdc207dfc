"""Interleaved timing: in each round everything runs once, in another order, and ratios are taken
within the round, so that a machine that is slow for a while is slow for all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable

import numpy as np

Seconds = dict[str, list[float]]

# "cpu" counts this process's processor time, which other work on the machine inflates far less; it
# is the time that one thread takes.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def use_clock(name: str) -> None:
    global clock
    clock = CLOCKS[name]


def interleaved(
    calls: dict[str, Callable[[], object]],
    rounds: int,
    least_seconds: float = 0.0,
    tell: Callable[[str], None] = lambda text: None,
) -> Seconds:
    """Seconds per call, one number a round. Each call is repeated to last `least_seconds`.

    Where `least_seconds` is positive, one call beforehand warms up and says how often to repeat.
    """
    repeats = {name: 1 for name in calls}
    if least_seconds > 0:
        for name, call in calls.items():
            tell(f"warming up: {name}")
            call()
            repeats[name] = max(1, round(least_seconds / max(seconds(call, 1), 1e-6)))
    order, shuffled = list(calls), random.Random(0)
    found: Seconds = {name: [] for name in calls}
    for i in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            tell(f"round {i + 1} of {rounds}: {name}")
            found[name].append(seconds(calls[name], repeats[name]))
    return found


def seconds(call: Callable[[], object], repeats: int) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.quantile(np.asarray(list(values), dtype=float), [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def ratio(found: Seconds, name: str, to: str) -> dict[str, float]:
    return spread(a / b for a, b in zip(found[name], found[to], strict=True))


def fastest(found: Seconds, among: Iterable[str]) -> str | None:
    """The name with the smallest median; None of nobody."""
    return min(among, key=lambda name: np.median(found[name]), default=None)
