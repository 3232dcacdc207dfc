"""A browser for the tests of the pages: one on the machine, else a downloaded one.

`python -m tests.browser` prints its path. In this order it takes what LLA_BROWSER names, a Chromium
or Chrome on the PATH, what Playwright downloaded earlier, what Playwright downloads now, and, as
root on a Debian machine, the package `chromium`. It exits with 1 and the command to run when
there is none to be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from lla_helpers.book.browser import NoBrowser, find_browser

PLAYWRIGHT = (sys.executable, "-m", "playwright", "install", "chromium")
PATIENCE = 600  # seconds for one installation; a machine without a network fails far sooner


def ensure_browser() -> str:
    """Path of a browser, installed now if there was none. Raises NoBrowser if none can be had."""
    if path := find_browser():
        return path
    for command in installations():
        print(f"no browser yet; trying: {' '.join(command)}", file=sys.stderr)
        if succeeds(command) and (path := find_browser()):
            return path
    remedy = "sudo apt-get install -y chromium"
    if not shutil.which("apt-get"):
        remedy = f"{sys.executable} -m playwright install --with-deps chromium"
    raise NoBrowser(f"no browser for the tests of the pages; install one with: {remedy}")


def installations() -> Iterator[tuple[str, ...]]:
    yield PLAYWRIGHT
    apt = shutil.which("apt-get")
    if apt and hasattr(os, "geteuid") and os.geteuid() == 0:
        yield ("sh", "-c", f"{apt} update && {apt} install -y chromium")


def succeeds(command: tuple[str, ...]) -> bool:
    """Run an installation, its output going to stderr."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, stdout=sys.stderr, env=env, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def main() -> int:
    try:
        print(ensure_browser())
    except NoBrowser as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
