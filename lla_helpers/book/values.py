"""From what a reader wrote (on the command line, in a file, in a preset) to typed values.

Values stay data all the way: papermill writes them into the chapter as literals of these types.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lla_helpers.book.errors import BadInput, did_you_mean
from lla_helpers.book.parameters import Parameter, checked, mismatch
from lla_helpers.book.text import one_line


def overrides(
    chapter: str,
    parameters: Mapping[str, Parameter],
    preset: Mapping[str, Any],
    file: Mapping[str, Any],
    options: Mapping[str, str],
) -> dict[str, Any]:
    """The values that differ from the defaults, in the chapter's order; later layers win.

    Raises BadInput on an unknown name, a wrong type or a value out of range, in any layer.
    """
    layers = (preset, file, options)
    for name in (name for layer in layers for name in layer if name not in parameters):
        hint = did_you_mean(str(name), parameters, "it has")
        raise BadInput(f"{chapter} has no parameter {str(name)!r}{hint}")
    try:
        typed = [{name: read(parameters[name], layer[name]) for name in layer} for layer in layers]
    except ValueError as error:
        raise BadInput(f"{chapter}: {error}") from None
    merged = {name: value for layer in typed for name, value in layer.items()}
    return {n: merged[n] for n, p in parameters.items() if n in merged and merged[n] != p.default}


def read(parameter: Parameter, value: Any) -> Any:
    """A typed value from text, or from what YAML made of it. Raises ValueError, in one line."""
    if isinstance(value, str):
        value = from_text(parameter, value)
    return checked(parameter, value)


def from_text(parameter: Parameter, text: str) -> Any:
    if parameter.optional and text.strip().lower() in ("none", "null"):
        return None
    try:
        if not parameter.kind.startswith("list"):
            return item(parameter.scalar, text)
        inner = text.strip()
        if inner.startswith("[") and inner.endswith("]"):
            inner = inner[1:-1]
        words = inner.split(",") if inner.strip() else []
        return [item(parameter.scalar, unquoted(word.strip())) for word in words]
    except ValueError:
        raise mismatch(parameter, text) from None


def item(kind: str, text: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool":
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    return int(text) if kind == "int" else float(text)


def unquoted(word: str) -> str:
    quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "'\""
    return word[1:-1] if quoted else word


def file_values(path: Path) -> dict[str, Any]:
    """The values in a YAML file. Raises BadInput when it is no mapping of names to values."""
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise BadInput(f"{path} holds no values: write one `name: value` a line")
    return values


def load_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {one_line(str(error))}") from None
