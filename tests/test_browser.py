"""Finding and fetching a browser, with fake programs on the PATH and no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lla_helpers.book import browser as finding
from tests import browser


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A bare machine: nothing but `sh` on the PATH, no browser of Playwright's, not root."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLA_BROWSER", raising=False)
    monkeypatch.setattr(finding, "playwrights_own", lambda: str(tmp_path / "own" / "chrome"))
    monkeypatch.setattr(browser, "PLAYWRIGHT", (str(tmp_path / "playwright"),))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def program(path: Path, body: str = "echo Chromium 1") -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def installer(path: Path, target: Path) -> None:
    """A program that makes another one appear, and writes down how it was called."""
    body = f'echo "$@" >> {path}.log\nprintf "#!/bin/sh\\nexit 0" > {target}\n'
    program(path, body + f"/bin/chmod +x {target}")


def test_nothing_is_found_on_a_bare_machine(machine):
    assert browser.find_browser() is None


@pytest.mark.parametrize("name", finding.NAMES)
def test_a_browser_on_the_machine_is_taken_and_nothing_is_installed(machine, name):
    installer(machine / "playwright", machine / "other")
    path = program(machine / name)
    assert browser.ensure_browser() == path
    assert not (machine / "playwright.log").exists()


def test_the_named_browser_wins(machine, monkeypatch):
    program(machine / "chromium")
    mine = program(machine / "mine" / "chrome")
    monkeypatch.setenv("LLA_BROWSER", mine)
    assert browser.find_browser() == mine


def test_a_named_browser_that_does_not_run_is_an_error_not_a_fallback(machine, monkeypatch):
    program(machine / "chromium")
    monkeypatch.setenv("LLA_BROWSER", "/nowhere/chrome")
    with pytest.raises(browser.NoBrowser, match="/nowhere/chrome"):
        browser.find_browser()


def test_a_browser_that_does_not_start_is_passed_over(machine):
    program(machine / "chromium", "exit 127")
    path = program(machine / "google-chrome")
    assert browser.find_browser() == path


def test_playwrights_earlier_download_is_found(machine):
    assert browser.find_browser() is None
    path = program(machine / "own" / "chrome")
    assert browser.find_browser() == path


def test_playwright_downloads_one_when_there_is_none(machine):
    (machine / "own").mkdir()
    installer(machine / "playwright", machine / "own" / "chrome")
    assert browser.ensure_browser() == str(machine / "own" / "chrome")


def test_root_on_debian_falls_back_to_the_package(machine, monkeypatch):
    program(machine / "playwright", "exit 1")
    installer(machine / "apt-get", machine / "chromium")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert browser.ensure_browser() == str(machine / "chromium")
    assert (machine / "apt-get.log").read_text() == "update\ninstall -y chromium\n"


def test_apt_is_not_called_by_an_ordinary_user(machine, capfd):
    program(machine / "playwright", "exit 1")
    installer(machine / "apt-get", machine / "chromium")
    assert browser.main() == 1
    assert not (machine / "apt-get.log").exists()
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.endswith("install one with: sudo apt-get install -y chromium")


def test_a_download_that_does_not_start_is_no_browser(machine, capfd):
    (machine / "own").mkdir()
    broken = machine / "own" / "chrome"
    program(machine / "playwright", f"printf 'not a program' > {broken}; /bin/chmod +x {broken}")
    assert browser.main() == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "playwright install --with-deps chromium" in err.splitlines()[-1]


def test_the_path_is_printed(machine, capsys):
    path = program(machine / "chromium")
    assert browser.main() == 0
    assert capsys.readouterr().out == f"{path}\n"
