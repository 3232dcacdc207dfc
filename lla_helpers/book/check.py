"""What is wrong with the stored chapters, without running any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lla_helpers.book.chapters import Book, Chapter
from lla_helpers.book.declared import parameters_of
from lla_helpers.book.errors import BadInput, did_you_mean
from lla_helpers.book.notebook import code_cells
from lla_helpers.book.parameters import Parameter
from lla_helpers.book.presets import all_presets
from lla_helpers.book.stamp import Stamper
from lla_helpers.book.values import overrides

FIGURE = ("caption", "name")  # of a cell's mystnb.figure, beside mystnb.image.alt


def faults(book: Book) -> list[str]:
    """Every fault of every stored chapter, a line each, the chapter's name first."""
    stamper = Stamper(book)
    found, declared = [], {}
    for chapter in book.chapters():
        notebook = chapter.load()
        found += [f"{chapter.name}: {fault}" for fault in stored_faults(stamper, chapter, notebook)]
        found += [f"{chapter.name}: {fault}" for fault in figure_faults(notebook)]
        try:
            declared[chapter.name] = parameters_of(notebook, chapter.name)
        except BadInput as error:
            found.append(error.message)
    for name, parameters in declared.items():
        found += [
            f"{name}: parameter {p.name} has no help" for p in parameters.values() if not p.help
        ]
    return found + list(preset_faults(book, declared))


def stored_faults(stamper: Stamper, chapter: Chapter, notebook: Mapping) -> Iterator[str]:
    """The faults that a rerun by `refresh` mends."""
    changes = stamper.changes(chapter, notebook)
    if changes:
        yield f"stale: {', '.join(changes)}"
    counts = [cell.get("execution_count") for cell in code_cells(notebook)]
    if any(count is None for count in counts):
        yield f"never executed in full: code cell {counts.index(None) + 1} has no execution count"
    elif counts != list(range(1, len(counts) + 1)):
        yield f"executed out of order: execution counts {counts}"
    for number, cell in enumerate(code_cells(notebook), 1):
        if any(output["output_type"] == "error" for output in cell.get("outputs", [])):
            yield f"code cell {number} ended in an error"


def figure_faults(notebook: Mapping) -> Iterator[str]:
    """Images whose cell does not say what they show: the page would have no words for them."""
    for number, cell in enumerate(code_cells(notebook), 1):
        if not any(shows_image(output) for output in cell.get("outputs", [])):
            continue
        said = cell.get("metadata", {}).get("mystnb", {})
        missing = [f"figure.{key}" for key in FIGURE if not said.get("figure", {}).get(key)]
        missing += [] if said.get("image", {}).get("alt") else ["image.alt"]
        if missing:
            yield f"code cell {number} shows a figure without mystnb {', '.join(missing)}"


def shows_image(output: Mapping) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def preset_faults(book: Book, declared: Mapping[str, Mapping[str, Parameter]]) -> Iterator[str]:
    try:
        presets = all_presets(book.root)
    except BadInput as error:
        yield error.message
        return
    names = [chapter.name for chapter in book.chapters()]
    for chapter, sets in presets.items():
        if chapter not in names:
            yield f"presets.yml: no chapter {chapter!r}{did_you_mean(str(chapter), names)}"
        for preset, values in sets.items() if chapter in declared else ():
            try:
                overrides(chapter, declared[chapter], values, {}, {})
            except BadInput as error:
                yield f"presets.yml, {preset}: {error.message}"
