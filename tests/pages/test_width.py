"""Nothing makes a page scroll sideways, on a desk or on a phone: wide things scroll alone."""

from __future__ import annotations

import pytest

from tests.pages.conftest import DESK, PHONE

# What sticks out to the right of the window with no scrolling box around it, by tag and class.
STICKS_OUT = """() => {
  const scrolls = (node) => {
    for (let box = node; box && box !== document.body; box = box.parentElement)
      if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return true;
    return false;
  };
  return [...document.querySelectorAll("article *")]
    .filter((node) => node.getBoundingClientRect().right > innerWidth + 1 && !scrolls(node))
    .filter((node) => !node.closest("mjx-assistive-mml"))
    .map((node) => `${node.tagName} ${node.className}`);
}"""


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_fits_the_window(opened, name, size):
    page = opened(name).page
    page.set_viewport_size(size)
    try:
        assert page.evaluate(STICKS_OUT) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    finally:
        page.set_viewport_size(DESK)
