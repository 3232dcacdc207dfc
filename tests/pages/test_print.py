"""On paper: the pages joined into one PDF, and the summary on a single sheet."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from pypdf import PdfReader

from lla_helpers.book import pdf
from lla_helpers.book.errors import Failed
from tests.pages.conftest import visit

SIDES = ("top", "right", "bottom", "left")
RAW = re.compile(r"\$\$|\\(?:frac|lambda|mathbb|begin|operatorname)\b")
# One with formulas, exercises and a slider, one with a table, and a page that both link to.
PAGES = ["intro", "chapters/spectral_dynamics", "notation"]


@pytest.fixture(scope="module")
def printed(book, tmp_path_factory):
    place = tmp_path_factory.mktemp("print") / "book.pdf"
    with ThreadPoolExecutor(1) as thread:  # this one may have Playwright's event loop already
        thread.submit(pdf.print_book, book, PAGES, place).result()
    return PdfReader(place)


@pytest.fixture(scope="module")
def texts(printed):
    return [page.extract_text() for page in printed.pages]


def test_every_page_is_there_in_words_and_without_raw_formulas(texts):
    text = "\n".join(texts)
    for words in (
        "Hessian spectra of neural networks",
        "Notation",
        "Solutions",
        " ".join(("Solution", "to")),
    ):
        assert words in text
    assert RAW.findall(text) == []


def test_the_contents_have_the_right_page_numbers(texts):
    contents = next(text for text in texts if text.startswith("Contents"))
    number = int(re.search(r"Notation\s*(\d+)", contents)[1])
    assert "Notation" in texts[number - 1].splitlines()[0]


def test_figures_are_printed_and_one_frame_of_an_animation(printed, book):
    pictures = sum(len(page.images) for page in printed.pages)
    sources = [(book / f"{name}.html").read_text(encoding="utf-8") for name in PAGES]
    figures = sum(len(re.findall(r'src="(?:\.\./)?_images/', source)) for source in sources)
    assert pictures == figures + 1, "the frame of the animation beside the figures"


def test_links_stay_in_the_book(printed):
    assert {"notation", "chapters-spectral_dynamics"} <= {
        name.lstrip("/") for name in printed.named_destinations
    }


def test_nothing_is_left_among_the_pages(printed, book):
    assert not list(book.glob("_whole*"))


def test_without_a_browser_one_line_says_so(book, tmp_path, monkeypatch):
    monkeypatch.setattr(pdf, "find_browser", lambda: None)
    with pytest.raises(Failed, match="printing needs Chromium") as failed:
        pdf.print_book(book, PAGES, tmp_path / "book.pdf")
    assert "\n" not in str(failed.value) and not list(tmp_path.iterdir())


def test_the_summary_is_one_sheet(chromium, book):
    url = (book / "cheatsheet.html").as_uri()
    page = visit(chromium, url, near=f"{book.as_uri()}/", offline=True).page
    sheet = PdfReader(io.BytesIO(page.pdf(format="A4", margin=dict.fromkeys(SIDES, "10mm"))))
    assert len(sheet.pages) == 1
    text = sheet.pages[0].extract_text()
    assert "The method on one page" in text and "sweep CHAPTER" in text
    page.context.close()
