"""How long does each chapter take at its defaults? Seconds of processor time, and on the clock.

Processor time counts every process of the run (the kernel's start included) and hardly depends on
what else the machine does; the clock does.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

from lla_helpers.book.chapters import Book

ROOT = Path(__file__).resolve().parents[1]


def items() -> dict[str, dict]:
    return {chapter.name: {"chapter": chapter.name} for chapter in Book(ROOT).chapters()}


def measure(chapter: str) -> dict[str, float]:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "lla_helpers", "run", chapter]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor": round(used, 1), "clock": round(time.perf_counter() - started, 1)}
