"""python -m studies list | run NAME: the long experiments behind data/results/."""

from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path

import click
import torch

from studies.items import run_items

HERE = Path(__file__).resolve().parent
NOT_STUDIES = ("__init__", "__main__", "items")


def names() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in NOT_STUDIES)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Studies: one module each, with `items()` and `measure(**item)`. Progress goes to stderr."""


@main.command("list")
def list_() -> None:
    """The studies, and what each measures."""
    for name in names():
        module = importlib.import_module(f"studies.{name}")
        click.echo(f"{name}: {(module.__doc__ or '').splitlines()[0]}")


@main.command()
@click.argument("name")
@click.option("--first", type=click.IntRange(1), help="Only so many items, into _build/studies.")
def run(name: str, first: int | None) -> None:
    """Run the study NAME; what an earlier run finished is not repeated."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        known = f"did you mean {near[0]!r}?" if near else f"studies: {', '.join(names()) or 'none'}"
        raise click.UsageError(f"no study {name!r}; {known}")
    module = importlib.import_module(f"studies.{name}")
    torch.set_num_threads(1)
    items = module.items()
    out = None
    if first is not None:
        items = dict(list(items.items())[:first])
        out = HERE.parent / "_build" / "studies" / f"{name}.json"
    code = inspect.getsource(module)
    versions = {"torch": torch.__version__}
    path = run_items(
        name, items, module.measure, code, out=out, versions=versions,
        tell=lambda text: click.echo(text, err=True),
    )  # fmt: skip
    click.echo(path.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
