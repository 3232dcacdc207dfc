"""A book of two chapters and a scorecard that import nothing heavy, for the tests of the tool."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

CONFIG = """
title: Tiny
author: ""
logo: ""
only_build_toc_files: true
execute:
  execute_notebooks: "off"
html:
  use_issues_button: false
  use_repository_button: false
sphinx:
  extra_extensions: [sphinx_exercise]
  config:
    suppress_warnings: [mystnb.unknown_mime_type]
"""

TOC = """
format: jb-book
root: intro
parts:
  - caption: Part one
    chapters:
      - file: chapters/alpha
        sections:
          - file: chapters/beta
  - caption: Part two
    chapters:
      - file: chapters/scorecard
      - file: notes
"""

INTRO = "# Tiny\n\nSee {ref}`alpha`.\n"

NOTES = """
# Notes

```{exercise}
:label: ex-notes
A question in prose.
```

```{solution} ex-notes
The word is SECRETNOTES.
```
"""

PARAMETERS = """
steps: int = 80              # 10..400; Lanczos steps
width: float = 0.01          # 0..1; smoothing width, relative to the range
activation: str = "relu"     # {relu, tanh}; activation of the hidden layers
layers: list[int] = [16, 8]  # 1..512; units of the hidden layers
limit: int | None = None     # 1..; samples used, all when None
label: str = "plain"         # words for the figure
verbose: bool = False        # say more
"""

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

RESULT = """
from lla_helpers import scale

if steps == 13:
    raise ValueError("thirteen is\\x1b[31m refused\\x1b[0m")
print(repr((steps, width, activation, layers, limit, label, verbose)))
print("scaled", scale(steps))
"""

CLAIM = """
low = 1e-3 * 80 / steps
row = {
    "what": "W1", "op": "<", "bound": 0.005, "value": low, "stderr": low / 10,
    "low": 0.8 * low, "high": 1.2 * low, "n": 5,
    "outcome": "holds" if 1.2 * low < 0.005 else "fails",
}
claim = {
    "id": "D1", "source": "somebody", "statement": "it is accurate", "rows": [row], "why": "",
    "verdict": "reproduced" if row["outcome"] == "holds" else "not reproduced",
}
display({"application/vnd.lla.claims+json": [claim], "text/html": "<b>claims</b>"}, raw=True)
"""

FIGURE = f"""
import base64

display({{"image/png": base64.b64decode("{PNG}")}}, raw=True)
"""

BETA = """
import os
import sys

print("threads", os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"])
print("torch loaded:", "torch" in sys.modules)
"""

SCORECARD = """
import json
import os
from pathlib import Path

folder = Path(os.environ.get("LLA_CLAIMS_DIR", "."))
found = sorted(p.stem for p in folder.glob("*.ipynb") if "vnd.lla.claims" in p.read_text())
print("claims of", [name for name in found if name != "scorecard"])
"""

HELPERS = {
    "__init__": 'EXPORTS = {"scale": "arith", "other": "unrelated"}\n'
    "from importlib import import_module\n\n\n"
    "def __getattr__(name):\n"
    '    return getattr(import_module("lla_helpers." + EXPORTS[name]), name)\n',
    "arith": '"""Reads numbers.csv."""\n\n\ndef scale(x):\n    from .deep import factor\n\n'
    "    return factor() * x\n",
    "deep": "def factor():\n    return 2\n",
    "unrelated": "other = 1\n",
}


def code(text: str, *tags: str, **metadata) -> dict:
    metadata = {**metadata, **({"tags": list(tags)} if tags else {})}
    return {
        "cell_type": "code",
        "metadata": metadata,
        "source": text.strip(),
        "execution_count": None,
        "outputs": [],
    }


def prose(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": textwrap.dedent(text).strip()}


def write(path: Path, *cells: dict) -> None:
    for i, cell in enumerate(cells):
        cell["id"] = f"{path.stem}-{i}"
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def text_of(path: Path) -> str:
    """Everything that a notebook printed."""
    outputs = [o for cell in read(path)["cells"] for o in cell.get("outputs", [])]
    return "".join("".join(o.get("text", "")) for o in outputs)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new))


def make(root: Path) -> Path:
    """Write the tiny book, never executed, into `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in {"_config.yml": CONFIG, "_toc.yml": TOC}.items():
        (root / name).write_text(text)
    (root / "intro.md").write_text(INTRO)
    (root / "notes.md").write_text(NOTES)
    (root / "lla_helpers").mkdir()
    for name, text in HELPERS.items():
        (root / "lla_helpers" / f"{name}.py").write_text(text)
    (root / "data").mkdir()
    (root / "data" / "numbers.csv").write_text("1\n")
    (root / "data" / "more_numbers.csv").write_text("1\n")
    chapters = root / "chapters"
    said = {"figure": {"caption": "A dot.", "name": "fig-dot"}, "image": {"alt": "A dot"}}
    write(
        chapters / "alpha.ipynb",
        prose("(alpha)=\n# Chapter alpha\n\nProse of alpha."),
        code(PARAMETERS, "parameters"),
        code(RESULT),
        code(CLAIM),
        code(FIGURE, mystnb=said),
        prose("```{exercise}\n:label: ex-one\nHow many?\n```"),
        prose("```{solution-start} ex-one\n:class: dropdown\n```"),
        prose("The word is SECRETGATED."),
        code('print("SECRET" + "OUTPUT")'),
        prose("```{solution-end}\n```"),
    )
    write(
        chapters / "beta.ipynb",
        prose("# Chapter beta"),
        code("seed: int = 0  # seed of everything", "parameters"),
        code(BETA),
        code('hidden = "SECRETTAGGED"', "solution"),
        prose(
            """
            ````{exercise}
            :label: ex-two
            Why?
            ````

            ````{solution} ex-two
            :class: dropdown
            ```{note}
            SECRETNESTED
            ```
            still SECRETNESTED
            ````

            Prose after it.
            """
        ),
    )
    write(
        chapters / "scorecard.ipynb",
        prose("# Scorecard"),
        code("rows: int = 9  # 1..; rows of the table", "parameters"),
        code(SCORECARD),
    )
    (chapters / "presets.yml").write_text(
        "alpha:\n  smoke: {steps: 10, layers: [2], width: 1e-3}\n  paper: {steps: 400}\n"
    )
    return root
