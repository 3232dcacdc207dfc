"""Hessian spectra of neural networks: the helper package of the book.

The names below are imported on first use, so that the command line answers without loading PyTorch.
"""

from importlib import import_module

EXPORTS = {
    "Hessian": "hessian",
    "slq": "density",
    "SpectralDensity": "density",
    "top_eigenpairs": "lanczos",
    "hutchinson_trace": "trace",
    "criteria": "hesd",
    "hesd_type": "hesd",
}

__all__ = list(EXPORTS)


def __getattr__(name: str):
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})
