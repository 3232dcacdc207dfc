"""Do the claims of a fresh run agree with the stored ones, as far as another machine allows?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

STEPS = ("holds", "open", "fails")


def disagreements(stored: Sequence[Mapping], fresh: Sequence[Mapping]) -> list[str]:
    """What differs by more than chance and rounding explain, one sentence each."""
    old, new = ({claim["id"]: claim for claim in claims} for claims in (stored, fresh))
    if set(old) != set(new):
        return [f"claims {sorted(old)} are stored, {sorted(new)} were judged"]
    found = []
    for name, before in old.items():
        after = new[name]
        for a, b in zip(before["rows"], after["rows"], strict=True):
            found += values_apart(f"{name}: {a['what']}", a, b)
        found += verdict_moved(name, before, after)
    return found


def values_apart(what: str, a: Mapping, b: Mapping) -> list[str]:
    """At most 4 combined standard errors; a number without one, to a millionth."""
    combined = math.hypot(a["stderr"] or 0.0, b["stderr"] or 0.0)
    allowed = 4 * combined + 1e-6 * abs(a["value"])
    if abs(a["value"] - b["value"]) <= allowed:
        return []
    return [f"{what}: {a['value']:g} stored, {b['value']:g} now, {allowed:.2g} apart allowed"]


def verdict_moved(name: str, before: Mapping, after: Mapping) -> list[str]:
    """A verdict may move where intervals came to straddle their bounds, or ceased to."""
    a, b = before["verdict"], after["verdict"]
    if a == b:
        return []
    pairs = zip(before["rows"], after["rows"], strict=True)
    steps = [abs(STEPS.index(x["outcome"]) - STEPS.index(y["outcome"])) for x, y in pairs]
    if steps and max(steps) == 1:
        return []
    return [f"{name}: the verdict moved from {a!r} to {b!r}"]
