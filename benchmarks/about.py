"""What a stored result says of the machine and the run, in words; and how it is stored."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"


def machine() -> str:
    """For instance "2-core x86_64 virtual machine"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpuinfo = Path("/proc/cpuinfo")
    virtual = cpuinfo.is_file() and "hypervisor" in cpuinfo.read_text()
    return f"{cores}-core {platform.machine()} {'virtual machine' if virtual else 'machine'}"


def about(versions: dict[str, str], **more) -> dict:
    """Machine, versions and date of a run, and what else the run was asked for."""
    return {
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {**versions, "numpy": np.__version__},
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
        **more,
    }


def stored(path: Path) -> dict:
    """What the file holds; nothing if there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def store(path: Path, results: dict) -> None:
    """Write JSON whole or not at all; the parts that `results` does not name stay as they were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**stored(path), **results}, indent=1, ensure_ascii=False) + "\n"
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
