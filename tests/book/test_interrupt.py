"""Ctrl-C at any moment: exit 130, one line, no kernel left, nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.book import tiny

SLEEP = """
import os, time
from pathlib import Path
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
ready = Path(r"{folder}") / f"{name}.pids"
ready.with_suffix(".part").write_text(f"{{os.getpid()}} {{child}}")
ready.with_suffix(".part").rename(ready)
time.sleep(60)
"""


def start(book, *args, **variables):
    return subprocess.Popen(
        [sys.executable, "-m", "lla_helpers", "--root", str(book), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LLA_WORKERS": "2", **variables},
        text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C, and we inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(what, process):
    """Poll until `what()` is true; the command must still be running then."""
    for _ in range(2400):
        if found := what():
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it never got that far")


def interrupt(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("command", [["run", "alpha"], ["refresh"]])
def test_an_interrupted_run_leaves_nothing(book, tmp_path, command):
    names = ["alpha", "beta"] if command == ["refresh"] else ["alpha"]
    for name in names:
        sleep = tiny.code(SLEEP.format(folder=tmp_path, name=name))
        parameters = tiny.code("seed: int = 0  # a seed", "parameters")
        tiny.write(book / "chapters" / f"{name}.ipynb", tiny.prose(f"# {name}"), parameters, sleep)
    before = {path: path.read_bytes() for path in (book / "chapters").iterdir()}
    process = start(book, *command)
    ready = [tmp_path / f"{name}.pids" for name in names]
    wait_for(lambda: all(path.exists() for path in ready), process)
    pids = [int(pid) for path in ready for pid in path.read_text().split()]
    assert all(alive(pid) for pid in pids), "or their end proves nothing"
    code, out, err = interrupt(process)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted: kernels stopped, nothing half-written"
    assert "failed" not in err, "a chapter that was stopped has not failed"
    assert "Traceback" not in err
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            break
        time.sleep(0.05)
    assert [pid for pid in pids if alive(pid)] == [], "kernels and their children are gone"
    assert not (book / "_build").exists()
    assert {path: path.read_bytes() for path in (book / "chapters").iterdir()} == before


def test_an_interrupted_build_keeps_the_old_pages(book, tmp_path):
    """An extension of Sphinx that sleeps makes sure that the build is caught in the middle."""
    slow = "import time\n\n\ndef setup(app):\n    open(__file__ + '.on', 'w')\n    time.sleep(60)\n"
    (tmp_path / "slow_extension.py").write_text(slow)
    tiny.edit(book / "_config.yml", "[sphinx_exercise]", "[sphinx_exercise, slow_extension]")
    old = book / "_build" / "html" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    process = start(book, "build", PYTHONPATH=str(tmp_path))
    wait_for((tmp_path / "slow_extension.py.on").exists, process)
    code, out, err = interrupt(process)
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert old.read_text() == "old"
    assert [path.name for path in (book / "_build").iterdir()] == ["html"]
