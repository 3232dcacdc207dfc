"""A page asks nothing of the network, and nothing on it fails, from disk and from a server."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.pages.conftest import toc, visit


def test_no_request_leaves_the_page(opened, name):
    assert opened(name).outside == []


def test_nothing_fails_on_the_page(opened, name):
    assert opened(name).errors == []


@pytest.fixture(scope="module")
def server(book):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(book))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


@pytest.mark.parametrize("depth", ["root", "folder"])
def test_a_served_page_renders_its_maths_too(chromium, server, depth):
    page = next(page for page in toc() if ("/" in page) == (depth == "folder"))
    seen = visit(chromium, f"{server}{page}.html", near=server)
    assert seen.page.locator("mjx-container").count() > 0
    assert (seen.errors, seen.outside) == ([], [])
    seen.page.context.close()
