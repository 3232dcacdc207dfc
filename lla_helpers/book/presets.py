"""Named sets of values, in chapters/presets.yml: `chapter: {smoke: {name: value}, paper: ...}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lla_helpers.book.errors import BadInput, did_you_mean
from lla_helpers.book.values import load_yaml


def all_presets(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Chapter -> preset -> values. Raises BadInput when the file has another shape."""
    path = root / "chapters" / "presets.yml"
    presets = (load_yaml(path) or {}) if path.is_file() else {}
    nested = isinstance(presets, dict) and all(
        isinstance(sets, dict) and all(isinstance(values, dict) for values in sets.values())
        for sets in presets.values()
    )
    if not nested:
        raise BadInput(
            "chapters/presets.yml must read `chapter: {preset: {name: value}}` throughout"
        )
    return presets


def preset_values(root: Path, chapter: str, preset: str) -> dict[str, Any]:
    """The values of one preset. Raises BadInput, with the nearest name, when there is none."""
    presets = all_presets(root).get(chapter, {})
    if preset not in presets:
        hint = did_you_mean(preset, presets, "it has") or "; it has none"
        raise BadInput(f"{chapter} has no preset {preset!r}{hint}")
    return presets[preset]
