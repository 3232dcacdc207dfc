"""What every chapter does first: threads, figure style, and one line that says what ran it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version


def begin() -> str:
    """Set threads (LLA_THREADS, default 1) and the book's figure style; return the versions.

    One thread, because chapters run beside each other, and two kernels with two threads each on
    two cores spend their time waiting for one another.
    """
    import torch

    from lla_helpers.plots import use_style

    torch.set_num_threads(int(os.environ.get("LLA_THREADS", "1")))
    use_style()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    return f"Python {platform.python_version()}, {packages}, {torch.get_num_threads()} thread(s)"
