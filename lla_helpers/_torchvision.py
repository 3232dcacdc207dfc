"""torchvision beside any build of PyTorch."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import ModuleType

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# The declarations vanish with the library object that made them.
declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """The torchvision package; the one place from which the book imports it.

    The wheel on the package index is compiled against the CUDA build of PyTorch. Beside a CPU-only
    build its compiled library does not load, the operators `nms` and `qnms` are then unknown, and
    `import torchvision` dies with "operator torchvision::nms does not exist". Data sets, transforms
    and classification models need no compiled operator: declaring the two signatures is enough.
    They are declared only where the library does not load, so that elsewhere the real ones are in
    place; where they are only declared, torchvision itself says so when one is called.

    Raises ModuleNotFoundError when torchvision is not installed.
    """
    if "torchvision" not in sys.modules and not compiled_library_loads():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + SIGNATURE)
        declared.append(library)
    import torchvision

    return torchvision


def compiled_library_loads() -> bool:
    """Does the library load beside this PyTorch? Asked without importing torchvision."""
    package = find_spec("torchvision")
    if package is None:
        raise ModuleNotFoundError("torchvision is not installed: pip install -r requirements.txt")
    library = PathFinder.find_spec("_C", package.submodule_search_locations)
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True
