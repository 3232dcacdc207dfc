"""Interleaved timing: in each round everything runs once, in another order, and ratios are taken
within the round, so that a machine that is slow for a while is slow for all.

Each call lives in a process of its own. What a library does to its process (this package asks the
allocator to keep freed memory) then speeds up, or slows down, nobody else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

Seconds = dict[str, list[float]]
Call = Callable[[], object]
Timer = Callable[[int], float]  # repeats -> seconds of one call

# "cpu" counts this process's processor time, which other work on the machine inflates far less; it
# is the time that one thread takes.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock_name = "wall"


def use_clock(name: str) -> None:
    global clock_name
    clock_name = name


def seconds(call: Call, repeats: int) -> float:
    clock = CLOCKS[clock_name]
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


@contextlib.contextmanager
def apart(makes: dict[str, Callable[[], Call]], tell=print) -> Iterator[dict[str, Timer]]:
    """A timer for the call that each `make()` returns, made and run in a process of its own.

    Who cannot make it is left out, and told of. Raises RuntimeError where a call fails later on.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    try:
        for name, make in makes.items():
            pipes[name], theirs = context.Pipe()
            # As bytes: tensors would otherwise lie in memory that all processes share.
            arguments = (theirs, pickle.dumps(make), clock_name, torch.get_num_threads())
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
        timers = {}
        for name, pipe in pipes.items():
            try:
                answer(pipe, name)  # that it is ready
                timers[name] = timer(pipe, name)
            except RuntimeError as error:
                tell(f"left out: {error}")
        yield timers
    finally:
        for process in processes:
            process.terminate()
            process.join()


def timer(pipe, name: str) -> Timer:
    def ask(repeats: int) -> float:
        with contextlib.suppress(BrokenPipeError):  # its answer says why
            pipe.send(repeats)
        return answer(pipe, name)

    return ask


def answer(pipe, name: str) -> float:
    try:
        found = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise RuntimeError(f"{name}: its process ended without an answer") from None
    if isinstance(found, str):
        raise RuntimeError(f"{name}: {found}")
    return found


def serve(pipe, make: bytes, clock: str, threads: int) -> None:
    """In its own process: make the call, then time it as often as the pipe asks."""
    use_clock(clock)
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        try:
            call = pickle.loads(make)()
            pipe.send(0.0)
            while True:
                pipe.send(seconds(call, pipe.recv()))
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        except KeyboardInterrupt:
            pass


def interleaved(
    timers: dict[str, Timer],
    rounds: int,
    least_seconds: float = 0.0,
    tell: Callable[[str], None] = lambda text: None,
) -> Seconds:
    """Seconds per call, one number a round. Each call is repeated to last `least_seconds`.

    Where `least_seconds` is positive, one call beforehand warms up and says how often to repeat.
    """
    repeats = {name: 1 for name in timers}
    if least_seconds > 0:
        for name, taken in timers.items():
            tell(f"warming up: {name}")
            taken(1)
            repeats[name] = max(1, round(least_seconds / max(taken(1), 1e-6)))
    order, shuffled = list(timers), random.Random(0)
    found: Seconds = {name: [] for name in timers}
    for i in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            tell(f"round {i + 1} of {rounds}: {name}")
            found[name].append(timers[name](repeats[name]))
    return found


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.quantile(np.asarray(list(values), dtype=float), [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def ratio(found: Seconds, name: str, to: str) -> dict[str, float]:
    return spread(a / b for a, b in zip(found[name], found[to], strict=True))


def fastest(found: Seconds, among: Iterable[str]) -> str | None:
    """The name with the smallest median; None of nobody."""
    return min(among, key=lambda name: np.median(found[name]), default=None)
