"""What a chapter lets its reader change: the lines of its cell tagged `parameters`.

    steps: int = 80              # 10..400; Lanczos steps
    width: float = 0.01          # 0..1; smoothing width, relative to the range
    activation: str = "relu"     # {relu, tanh, gelu}; activation of the hidden layers
    layers: list[int] = [16, 16] # 1..512; units of the hidden layers
    limit: int | None = None     # samples used, all when None

A literal, its type, and a comment: the range or the choices, if there are any, then the help.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from dataclasses import replace

from lla_helpers.book.errors import BadInput
from lla_helpers.book.notebook import source, tags
from lla_helpers.book.parameters import Parameter, checked

KINDS = ("int", "float", "bool", "str", "list[int]", "list[float]", "list[str]")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})?\.\.({NUMBER})?")
CHOICES = re.compile(r"\{(.+)\}")
LIMITED = re.compile(rf"({NUMBER})?\.\.(?!\.)|\{{")


def parameters_of(notebook: Mapping, chapter: str) -> dict[str, Parameter]:
    """The parameters of a chapter by name, in order.

    Raises BadInput when the chapter has no cell tagged `parameters`, or that cell holds anything
    but annotated literals.
    """
    cells = [cell for cell in notebook["cells"] if "parameters" in tags(cell)]
    if len(cells) != 1:
        raise BadInput(f"{chapter} has {len(cells)} cells tagged `parameters`; it needs one")
    try:
        return parse(source(cells[0]))
    except ValueError as error:
        raise BadInput(f"{chapter}, parameters cell: {error}") from None


def parse(code: str) -> dict[str, Parameter]:
    """Read a parameters cell. Raises ValueError, naming the line, when it cannot be read."""
    try:
        lines = ast.parse(code).body
        comments = comments_of(code)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"it is not Python: {error}") from None
    found: dict[str, Parameter] = {}
    for line in lines:
        try:
            parameter = read_line(line, comments.get(line.end_lineno, ""))
        except ValueError as error:
            raise ValueError(f"line {line.lineno}: {error}") from None
        if parameter.name in found:
            raise ValueError(f"line {line.lineno}: {parameter.name} is there twice")
        found[parameter.name] = parameter
    return found


def comments_of(code: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {t.start[0]: t.string.lstrip("#").strip() for t in tokens if t.type == tokenize.COMMENT}


def read_line(line: ast.stmt, comment: str) -> Parameter:
    if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
        raise ValueError("write it as `name: type = literal  # help`")
    name, annotation = line.target.id, ast.unparse(line.annotation)
    kind = annotation.removesuffix(" | None")
    if kind not in KINDS:
        raise ValueError(f"{name} is of type {annotation}; the types are {', '.join(KINDS)}")
    try:
        default = ast.literal_eval(line.value)
    except (ValueError, TypeError):
        raise ValueError(f"the default of {name} is no literal") from None
    low, high, choices, words = limits(comment)
    parameter = Parameter(name, kind, kind != annotation, default, low, high, choices, words)
    if choices and parameter.scalar != "str":
        raise ValueError(f"{name} has choices in braces, which are for type str")
    if (low is not None or high is not None) and parameter.scalar not in ("int", "float"):
        raise ValueError(f"{name} has a range, which is for numbers")
    return replace(parameter, default=checked(parameter, default))


def limits(comment: str) -> tuple[float | None, float | None, tuple[str, ...], str]:
    """Split a comment into lower bound, upper bound, choices and help."""
    head, _, tail = (part.strip() for part in comment.partition(";"))
    if match := RANGE.fullmatch(head):
        low, high = (None if bound is None else float(bound) for bound in match.groups())
        if low is not None and high is not None and low > high:
            raise ValueError(f"the range {head} is empty")
        return low, high, (), tail
    if match := CHOICES.fullmatch(head):
        return None, None, tuple(choice.strip() for choice in match[1].split(",")), tail
    if LIMITED.match(comment):
        raise ValueError(
            "a range or choices end with a semicolon, as in `# 10..400; Lanczos steps`"
        )
    return None, None, (), comment
