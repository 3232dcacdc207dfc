"""Which chapters there are and in which order: the notebooks of `_toc.yml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from lla_helpers.book import notebook
from lla_helpers.book.errors import BadInput, did_you_mean
from lla_helpers.book.text import one_line

SCORECARD = "scorecard"  # reads the claims of the other chapters, so it runs after them


@dataclass(frozen=True)
class Chapter:
    """A notebook of the book; `page` is its entry in the table of contents, without suffix."""

    name: str
    page: str
    path: Path

    def load(self) -> dict:
        return notebook.load(self.path)


@dataclass(frozen=True)
class Book:
    """The book whose table of contents lies in the folder `root`."""

    root: Path

    @property
    def output(self) -> Path:
        return self.root / "_build"

    def pages(self) -> list[str]:
        """Every entry of the table of contents, in order, without suffix.

        Raises BadInput when `_toc.yml` is missing or unreadable, or names a page that is not there.
        """
        toc = self.root / "_toc.yml"
        try:
            contents = yaml.safe_load(toc.read_text(encoding="utf-8"))
        except OSError:
            raise BadInput(f"no _toc.yml in {self.root}: is this the book's folder?") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read _toc.yml: {one_line(str(error))}") from None
        if not isinstance(contents, dict) or "root" not in contents:
            raise BadInput("_toc.yml names no root page: it must begin with `root: ...`")
        pages = [entry.removesuffix(".ipynb").removesuffix(".md") for entry in entries(contents)]
        for page in pages:
            if not any((self.root / f"{page}{suffix}").is_file() for suffix in (".ipynb", ".md")):
                raise BadInput(f"_toc.yml names {page}, but there is no {page}.ipynb or {page}.md")
        return pages

    def chapters(self) -> list[Chapter]:
        """The pages that are notebooks, in reading order."""
        paths = [(page, self.root / f"{page}.ipynb") for page in self.pages()]
        return [Chapter(path.stem, page, path) for page, path in paths if path.is_file()]

    def chapter(self, name: str) -> Chapter:
        """The chapter called `name`; its file name will do as well.

        Raises BadInput, with the nearest name, when there is none.
        """
        chapters = {chapter.name: chapter for chapter in self.chapters()}
        short = name.removesuffix(".ipynb").rsplit("/", 1)[-1]
        if short not in chapters:
            raise BadInput(f"no chapter {name!r}" + did_you_mean(short, chapters, "chapters"))
        return chapters[short]


def entries(contents) -> list[str]:
    """The values of every `root` and `file` of a table of contents, in order."""
    if isinstance(contents, list):
        return [entry for item in contents for entry in entries(item)]
    if not isinstance(contents, dict):
        return []
    found = []
    for key, value in contents.items():
        if key in ("root", "file"):
            found.append(str(value))
        elif isinstance(value, list | dict):
            found += entries(value)
    return found
