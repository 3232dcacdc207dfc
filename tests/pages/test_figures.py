"""Every image of the content says in words what it shows, and is there."""

from __future__ import annotations

import re

IMAGES = """() => [...document.querySelectorAll("article img")].map((image) => (
  {alt: image.alt.trim(), src: image.getAttribute("src"), loaded: image.naturalWidth > 0}
))"""
FILE_NAME = re.compile(r"\.(png|svg|jpe?g|gif|webp)$|_images/", re.IGNORECASE)


def images(opened, name: str) -> list[dict]:
    return opened(name).page.evaluate(IMAGES)


def test_alternative_text_describes_the_image(opened, name):
    for image in images(opened, name):
        what = image["src"][:80]
        assert len(image["alt"].split()) >= 4, (
            f"{what}: alt text {image['alt']!r} describes nothing"
        )
        assert not FILE_NAME.search(image["alt"]), f"{what}: alt text {image['alt']!r} is a path"


def test_images_load(opened, name):
    assert [image["src"] for image in images(opened, name) if not image["loaded"]] == []


def test_the_front_page_shows_a_picture(opened):
    assert images(opened, "intro")
