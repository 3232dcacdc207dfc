"""The commands. Results go to stdout; progress and errors go to stderr.

Exit codes: 0 done, 1 something ran and failed, 2 bad input (nothing was run), 130 interrupted.
Modules that take long to import are imported by the commands that need them.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import click

from lla_helpers.book import notebook, tables
from lla_helpers.book.chapters import Book
from lla_helpers.book.declared import parameters_of
from lla_helpers.book.errors import BadInput, Failed, did_you_mean
from lla_helpers.book.parameters import Parameter
from lla_helpers.book.presets import all_presets, preset_values
from lla_helpers.book.progress import progress
from lla_helpers.book.values import file_values, overrides

HERE = Path(__file__).resolve().parents[2]


class Group(click.Group):
    """A group that says which command may have been meant."""

    def resolve_command(self, ctx, args):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            raise BadInput(f"no command {args[0]!r}{did_you_mean(args[0], known, 'commands')}")
        return super().resolve_command(ctx, args)


@click.group(cls=Group, invoke_without_command=True)
@click.option("--root", type=Path, envvar="LLA_ROOT", default=HERE, hidden=True)
@click.pass_context
def cli(ctx: click.Context, root: Path) -> None:
    """Read, rerun and build the book."""
    ctx.obj = Book(root.resolve())
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command("list")
@click.argument("chapter", required=False)
@click.pass_obj
def list_(book: Book, chapter: str | None) -> None:
    """List the chapters, or what CHAPTER lets you change."""
    if chapter is None:
        rows = [(c.name, notebook.title(c.load())) for c in book.chapters()]
        click.echo(tables.aligned(("chapter", "title"), rows))
        return
    found = book.chapter(chapter)
    parameters = parameters_of(found.load(), found.name)
    rows = [(p.name, p.type, repr(p.default), p.allowed, p.help) for p in parameters.values()]
    click.echo(tables.aligned(("parameter", "type", "default", "allowed", "help"), rows))
    presets = all_presets(book.root).get(found.name, {})
    for preset, values in presets.items():
        listed = ", ".join(f"{name} {value}" for name, value in values.items())
        click.echo(f"preset {preset}: {listed}")
    if "paper" not in presets:
        click.echo("no paper preset")


@cli.command()
@click.argument("chapter")
@click.option("-p", "options", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter.")
@click.option("-f", "file", type=Path, metavar="FILE.yaml", help="A file of `name: value` lines.")
@click.option("--preset", metavar="NAME", help="A set of values, such as smoke or paper.")
@click.option("--build", is_flag=True, help="Build the book around the new page.")
@click.option("--open", "open_", is_flag=True, help="Build, and open the page in the browser.")
@click.option("--dry-run", is_flag=True, help="Say what it needs, and run nothing.")
@click.pass_obj
def run(
    book: Book,
    chapter: str,
    options: Sequence[tuple[str, str]],
    file: Path | None,
    preset: str | None,
    build: bool,
    open_: bool,
    dry_run: bool,
) -> None:
    """Run CHAPTER with other parameters, into _build/runs; a preset yields to -f, -f to -p."""
    from lla_helpers.book.variant import render_variant, run_variant

    found = book.chapter(chapter)
    parameters = parameters_of(found.load(), found.name)
    values = overrides(
        found.name,
        parameters,
        preset_values(book.root, found.name, preset) if preset else {},
        file_values(file) if file else {},
        once(options, parameters),
    )
    if dry_run:
        from lla_helpers.book.dry import needs_of, run_rows

        (needs,) = needs_of(book, found, parameters, [values])
        click.echo(
            tables.aligned((found.name, "a dry run: nothing was run"), run_rows(values, needs))
        )
        return
    result = run_variant(book, found, values)
    click.echo(shown(result))
    if build or open_:
        page = render_variant(book, found, parameters, values, result)
        click.echo(shown(page))
        if open_ and not webbrowser.open(page.as_uri()):
            raise Failed("no browser could be opened; the page is where the line above says")


@cli.command()
@click.argument("chapter")
@click.option("-p", "options", nargs=2, multiple=True, metavar="NAME A,B,C", help="Its values.")
@click.option("--seeds", metavar="FIRST:END", help="The same as -p seed FIRST,...,END-1.")
@click.option("-f", "file", type=Path, metavar="FILE.yaml", help="Values that all variants share.")
@click.option("--preset", metavar="NAME", help="A set of values that all variants share.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, such as tcp://host:8786.")
@click.option("--memory", type=click.FloatRange(min=0.25), metavar="GIB", help="A kernel's limit.")
@click.option("--dry-run", is_flag=True, help="Say what it needs, and run nothing.")
@click.pass_obj
def sweep(
    book: Book,
    chapter: str,
    options: Sequence[tuple[str, str]],
    seeds: str | None,
    file: Path | None,
    preset: str | None,
    scheduler: str | None,
    memory: float | None,
    dry_run: bool,
) -> None:
    """Run CHAPTER at every combination of values; what an earlier call finished is kept.

    Commas separate values; for a parameter that is a list, semicolons separate lists.
    """
    from lla_helpers.book import grid
    from lla_helpers.book.outcome import write_outcome
    from lla_helpers.book.sweep import folder_of, run_sweep, unfinished

    found = book.chapter(chapter)
    parameters = parameters_of(found.load(), found.name)
    points = grid.variants(
        found.name,
        parameters,
        preset_values(book.root, found.name, preset) if preset else {},
        file_values(file) if file else {},
        grid.listed(once(options, parameters), parameters, seeds),
    )
    folder = folder_of(book, found, points)
    if dry_run:
        from lla_helpers.book.dry import needs_of, sweep_rows

        left = [v.values for v in unfinished(book, found, points, folder)[-1]]
        needs = needs_of(book, found, parameters, left) if left else []
        rows = sweep_rows(len(points), len(points) - len(left), needs, elsewhere=bool(scheduler))
        click.echo(tables.aligned((found.name, "a dry run: nothing was run"), rows))
        return
    variants = run_sweep(book, found, points, folder, scheduler=scheduler, memory=memory)
    defaults = {name: p.default for name, p in parameters.items()}
    table, page = write_outcome(book, found, variants, defaults, folder)
    click.echo(table)
    click.echo(shown(page))
    failures = [f"{grid.in_words(v.values)}: {v.why}" for v in variants if v.why]
    if failures:
        raise Failed("\n".join([f"{len(failures)} of {len(variants)} variants failed", *failures]))


@cli.command()
@click.argument("chapters", nargs=-1, metavar="[CHAPTER]...")
@click.option("--all", "everything", is_flag=True, help="Also chapters that are not stale.")
@click.pass_obj
def refresh(book: Book, chapters: Sequence[str], everything: bool) -> None:
    """Run the chapters that are stale at their defaults, and store them."""
    from lla_helpers.book import whole

    chosen = [book.chapter(name) for name in dict.fromkeys(chapters)] or book.chapters()
    stored = []

    def tell(chapter) -> None:
        stored.append(chapter)
        progress.result(shown(chapter.path))

    failures = whole.refresh(book, chosen, everything, tell)
    if failures:
        raise Failed("\n".join(failures))
    if not stored:
        click.echo("nothing is stale")


@cli.command()
@click.pass_obj
def check(book: Book) -> None:
    """Say what is wrong with the stored chapters, without running them."""
    from lla_helpers.book.check import faults
    from lla_helpers.book.stamp import MISSING

    found = faults(book)
    for fault in found:
        click.echo(fault)
    if found:
        first = "restore what is missing; then " if any(MISSING in f for f in found) else ""
        mends = "`python -m lla_helpers refresh` mends stale chapters"
        raise Failed(f"{len(found)} fault(s); {first}{mends}")
    click.echo(f"{len(book.chapters())} chapter(s) fresh and in order")


@cli.command()
@click.option("--student", is_flag=True, help="Without solutions, into _build/student/html.")
@click.option("--execute", is_flag=True, help="Run every chapter at its defaults first.")
@click.option("--pdf", is_flag=True, help="Print the pages as one file, book.pdf, too.")
@click.pass_obj
def build(book: Book, student: bool, execute: bool, pdf: bool) -> None:
    """Build the book's pages into _build/html."""
    from lla_helpers.book.render import render

    for chapter in book.chapters():
        chapter.load()
    place = book.output / "student" / "html" if student else book.output / "html"
    replaced, rows = {}, []
    if execute:
        from lla_helpers.book.whole import execute_book

        replaced, rows = execute_book(book)
    render(book, place, replaced=replaced, student=student)
    if execute:
        from lla_helpers.book.verdicts import HEADER, cells, summary

        click.echo(tables.aligned(HEADER, [cells(row) for row in rows]))
        click.echo(summary(rows))
    click.echo(shown(place / "index.html"))
    if pdf:
        from lla_helpers.book.pdf import print_book

        printed = place.parent / "book.pdf"
        print_book(place, book.pages(), printed)
        click.echo(shown(printed))


@cli.command()
@click.argument("name")
@click.pass_obj
def new(book: Book, name: str) -> None:
    """Write chapters/NAME.ipynb from the template; _toc.yml decides where it stands."""
    from lla_helpers.book.template import write_chapter

    path = write_chapter(book, name)
    click.echo(shown(path))
    click.echo(
        f"add `- file: chapters/{name}` to _toc.yml, then `python -m lla_helpers refresh {name}`",
        err=True,
    )


def once(options: Sequence[tuple[str, str]], parameters: dict[str, Parameter]) -> dict[str, str]:
    """The -p options by name. Raises BadInput when one is given twice: which was meant?"""
    names = [name for name, _ in options]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"-p {name} is given {names.count(name)} times")
    return dict(options)


def shown(path: Path) -> str:
    """A path as short as it gets from here."""
    here = Path(os.getcwd())
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. An error is one line, without click's usage text."""
    words = list(sys.argv[1:] if args is None else args)
    try:
        with cli.make_context("python -m lla_helpers", words) as ctx:
            cli.invoke(ctx)
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        progress.clear()
        click.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        progress.clear()
        click.echo("interrupted: kernels stopped, nothing half-written", err=True)
        return 130
