"""A grid of variants: checked before it runs, resumed after a kill, told as table, figure, page."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.book import tiny
from tests.book.test_interrupt import alive, start, wait_for

PYTHON = [sys.executable, "-m"]

# Leaves a line for every time that it runs, and takes long enough to be caught in the middle.
LOGGED = """
import os, time
time.sleep({seconds})
with open(r"{log}", "a") as file:
    file.write(f"{{seed}}\\n")
low = float(seed)
row = {{
    "what": "height", "op": "<", "bound": 3.5, "value": low, "stderr": 0.1, "low": low - 0.2,
    "high": low + 0.2, "n": 5, "outcome": "holds" if low < 3.5 else "fails",
}}
claim = {{"id": "D1", "source": "", "statement": "", "rows": [row], "why": "", "verdict": "partly"}}
display({{"application/vnd.lla.claims+json": [claim], "text/plain": ""}}, raw=True)
"""


@pytest.fixture
def logged(book, tmp_path):
    """The tiny book, its chapter beta writing down each seed that it ran; and the log."""
    log = tmp_path / "log"
    log.touch()
    tiny.write(
        book / "chapters" / "beta.ipynb",
        tiny.prose("# Chapter beta"),
        tiny.code("seed: int = 99  # 0..99; a seed", "parameters"),
        tiny.code(LOGGED.format(log=log, seconds=0.5)),
    )
    return book, log


def ran(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split())


def results(page: str, book: Path, figure: bool = True) -> list[dict[str, str]]:
    folder = (book / page).parents[2]
    if figure:
        assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_a_table_a_figure_and_a_page(book, call):
    answer = call(book, "sweep", "alpha", "-p", "steps", "13,40", "-p", "layers", "3,4;5")
    assert answer.code == 1, "a variant failed, and that is told"
    assert "error: 2 of 4 variants failed" in answer.err
    assert "steps 13, layers [5]: code cell 3" in answer.err.splitlines()[-1]
    page = answer.out.splitlines()[-1]
    rows = results(page, book)
    assert [(r["steps"], r["layers"], r["verdict"]) for r in rows] == [
        ("13", "[3, 4]", "failed"),
        ("13", "[5]", "failed"),
        ("40", "[3, 4]", "reproduced"),
        ("40", "[5]", "reproduced"),
    ]
    html = (book / page).read_text()
    for text in (
        "A sweep of: Chapter alpha",
        "4 variants, 2 of them failed",
        "thirteen is refused",
    ):
        assert text in html
    assert not (book / "_build" / "runs").exists()

    tiny.edit(book / "lla_helpers" / "unrelated.py", "1", "2")
    again = call(book, "sweep", "alpha", "-p", "steps", "13,40", "-p", "layers", "3,4;5")
    assert "2 of 4 variants are there already" in again.err, "only what failed is tried again"
    tiny.edit(book / "lla_helpers" / "deep.py", "return 2", "return 3")
    stale = call(book, "sweep", "alpha", "-p", "steps", "13,40", "-p", "layers", "3,4;5")
    assert "there already" not in stale.err, "results of other code are no results"


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "a sweep needs values to go through"),
        (["-p", "stepz", "10,20"], "alpha has no parameter 'stepz'; did you mean 'steps'?"),
        (["-p", "steps", "10,4"], "alpha: steps must be within 10..400, not 4"),
        (["-p", "steps", "10,,20"], "alpha: steps must be an integer, not ''"),
        (["-p", "steps", "10,10"], "alpha: the grid lists the variant steps 10 twice"),
        (["--seeds", "5:0"], "--seeds is FIRST:END, such as 0:5"),
        (["--seeds", "0:3"], "alpha has no parameter 'seed'"),
        (["--memory", "0.1", "-p", "steps", "10"], "Invalid value for '--memory'"),
        (["--seeds", "0:99999"], "the grid has 99,999 variants"),
        (
            ["--scheduler", "tcp://127.0.0.1:1", "-p", "steps", "10"],
            "no Dask scheduler answers at tcp://127.0.0.1:1",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_run(book, call, args, complaint):
    answer = call(book, "sweep", "alpha", *args)
    assert (answer.code, answer.out) == (2, "")
    assert answer.last.startswith(f"error: {complaint}")
    assert not list(book.rglob("_build/sweeps/**/*.ipynb"))


def test_a_kernel_beyond_its_memory_fails_alone(book, call):
    tiny.edit(book / "lla_helpers" / "deep.py", "return 2", "return len(bytearray(2**30)) and 2")
    answer = call(book, "sweep", "alpha", "-p", "steps", "40", "--memory", "0.5")
    assert answer.code == 1 and answer.last.endswith("MemoryError")
    assert call(book, "sweep", "alpha", "-p", "steps", "40", "--memory", "4").code == 0


def test_a_killed_sweep_goes_on_and_repeats_nothing(logged, call):
    book, log = logged
    undisturbed = call(book, "sweep", "beta", "--seeds", "0:8")
    table = undisturbed.out.splitlines()[:-1]
    assert undisturbed.code == 0 and ran(log) == list(range(8))

    log.write_text("")
    for path in (book / "_build" / "sweeps").rglob("*.ipynb"):
        if "html" not in path.parts:
            path.unlink()
    process = start(book, "sweep", "beta", "--seeds", "0:8")
    kept = lambda: list((book / "_build" / "sweeps").rglob("seed-*.ipynb"))  # noqa: E731
    wait_for(lambda: len(kept()) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {int(path.stem.removeprefix("seed-")) for path in kept()}
    assert 3 <= len(done) < 8
    time.sleep(2)  # kernels notice that their parent is gone
    before = ran(log)
    resumed = call(book, "sweep", "beta", "--seeds", "0:8")
    assert resumed.code == 0 and resumed.out.splitlines()[:-1] == table
    again = [seed for seed in ran(log) if ran(log).count(seed) > before.count(seed)]
    assert set(again) == set(range(8)) - done, "what was done is not repeated"


@pytest.fixture
def dask(tmp_path, request):
    """A scheduler and two workers, started by hand; the address, and the workers' processes."""
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = [*PYTHON, "distributed.cli.dask_scheduler", *local, "--port", "0"]
    # One lost worker is enough to blame a task: with a second one nobody would be left.
    once = {
        **os.environ,
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(getattr(request, "param", 3)),
    }
    processes = [subprocess.Popen([*scheduler, "--scheduler-file", str(file)], env=once, **quiet)]
    worker = [*PYTHON, "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-nanny"]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    for _ in range(2):
        processes.append(
            subprocess.Popen([*worker, "--nthreads", "1", "--no-dashboard"], env=here, **quiet)
        )
    yield file, processes[1:]
    for process in processes:
        process.kill()
        process.wait()


