"""Running chapters: a notebook's bytes in, the executed notebook's bytes out, through papermill.

Every kernel runs on one thread: two kernels with two threads each on two cores spend their time
waiting for one another. LLA_THREADS opens that up for one big chapter on many cores, LLA_WORKERS
says how many chapters run beside each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lla_helpers.book.errors import BadInput, Failed
from lla_helpers.book.normalise import KERNEL, as_bytes, normalised, with_ids
from lla_helpers.book.notebook import code_cells, loads, source
from lla_helpers.book.progress import progress
from lla_helpers.book.text import one_line, plain

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One chapter to run: it can be sent to another process as it is."""

    chapter: str
    notebook: bytes
    root: Path
    folder: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    memory: float | None = None  # GiB that the kernel may allocate


def run_jobs(
    jobs: Iterable[Job], store: Callable[[Job, bytes], None], scheduler: str | None = None
) -> list[str]:
    """Run jobs beside each other; `store` each result as it comes. Returns what failed, in words.

    One chapter's failure leaves the others running; an interruption kills every kernel. They run
    here, or on the workers of the Dask scheduler at the address `scheduler`.
    """
    failures = []
    with pool() if scheduler is None else cluster(scheduler) as executor:
        futures = {executor.submit(execute, job): job for job in jobs}
        for future in as_completed(futures):
            job = futures.pop(future)
            try:
                store(job, future.result())
            except Failed as failure:
                failures.append(failure.message)
            except Exception as error:  # Dask's own: its workers died, or cannot run the task
                if scheduler is None:
                    raise
                failures.append(f"{job.chapter}: {said(type(error).__name__, str(error))}")
            # Dask runs a result that somebody still holds again when its worker is lost.
            del future
    return failures


@contextmanager
def pool() -> Iterator[Executor]:
    """The executor for chapters. Threads, because the work is done by their kernels."""
    from lla_helpers.book import kernels  # loads papermill, which `list` and `check` do without

    kernels.warm_up()
    executor = ThreadPoolExecutor(positive("LLA_WORKERS", min(2, os.cpu_count() or 1)))
    kernels.stopping.clear()
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        kernels.kill_all()
        raise
    finally:
        executor.shutdown()


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler, as an executor; what a lost worker had, another one takes.

    Raises BadInput when Dask is not installed, or nothing answers at the address.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise BadInput("--scheduler needs Dask: pip install distributed") from None
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        why = one_line(str(error)) or type(error).__name__
        raise BadInput(f"no Dask scheduler answers at {address}: {why}") from None
    with client:
        if not client.nthreads():
            progress.update("sweep", f"waiting for the first worker of {address}")
        yield client.get_executor(pure=False)


def positive(variable: str, default: int) -> int:
    """A positive integer from the environment. Raises BadInput when it is none."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise BadInput(f"{variable} must be a positive integer, not {text!r}")
    return int(text)


def kernel_env(root: Path) -> dict[str, str]:
    """This process's environment, with threads bounded and the book's own helpers first."""
    threads = str(positive("LLA_THREADS", 1))
    env = {**os.environ, **dict.fromkeys(THREADS, threads)}
    env.pop("MPLBACKEND", None)  # any value would keep figures from being shown inline
    env["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # no debugger, no warning about frozen modules
    env["LLA_FROM"] = os.getcwd()  # where a reader's relative paths count from
    paths = [str(root), env.get("PYTHONPATH", ""), os.getcwd()]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return env


def at_home(job: Job) -> tuple[Path, Path]:
    """The book's folder and the chapter's; on a worker without that disk, those installed there."""
    if job.folder.is_dir():
        return job.root, job.folder
    here = Path(__file__).resolve().parents[2]
    folder = here / job.folder.relative_to(job.root)
    return here, folder if folder.is_dir() else here


def execute(job: Job) -> bytes:
    """Run one chapter. Raises Failed, naming the cell and its error."""
    import nbformat
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from lla_helpers.book.kernels import run_notebook

    root, folder = at_home(job)
    notebook = with_ids(loads(job.notebook, job.chapter))
    notebook["metadata"] = {**notebook.get("metadata", {}), "kernelspec": KERNEL}
    watch = Watch(job.chapter, len(code_cells(notebook)) + bool(job.parameters))
    try:
        done = run_notebook(
            nbformat.from_dict(notebook),
            job.parameters,
            env={**kernel_env(root), **job.env},
            folder=folder,
            memory=job.memory,
            on_cell=watch.starts,
        )
    except PapermillExecutionError as error:
        raise watch.failed(said(error.ename, error.evalue)) from None
    except DeadKernelError:
        raise watch.failed("its kernel died; did the machine run out of memory?") from None
    except RuntimeError as error:  # the kernel never came up
        raise watch.failed(said("RuntimeError", str(error))) from None
    if any(cell.get("execution_count") is None for cell in code_cells(done)):
        raise watch.failed("the chapter stopped before its end")
    progress.finish(job.chapter, "done")
    return as_bytes(normalised(done, root))


class Watch:
    """Follows one chapter from code cell to code cell."""

    def __init__(self, chapter: str, total: int) -> None:
        self.chapter, self.total = chapter, total
        self.number, self.line = 0, ""

    def starts(self, cell: Mapping, **unused: Any) -> None:
        self.number += 1
        self.line = next(line for line in source(cell).splitlines() if line.strip())
        progress.update(self.chapter, f"code cell {self.number} of {self.total}")

    def failed(self, why: str) -> Failed:
        from lla_helpers.book import kernels

        if not kernels.stopping.is_set():  # a chapter whose kernel we killed has not failed
            progress.finish(self.chapter, "failed")
        where = f", code cell {self.number} (`{one_line(self.line, 80)}`)" if self.number else ""
        return Failed(f"{self.chapter}{where}: {why}")


def said(name: str, message: str) -> str:
    """An error in one line without colours: its name, and the last line of what it says."""
    lines = [line.strip() for line in plain(message).splitlines() if line.strip()]
    return f"{name}: {one_line(lines[-1])}" if lines else name
