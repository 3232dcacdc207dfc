"""Kernels that end with the command that started them, driven by papermill."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.execute import execute_notebook

running: set[Any] = set()
stopping = threading.Event()


class Client(PapermillNotebookClient):
    """papermill's client; it registers its kernel, so that an interruption can reach it.

    A kernel leads a session of its own: Ctrl-C in the terminal does not get there by itself.
    """

    def start_new_kernel(self, **options: Any) -> None:
        super().start_new_kernel(**options)
        running.add(self.km)
        if stopping.is_set():
            kill(self.km)


class Engine(NBClientEngine):
    """Starts the kernel with our environment and folder, and reports each cell as it starts."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man, kernel_name, *, env, folder, on_cell, memory, start_timeout=60, **unused
    ):
        client = Client(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            timeout=None,
            record_timing=False,
            # Its remarks on starting and ending are noise.
            extra_arguments=["--log-level=50", *limited(memory)],
            on_cell_execute=on_cell,
        )
        manager = client.create_kernel_manager()
        try:
            return client.execute(env=env, cwd=str(folder), cleanup_kc=True)
        finally:
            running.discard(manager)


papermill_engines.register("lla", Engine)


def run_notebook(
    notebook: nbformat.NotebookNode,
    parameters: Mapping[str, Any],
    *,
    env: Mapping[str, str],
    folder: Path,
    on_cell: Callable[..., None],
    memory: float | None = None,
) -> nbformat.NotebookNode:
    """Execute a notebook with `parameters` written in as literals; errors are papermill's."""
    return execute_notebook(
        notebook,
        None,
        parameters=dict(parameters),
        engine_name="lla",
        kernel_name=notebook.metadata.kernelspec.name,
        progress_bar=False,
        env=env,
        folder=folder,
        on_cell=on_cell,
        memory=memory,
    )


def warm_up() -> None:
    """Make one manager and one client of a kernel, and start none.

    The first of a kind looks up the classes that its traits name as strings, and two threads that
    do so at the same time can fail.
    """
    manager = NotebookClient(nbformat.v4.new_notebook()).create_kernel_manager()
    manager.client()


def limited(memory: float | None) -> list[str]:
    """The argument by which a kernel bounds its own memory, in GiB, before its first cell."""
    if memory is None:
        return []
    size = int(memory * 2**30)
    line = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({size}, {size}))"
    return [f"--IPKernelApp.exec_lines={line}"]


def kill_all() -> None:
    """Kill every kernel now, and any that is about to start."""
    stopping.set()
    for manager in list(running):
        kill(manager)


def kill(manager: Any) -> None:
    """Kill a kernel and what it started (the workers of a data loader, say)."""
    group = getattr(manager.provisioner, "pgid", None)
    with suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(group, signal.SIGKILL)