def address(file: Path, process) -> str:
    """The scheduler makes its file first and fills it afterwards: an empty one says nothing yet."""

    def told() -> str | None:
        try:
            return json.loads(file.read_text())["address"]
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    return wait_for(told, process)


def test_a_lost_dask_worker_loses_no_variant(logged, dask):
    book, log = logged
    file, workers = dask
    scheduler = address(file, workers[0])
    process = start(book, "sweep", "beta", "--seeds", "0:8", "--scheduler", scheduler)
    kept = lambda: list((book / "_build" / "sweeps").rglob("seed-*.ipynb"))  # noqa: E731
    wait_for(lambda: len(kept()) >= 3, process)
    workers[0].send_signal(signal.SIGKILL)
    done = {int(path.stem.removeprefix("seed-")) for path in kept()}
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    rows = results(out.splitlines()[-1], book)
    assert [int(row["seed"]) for row in rows] == list(range(8)), "every variant, once"
    assert [(float(row["value"]), row["outcome"]) for row in rows] == [
        (seed, "holds" if seed < 3.5 else "fails") for seed in range(8)
    ], "the table of a sweep that nothing disturbed"
    assert set(ran(log)) == set(range(8))
    assert not {s for s in done if ran(log).count(s) > 1}, "what was done is not repeated"
    assert len(ran(log)) <= 9, "only what the lost worker had in hand is run again"
    assert not alive(workers[0].pid) and alive(workers[1].pid)


def test_a_killed_client_of_a_scheduler_goes_on(logged, dask, call):
    book, log = logged
    file, workers = dask
    sweep = ["sweep", "beta", "--seeds", "0:8", "--scheduler", address(file, workers[0])]
    process = start(book, *sweep)
    kept = lambda: list((book / "_build" / "sweeps").rglob("seed-*.ipynb"))  # noqa: E731
    wait_for(lambda: len(kept()) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {int(path.stem.removeprefix("seed-")) for path in kept()}
    resumed = call(book, *sweep)
    assert resumed.code == 0, resumed.err
    rows = results(resumed.out.splitlines()[-1], book)
    assert [int(row["seed"]) for row in rows] == list(range(8))
    assert not {s for s in done if ran(log).count(s) > 1}, "what was done is not repeated"


DEADLY = """
import os, signal
if seed == 1:
    os.kill(os.getppid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("dask", [0], indirect=True)
def test_a_variant_that_kills_its_worker_does_not_stop_the_rest(book, call, dask):
    cells = [tiny.code("seed: int = 99  # 0..99; a seed", "parameters"), tiny.code(DEADLY)]
    tiny.write(book / "chapters" / "beta.ipynb", tiny.prose("# Chapter beta"), *cells)
    file, workers = dask
    scheduler = address(file, workers[0])
    answer = call(book, "sweep", "beta", "--seeds", "0:3", "--scheduler", scheduler)
    assert answer.code == 1
    assert "error: 1 of 3 variants failed\nseed 1: KilledWorker" in answer.err
    rows = results(answer.out.splitlines()[-1], book, figure=False)
    assert [row["verdict"] for row in rows] == ["done", "failed", "done"]
