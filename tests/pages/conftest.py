"""The real book, built once, and a browser that cannot reach the network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.browser import ensure_browser

ROOT = Path(__file__).resolve().parents[2]

# The first for containers and root; the rest keep Chromium from asking for things of its own.
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def toc() -> list[str]:
    """Every page that the table of contents names, the root first."""
    tree = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [entry["file"] for part in tree["parts"] for entry in part["chapters"]]
    return [tree["root"], *chapters]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `name` runs once for each page."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", toc())


def build(*options: str) -> None:
    command = [sys.executable, "-m", "lla_helpers", "build", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command[1:])} failed:\n{done.stderr}"


@pytest.fixture(scope="session")
def book() -> Path:
    """The folder of the pages; `build` lets no warning of Sphinx's pass (-n -W)."""
    build()
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def student_book() -> Path:
    build("--student")
    return ROOT / "_build" / "student" / "html"


@dataclass
class Visit:
    """An open page, and what went wrong or outside while it was open."""

    page: Page
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def visit(chromium: Browser, url: str, near: str, **options) -> Visit:
    """Open a page; requests to anywhere but `near` are recorded and refused."""
    context = chromium.new_context(**{"viewport": DESK, "color_scheme": "light", **options})
    seen = Visit(context.new_page())

    def guard(route: Route) -> None:
        if route.request.url.startswith(near):
            route.continue_()
        else:
            seen.outside.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    page = seen.page
    page.on("console", lambda m: m.type == "error" and seen.errors.append(m.text))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("requestfailed", lambda request: seen.errors.append(f"failed: {request.url}"))
    page.on(
        "response",
        lambda answer: (
            answer.status >= 400 and seen.errors.append(f"{answer.status}: {answer.url}")
        ),
    )
    page.goto(url)
    page.evaluate("window.MathJax?.startup?.promise.then(() => null)")
    return seen


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = ensure_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def opened(chromium: Browser, book: Path) -> Callable[[str], Visit]:
    """Open a page from disk with the network off, once for all tests that only look at it."""
    visits: dict[str, Visit] = {}

    def look(name: str) -> Visit:
        if name not in visits:
            url = (book / f"{name}.html").as_uri()
            visits[name] = visit(chromium, url, near=f"{book.as_uri()}/", offline=True)
        return visits[name]

    return look
