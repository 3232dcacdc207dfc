"""Progress on stderr: one line that is rewritten on a terminal, plain lines anywhere else."""

from __future__ import annotations

import shutil
import sys
import threading
import time


class Progress:
    """What runs now and how far it is; several chapters may report at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: dict[str, str] = {}
        self.started: dict[str, float] = {}

    def update(self, name: str, state: str) -> None:
        with self.lock:
            self.started.setdefault(name, time.monotonic())
            self.running[name] = state
            self.draw()
            if not sys.stderr.isatty():
                print(f"{name}: {state}", file=sys.stderr, flush=True)

    def finish(self, name: str, state: str) -> None:
        """The last word on `name`, which stays on the screen."""
        with self.lock:
            started = self.started.pop(name, None)
            took = "" if started is None else f" after {time.monotonic() - started:.0f} s"
            self.erase()
            self.running.pop(name, None)
            print(f"{name}: {state}{took}", file=sys.stderr, flush=True)
            self.draw()

    def result(self, text: str) -> None:
        """A line for stdout, which on a terminal would land behind the progress."""
        with self.lock:
            self.erase()
            print(text, flush=True)
            self.draw()

    def clear(self) -> None:
        """Forget what was running, and leave the line free."""
        with self.lock:
            self.erase()
            self.running.clear()
            self.started.clear()

    def draw(self) -> None:
        if not self.running or not sys.stderr.isatty():
            return
        line = " | ".join(f"{name}: {state}" for name, state in self.running.items())
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)

    def erase(self) -> None:
        if self.running and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


progress = Progress()
