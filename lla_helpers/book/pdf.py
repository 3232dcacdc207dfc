"""The whole book as one PDF: its pages joined into one, typeset and printed by a Chromium.

On paper nothing can be unfolded. So folded code, which only prepares or draws, is left out; the
solutions stand together at the end; an animation shows its last frame.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lla_helpers.book.browser import NoBrowser, find_browser
from lla_helpers.book.errors import Failed
from lla_helpers.book.files import write_whole
from lla_helpers.book.progress import progress

PAPER = {"format": "A4", "scale": 0.78, "print_background": True, "outline": True, "tagged": True}
MARGIN = {"top": "18mm", "bottom": "18mm", "left": "17mm", "right": "17mm"}
FOOTER = '<div style="width: 100%; text-align: center; font: 8pt serif" class="pageNumber"></div>'
LEFT_OUT = "a.headerlink, .toc, .toctree-wrapper, details.hide.above-input"
READY = """async () => {
  await window.MathJax?.startup?.promise;
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  for (const slider of document.querySelectorAll(".anim-slider")) {
    slider.value = slider.max;
    slider.dispatchEvent(new Event("input"));
  }
  return document.querySelectorAll("mjx-merror").length;
}"""


def print_book(html: Path, pages: Sequence[str], place: Path) -> None:
    """Print built pages, in order, as the one file `place`.

    Raises Failed, in one line, when there is no Chromium or a package for printing is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
        from pypdf import PdfReader

        browser = find_browser()
    except ImportError as missing:
        raise Failed(f"printing needs the package {missing.name}: pip install it") from None
    except NoBrowser as error:
        raise Failed(str(error)) from None
    if browser is None:
        raise Failed("printing needs Chromium: install it, or name one by LLA_BROWSER")
    joined = html / "_whole_book.html"
    progress.update("pdf", "joining the pages")
    text = whole(html, pages)
    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = chromium.new_context(offline=True).new_page()
            page.set_default_timeout(600_000)

            def printed(numbers: dict[str, int]) -> bytes:
                numbered = re.sub(r"\[\[([^]]+)\]\]", lambda m: str(numbers.get(m[1], "000")), text)
                joined.write_text(numbered, encoding="utf-8")
                page.goto(joined.as_uri())
                if page.evaluate(READY):
                    raise Failed("a formula could not be typeset")
                return page.pdf(
                    **PAPER,
                    margin=MARGIN,
                    display_header_footer=True,
                    header_template="<span></span>",
                    footer_template=FOOTER,
                )

            progress.update("pdf", "typesetting and printing")
            reader = PdfReader(io.BytesIO(printed({})))
            starts = {
                name.lstrip("/"): reader.get_destination_page_number(target) + 1
                for name, target in reader.named_destinations.items()
            }
            progress.update("pdf", "printing again, with page numbers in the contents")
            write_whole(place, printed(starts))
            chromium.close()
    finally:
        joined.unlink(missing_ok=True)
    progress.finish("pdf", f"{len(reader.pages)} pages printed")


def whole(html: Path, pages: Sequence[str]) -> str:
    """One page that holds a cover, the contents and every article, ids made unique."""
    from bs4 import BeautifulSoup

    title, articles, solutions, styles = "", [], [], {}
    for name in pages:
        soup = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        folder = posixpath.dirname(name)
        for tag in soup.head.select("link[rel=stylesheet]"):
            styles[posixpath.normpath(posixpath.join(folder, urlsplit(tag["href"]).path))] = None
        article = soup.select_one("article")
        for node in article.select(LEFT_OUT):
            node.decompose()
        for node in article.select("details"):
            node["open"] = ""
        relocate(article, name, pages)
        heading = article.h1.get_text()
        found = [node.extract() for node in article.select("div.solution")]
        if found:
            parts = "".join(map(str, found))
            solutions.append(f"<section><h2>{heading}</h2>{parts}</section>")
        if not articles:  # the root page has the title of the book
            title = heading
            heading = "About this book"
        articles.append((slug(name), heading, article.decode_contents()))
    if solutions:
        content = f'<h1 id="{slug("solutions")}">Solutions</h1>' + "".join(solutions)
        articles.append((slug("solutions"), "Solutions", content))
    lines = "".join(
        f'<li><a href="#{anchor}">{heading}</a><span>[[{anchor}]]</span></li>'
        for anchor, heading, _ in articles
    )
    body = "".join(
        f'<article class="bd-article printed" id="{anchor}">{content}</article>'
        for anchor, _, content in articles
    )
    links = "".join(f'<link rel="stylesheet" href="{path}">' for path in styles)
    return (
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{title}</title>{links}"
        '<script>window.MathJax = {options: {processHtmlClass: "math"}}</script>'
        '<script defer src="mathjax/tex-mml-chtml.js"></script></head>'
        '<body class="whole-book"><main class="bd-content">'
        f'<section class="cover"><p class="title">{title}</p><p>Printed from the pages of the '
        "book. Code that only prepares or draws is left out, an animation shows its last frame, "
        "and the solutions of the exercises stand at the end.</p></section>"
        f'<nav class="printed-contents"><p class="title">Contents</p><ol>{lines}</ol></nav>'
        f"{body}</main></body></html>"
    )


def relocate(article, name: str, pages: Sequence[str]) -> None:
    """Make ids, links and images of one page right for a page that holds them all."""
    folder = posixpath.dirname(name)
    for node in article.select("[id]"):
        if not node["id"].startswith("_anim"):
            node["id"] = f"{slug(name)}--{node['id']}"
    for node in article.select("[src]"):
        if not node["src"].startswith("data:"):
            node["src"] = posixpath.normpath(posixpath.join(folder, node["src"]))
    for node in article.select("a[href]"):
        parts = urlsplit(node["href"])
        if parts.scheme or parts.netloc:
            continue
        path = posixpath.normpath(posixpath.join(folder, unquote(parts.path)))
        there = path.removesuffix(".html") if parts.path else name
        if there in pages:
            node["href"] = f"#{slug(there)}" + (f"--{parts.fragment}" if parts.fragment else "")
        else:
            del node["href"]


def slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)
