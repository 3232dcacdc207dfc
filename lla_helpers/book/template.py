"""The chapter that `new` writes: every part that a chapter needs, ready to be filled."""

from __future__ import annotations

import re
from pathlib import Path

from lla_helpers.book.chapters import Book
from lla_helpers.book.errors import BadInput
from lla_helpers.book.files import write_whole
from lla_helpers.book.normalise import as_bytes, with_ids

NAME = re.compile(r"[a-z][a-z0-9_]{2,39}")

OPENING = """({label})=
# {title}

What did the chapter before leave open? Say it in two sentences; this chapter answers it.

**You will be able to**

- do one thing that a reader can check;
- recognise one mistake.

**You need** {{ref}}`ch-lanczos-density`. **Time** at the defaults: seconds on one core.
"""

PARAMETERS = """steps: int = 40  # 4..400; Lanczos steps
seeds: int = 5  # 2..50; networks, one a seed
seed: int = 0  # 0..100000; first seed"""

SETUP = """import matplotlib.pyplot as plt
import torch.nn.functional as F

from lla_helpers import Hessian, criteria, slq
from lla_helpers.claims import Claims, Condition, Rule
from lla_helpers.data import load_digits
from lla_helpers.models import mlp
from lla_helpers.plots import COLORS, plot_density
from lla_helpers.session import begin
from lla_helpers.training import train
from lla_helpers.words import sayer

say = sayer("{name}")
print(begin())"""

THEORY = """## The question

Derive before you compute, and number what you refer to:

$$
\\operatorname{{tr}} H = \\sum_i \\lambda_i .
$$ (eq-{label}-trace)

The rule that judges the claim stands here, before the run:"""

RULE = """rule = Rule(
    "X1",
    "the key of a source in references.bib",
    "what the source says, in one line",
    (Condition("negative share", "<", 0.25),),
)"""

RUN = """digits = load_digits(seed)
densities = []
for s in range(seed, seed + seeds):
    net = mlp((64, 12, 10), "tanh", seed=s)
    train(net, digits.x_train[:400], digits.y_train[:400], epochs=10, seed=s)
    H = Hessian(net, F.cross_entropy, (digits.x_train[:400], digits.y_train[:400]))
    densities.append(slq(H, steps, 4, seed=s))
shares = [criteria(d).negative_share.value for d in densities]
say(share=f"{{sum(shares) / len(shares):.2f}}")"""

FIGURE = """fig, ax = plt.subplots()
for i, density in enumerate(densities):
    plot_density(ax, density, color=COLORS["estimate"], lw=0.8, alpha=0.7)
plt.show()"""

JUDGE = 'Claims([rule.judge({"negative share": shares})])'

CLOSING = """The mean negative share is {{glue:text}}`{name}_share`.

## Try this

```bash
python -m lla_helpers run {name} -p steps 20 --build
```

```{{exercise}}
:label: ex-{label}-one

Ask something that the reader can decide with what stands above.
```

````{{solution}} ex-{label}-one
:class: dropdown

The answer, and why.
````
"""


def write_chapter(book: Book, name: str) -> Path:
    """Write chapters/NAME.ipynb. Raises BadInput for a name that is none, or is taken."""
    if not NAME.fullmatch(name):
        raise BadInput(
            f"a chapter is named by topic, in small letters, digits and _, such as "
            f"sharpness_aware, not {name!r}"
        )
    path = book.root / "chapters" / f"{name}.ipynb"
    if path.exists():
        raise BadInput(f"there is a chapter {name} already")
    words = {"name": name, "label": f"ch-{name.replace('_', '-')}", "title": in_title(name)}
    hidden, ignored = "hide-input", "nbval-ignore-output"
    figure = {
        "figure": {"caption": "What to see in it, and why.", "name": f"fig-{words['label']}"},
        "image": {"alt": "What it shows, for those who cannot see it.", "width": "100%"},
    }
    cells = [
        markdown(OPENING.format(**words)),
        code(PARAMETERS, "parameters"),
        code(SETUP.format(**words), hidden, ignored),
        markdown(THEORY.format(**words)),
        code(RULE),
        code(RUN.format(**words), ignored),
        code(FIGURE, hidden, mystnb=figure),
        code(JUDGE, ignored),
        markdown(CLOSING.format(**words)),
    ]
    write_whole(path, as_bytes(with_ids({"cells": cells, "metadata": {}})))
    return path


def in_title(name: str) -> str:
    text = name.replace("_", " ")
    return text[0].upper() + text[1:]


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip()}


def code(text: str, *tags: str, **metadata) -> dict:
    metadata = {**metadata, **({"tags": list(tags)} if tags else {})}
    empty = {"execution_count": None, "outputs": []}
    return {"cell_type": "code", "metadata": metadata, "source": text, **empty}
