"""The switch to dark mode turns the page dark and leaves its figures on a light ground."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.pages.conftest import visit

# Contrast of the text of each cell with what lies behind it (WCAG 2), lowest first.
CONTRAST = """() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((part) => {
      part /= 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgba(getComputedStyle(node).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("table.claims :is(th, td)")].map((cell) => {
    const pair = [light(rgba(getComputedStyle(cell).color)), light(ground(cell))].sort();
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  }).sort((a, b) => a - b);
}"""


@pytest.fixture
def dark(chromium, book, name):
    """A page of its own, switched by its own button, as a reader does it."""
    url = (book / f"{name}.html").as_uri()
    page = visit(chromium, url, near=f"{book.as_uri()}/", offline=True).page
    button = page.locator("button.theme-switch-button:visible").first
    for _ in range(3):  # light, dark and automatic follow one another
        if page.evaluate("document.documentElement.dataset.theme") != "dark":
            button.click()
    yield page
    page.context.close()


def brightness(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"))


def edge_of(seen: np.ndarray) -> np.ndarray:
    """Three pixels inside each border but the right one, which a scroll bar may cover."""
    return np.concatenate([seen[3, 20:-20], seen[-4, 20:-20], seen[20:-20, 3]])


def settled(page, image) -> np.ndarray:
    """The image on the page, once nothing moves or covers it: formulas above it may still grow."""
    for _ in range(20):
        seen = brightness(image.screenshot(animations="disabled"))
        if edge_of(seen).min() > 240:
            break
        page.wait_for_timeout(250)
    return seen


def test_dark_mode(dark):
    assert dark.evaluate("document.documentElement.dataset.theme") == "dark"
    top = {"x": 0, "y": 0, "width": 1280, "height": 400}
    assert np.median(brightness(dark.screenshot(clip=top))) < 60

    for image in dark.locator("article img").all():
        # A dimmed figure has a dim border; what is inside may be a map of colours.
        edge = edge_of(settled(dark, image))
        assert edge.min() > 240, "a figure has lost its white border, or is dimmed"

    ratios = dark.evaluate(CONTRAST)
    assert all(ratio >= 4.5 for ratio in ratios), f"claims at contrast {ratios[:1]}"
