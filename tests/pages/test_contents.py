"""Every page of the table of contents is there, can be reached, and links to what exists."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

from tests.pages.conftest import toc


class Links(HTMLParser):
    """The link targets and the anchors of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        if attributes.get("id"):
            self.anchors.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.targets.append(attributes["href"])


def test_the_page_was_built(book, name):
    assert (book / f"{name}.html").is_file()


def test_the_front_page_leads_to_every_other(book):
    targets = Links(book / f"{toc()[0]}.html").targets
    assert {f"{name}.html" for name in toc()[1:]} <= set(targets)


def test_the_address_of_the_folder_is_the_front_page(book):
    assert f"{toc()[0]}.html" in (book / "index.html").read_text(encoding="utf-8")


def test_links_within_the_book_lead_somewhere(book, name):
    here = book / f"{name}.html"
    dead = []
    for target in Links(here).targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        there = (here.parent / unquote(parts.path)).resolve() if parts.path else here
        if not there.is_file():
            dead.append(target)
        elif there.suffix == ".html" and unquote(parts.fragment) not in Links(there).anchors:
            dead.append(target)
    assert not dead


def test_no_table_is_shown_as_its_source(book, name):
    """The rule below a header, in dashes or what smart quotes make of them, outside of code."""
    soup = BeautifulSoup((book / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    for code in soup.select("pre, code, script"):
        code.decompose()
    assert re.findall(r"\|\s*:?(?:–|--)", soup.get_text()) == []
