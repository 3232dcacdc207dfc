"""Buttons for Binder, Colab and JupyterHub: one line of `_config.yml` switches them on."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from lla_helpers.book.chapters import Book
from lla_helpers.book.errors import BadInput
from lla_helpers.book.launch import settle
from lla_helpers.book.render import render
from tests.book import tiny
from tests.pages.conftest import ROOT, toc, visit

HERE = "https://github.com/someone/spectra"
LINE = '  url: ""\n'
PLACES = ("mybinder.org", "colab.research.google.com", "hub.invalid")
# Of what chapters import, all that Colab has by itself, and what the line to copy there installs.
IN_COLAB = {"IPython", "cycler", "matplotlib", "numpy", "safetensors", "scipy", "torch"}
IN_COLAB |= {"torchvision", "tqdm"}
INSTALLED = {"myst_nb", "nbformat"}


def launched(page: str) -> list[str]:
    text = page.replace("&amp;", "&")
    return [url for url in re.findall(r'href="([^"]+)"', text) if any(p in url for p in PLACES)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny book under the real settings, its address filled in."""
    root = tmp_path_factory.mktemp("published")
    tiny.make(root)
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert config.count(LINE) == 1
    (root / "_config.yml").write_text(config.replace(LINE, f"  url: {HERE}\n"))
    for folder in ("_static", "_templates", "vendor"):
        (root / folder).symlink_to(ROOT / folder)
    (root / "references.bib").write_text("")
    render(Book(root), root / "_build" / "html", strict=False, quiet=True)
    return root / "_build" / "html"


def test_the_line_gives_three_buttons(published):
    links = launched((published / "chapters" / "alpha.html").read_text())
    assert links == [
        "https://mybinder.org/v2/gh/someone/spectra/main?urlpath=lab/tree/chapters/alpha.ipynb",
        "https://hub.invalid/hub/user-redirect/git-pull?repo=https%3A//github.com/someone/spectra"
        "&urlpath=lab/tree/spectra/chapters/alpha.ipynb&branch=main",
        "https://colab.research.google.com/github/someone/spectra/blob/main/chapters/alpha.ipynb",
    ]


def test_the_buttons_ask_the_network_for_nothing(chromium, published):
    near = f"{published.as_uri()}/"
    seen = visit(chromium, f"{near}chapters/alpha.html", near=near, offline=True)
    assert (seen.errors, seen.outside) == ([], [])
    seen.page.context.close()


def test_colab_and_the_hub_ask_what_they_must_know(chromium, published):
    near = f"{published.as_uri()}/"
    seen = visit(chromium, f"{near}chapters/alpha.html", near=near)
    page = seen.page
    asked, answers = [], iter([None, "https://hub.example.org/"])

    def dialog(box) -> None:
        asked.append((box.message, box.default_value))
        answer = next(answers)
        box.dismiss() if answer is None else box.accept(answer)

    page.on("dialog", dialog)
    page.locator("a[href*='colab']").evaluate("link => link.click()")
    assert "first cell" in asked[0][0]
    assert asked[0][1].startswith(f"!git clone -q --depth 1 -b main {HERE} book && ")
    hub = "https://hub.example.org/hub/user-redirect/git-pull?repo="
    with page.context.expect_event("request", lambda request: request.url.startswith(hub)):
        page.locator("a[href*='hub.invalid']").evaluate("link => link.click()")
    assert "JupyterHub" in asked[1][0]
    page.context.close()


def test_without_the_line_there_is_no_button(book):
    for name in toc():
        assert launched((book / f"{name}.html").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("url", ["github.com/a/b", "https://github.com/a", "https://a.org/b/c"])
def test_an_address_of_another_form_is_refused(tmp_path, url):
    config = tmp_path / "_config.yml"
    config.write_text(f"repository: {{url: '{url}'}}\n")
    with pytest.raises(BadInput, match="is not of the form https"):
        settle(config)


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    whole = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    parts = {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
    return {name.split(".")[0] for name in whole | parts}


def test_what_chapters_import_is_there_after_the_line_for_colab():
    commands = {"__main__.py", "spectrum.py"}  # run from a shell, imported by no chapter
    modules = [p for p in (ROOT / "lla_helpers").glob("*.py") if p.name not in commands]
    foreign = set().union(*map(imported, modules)) - sys.stdlib_module_names - {"lla_helpers"}
    assert foreign <= IN_COLAB | INSTALLED
