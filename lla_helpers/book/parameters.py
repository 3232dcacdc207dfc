"""One parameter of a chapter: its type, its default, and what it accepts."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import Any

from lla_helpers.book.errors import did_you_mean
from lla_helpers.book.text import one_line

WANTED = {"int": "an integer", "float": "a finite number", "bool": "true or false", "str": "text"}
PLURAL = {"int": "integers", "float": "finite numbers", "str": "words"}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    kind: str
    optional: bool
    default: Any
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    help: str

    @property
    def type(self) -> str:
        return f"{self.kind} | None" if self.optional else self.kind

    @property
    def scalar(self) -> str:
        """The type of the value, or of each item of a list."""
        return self.kind.removeprefix("list[").removesuffix("]")

    @property
    def allowed(self) -> str:
        """The range or the choices, as written."""
        if self.choices:
            return "{" + ", ".join(self.choices) + "}"
        if self.low is None and self.high is None:
            return ""
        return "..".join("" if x is None else f"{x:.15g}" for x in (self.low, self.high))


def checked(parameter: Parameter, value: Any) -> Any:
    """`value` as the parameter's type, inside its limits. Raises ValueError, in one line."""
    if value is None and parameter.optional:
        return None
    if not parameter.kind.startswith("list"):
        return checked_item(parameter, value, value)
    if not isinstance(value, list):
        raise mismatch(parameter, value)
    if not value and parameter.allowed:
        raise ValueError(f"{parameter.name} needs at least one value")
    return [checked_item(parameter, one, value) for one in value]


def checked_item(parameter: Parameter, one: Any, whole: Any) -> Any:
    types = {"int": int, "float": (int, float), "bool": bool, "str": str}[parameter.scalar]
    if not isinstance(one, types) or (isinstance(one, bool) and parameter.scalar != "bool"):
        raise mismatch(parameter, whole)
    if parameter.scalar == "float":
        one = as_float(one)
        if not math.isfinite(one):
            raise mismatch(parameter, whole)
    if parameter.scalar == "str" and any(unicodedata.category(c) in ("Cc", "Cs") for c in one):
        raise ValueError(f"{parameter.name} must be printable text on one line, not {short(one)}")
    if parameter.choices and one not in parameter.choices:
        hint = did_you_mean(one, parameter.choices, "choices")
        raise ValueError(f"{parameter.name} cannot be {short(one)}{hint}")
    below = parameter.low is not None and one < parameter.low
    above = parameter.high is not None and one > parameter.high
    if below or above:
        raise ValueError(f"{parameter.name} must be within {parameter.allowed}, not {short(one)}")
    return one


def as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer with hundreds of digits
        return math.inf


def mismatch(parameter: Parameter, value: Any) -> ValueError:
    wanted = WANTED[parameter.scalar]
    if parameter.kind.startswith("list"):
        wanted = f"a list of {PLURAL[parameter.scalar]} such as 1,2,3"
        if parameter.scalar == "str":
            wanted = "a list of words such as a,b,c"
    none = " or none" if parameter.optional else ""
    return ValueError(f"{parameter.name} must be {wanted}{none}, not {short(value)}")


def short(value: Any) -> str:
    return one_line(repr(value), 60)
