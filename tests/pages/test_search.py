"""Searching works without a server and without the network."""

from __future__ import annotations

from tests.pages.conftest import visit


def test_a_word_of_the_glossary_is_found_from_the_front_page(chromium, book):
    near = f"{book.as_uri()}/"
    seen = visit(chromium, f"{near}intro.html", near=near, offline=True)
    page = seen.page
    page.keyboard.press("Control+K")
    page.keyboard.type("re-orthogonalisation")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    page.locator("#search-results li a[href*='glossary.html']").first.wait_for(timeout=10_000)
    assert (seen.errors, seen.outside) == ([], [])
    page.context.close()
