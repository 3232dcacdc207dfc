"""An animation is worked without a mouse: Tab reaches every control, arrow keys move the frame."""

from __future__ import annotations

import pytest

from tests.pages.conftest import PHONE, ROOT, toc, visit

WITH_SLIDER = [
    name
    for name in toc()
    if (path := ROOT / f"{name}.ipynb").is_file() and "anim-slider" in path.read_text("utf-8")
]
FOCUSED = "() => document.activeElement.ariaLabel || document.activeElement.value"
BEFORE = """() => {  // the place from which Tab leads into the animation
  const start = document.createElement("button");
  document.querySelector(".animation").before(start);
  start.focus();
}"""


@pytest.fixture(params=WITH_SLIDER)
def page(request, chromium, book):
    url = (book / f"{request.param}.html").as_uri()
    page = visit(chromium, url, near=f"{book.as_uri()}/", offline=True).page
    yield page
    page.context.close()


def test_some_page_has_a_slider():
    assert WITH_SLIDER


def test_the_slider_is_reached_and_moved_by_keys(page):
    slider, picture = page.locator(".anim-slider").first, page.locator(".animation img").first
    frames = {picture.get_attribute("src")}
    page.evaluate(BEFORE)
    page.keyboard.press("Tab")
    assert slider.evaluate("node => node === document.activeElement && !!node.ariaLabel")
    for key, value in [("ArrowRight", "1"), ("ArrowRight", "2"), ("ArrowLeft", "1")]:
        page.keyboard.press(key)
        assert slider.input_value() == value
        frames.add(picture.get_attribute("src"))
    assert len(frames) == 3, "the picture follows the slider"
    page.keyboard.press("End")
    assert slider.input_value() == slider.get_attribute("max")

    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    buttons = page.locator(".anim-buttons").first.locator("button")
    assert reached == buttons.evaluate_all("all => all.map((node) => node.ariaLabel)")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "once", "the repetition mode is a group of radio buttons"
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    assert slider.input_value() == "0", "First frame"


def test_the_slider_fits_a_phone(page):
    page.set_viewport_size(PHONE)
    box = page.locator(".anim-slider").first.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
