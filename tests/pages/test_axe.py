"""Contrast, headings, names and the rest of what a program can tell of WCAG 2, levels A and AA.

axe-core 4.14.1 lies in `axe/` as npm has it (Mozilla Public License 2.0; only these tests use it).
"""

from __future__ import annotations

import pytest

from tests.pages.conftest import DESK, PHONE, ROOT

AXE = (ROOT / "tests" / "pages" / "axe" / "axe.min.js").read_text(encoding="utf-8")
# Both levels in every edition of WCAG 2, and axe's own rules on headings.
EVERYTHING = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    "rules": {"heading-order": {"enabled": True}, "empty-heading": {"enabled": True}},
}
RUN = """(options) => axe.run(document, {
  ...options, resultTypes: ["violations"], preload: false, iframes: false
}).then((found) => found.violations.flatMap((rule) =>
  rule.nodes.map((node) => `${rule.id}: ${node.target} ${node.html.slice(0, 120)}`)))"""

# The article is replaced by a copy that says the same with fewer elements, or axe would take
# minutes: everything folded is open, a formula is a letter (MathJax draws in the text's colour),
# and of the tokens of code one of each kind and ground is left.
REDUCE = """() => {
  const article = document.querySelector("article");
  const copy = article.cloneNode(true);
  copy.querySelectorAll("details").forEach((box) => (box.open = true));
  copy.querySelectorAll(".toggle-hidden").forEach((box) => box.classList.remove("toggle-hidden"));
  copy.querySelectorAll("mjx-container").forEach((formula) => formula.replaceWith("x"));
  const seen = new Set();
  copy.querySelectorAll("pre span").forEach((token) => {
    const kind = token.closest("div[class*=highlight-], .output")?.className + token.className;
    if (seen.has(kind)) token.replaceWith(...token.childNodes);
    seen.add(kind);
  });
  article.replaceWith(copy);
  window.wholeArticle = article;
}"""
RESTORE = '() => document.querySelector("article").replaceWith(window.wholeArticle)'


@pytest.fixture
def reduced(opened, name):
    page = opened(name).page
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(f"(() => {{ {AXE} }})()")
    page.evaluate(REDUCE)
    yield page
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.evaluate(RESTORE)


def test_nothing_breaks_the_rules(reduced):
    assert reduced.evaluate(RUN, EVERYTHING) == []
    reduced.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert reduced.evaluate(RUN, {"runOnly": ["color-contrast"]}) == []


# Scrolls sideways, and no Tab leads there or to anything within.
OUT_OF_REACH = """() => [...document.querySelectorAll("article *")].filter((box) =>
  box.scrollWidth > box.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(box).overflowX) &&
  ![box, ...box.querySelectorAll("a, button, input, [tabindex]")].some((node) => node.tabIndex >= 0)
).map((box) => `${box.tagName} ${box.className} ${box.textContent.slice(0, 60)}`)"""


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_what_scrolls_sideways_is_reached_by_keys(opened, name, size):
    page = opened(name).page
    page.set_viewport_size(size)
    try:
        page.evaluate("new Promise((done) => setTimeout(done, 400))  // the theme waits for 300")
        assert page.evaluate(OUT_OF_REACH) == []
    finally:
        page.set_viewport_size(DESK)
