"""A Chromium on this machine: for printing the book, and for the tests of its pages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome")


class NoBrowser(Exception):
    """There is no browser; the message is one line and says what to do."""


def find_browser() -> str | None:
    """Path of a browser that runs on this machine, or None.

    Raises NoBrowser when LLA_BROWSER names something that does not run: a browser that was asked
    for by name is not replaced in silence.
    """
    if named := os.environ.get("LLA_BROWSER"):
        path = shutil.which(named)
        if path and runs(path):
            return path
        raise NoBrowser(
            f"LLA_BROWSER={named} does not run: name a Chromium or Chrome, or unset the variable"
        )
    return next((path for path in candidates() if runs(path)), None)


def candidates() -> Iterator[str]:
    yield from filter(None, map(shutil.which, NAMES))
    yield from filter(None, [shutil.which(playwrights_own())])


def playwrights_own() -> str:
    """Where Playwright keeps its Chromium, whether it has been downloaded or not."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def runs(path: str) -> bool:
    """Whether the program starts at all: a download may lack the libraries that it needs."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0
