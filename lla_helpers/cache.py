"""Results kept under a fingerprint of everything that made them, and checkpoints.

A finished training run is found again when nothing that went into it has changed: architecture,
initial weights, data, every argument, the code that trained, PyTorch's version. A sequence of runs
that is interrupted goes on where it stopped, with the results that it would have had.

A file holds what `torch.save` writes, behind a SHA-256 of it. `torch.load(weights_only=True)` reads
it back: no code of the file is run, no package is needed beside PyTorch, and numbers, strings and
lists can lie beside the tensors, which safetensors would not hold. The checksum is there because
a flipped bit in a weight is still a weight.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import io
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lla_helpers import adahessian, manipulate, model_view, training
from lla_helpers.book.files import write_whole

CACHE = Path(__file__).resolve().parents[1] / "_build" / "cache"
LOOKUPS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
TRAINED_BY = (training, manipulate, adahessian, model_view)


def train_cached(
    model: nn.Module, x: Tensor, y: Tensor, *, folder: Path | str = CACHE, **arguments
) -> list[float]:
    """`train(model, x, y, **arguments)`, or what it gave when it was run before.

    The model ends with the same weights and buffers either way, and in eval mode. A file that is
    damaged is made anew.

    Raises what `train` raises; ValueError for `on_epoch`, which would not be called; TypeError for
    an argument whose fingerprint cannot be taken.
    """
    if arguments.get("on_epoch") is not None:
        raise ValueError("on_epoch looks on while training runs: use train, which always runs")
    call = inspect.signature(training.train).bind(model, x, y, **arguments)
    call.apply_defaults()  # a default that is spelt out is the same run
    shown = {k: v for k, v in call.arguments.items() if k not in ("progress", "on_epoch")}
    sources = [Path(module.__file__).read_bytes() for module in TRAINED_BY]
    path = place(folder, "train", shown, sources)
    kept = read(path)
    if kept is None:
        history = training.train(model, x, y, **arguments)
        write(path, {"history": history, "state": dict(model.state_dict())})
        return history
    model.load_state_dict(kept["state"])
    model.eval()
    return kept["history"]


def remember(function: Callable, *args, folder: Path | str = CACHE, **kwargs):
    """function(*args, **kwargs), or what it gave when it was called before.

    The key is the function's code, that of the functions and classes it names, and the arguments;
    a model counts with its architecture and weights. What it returns must be made of tensors,
    numbers, strings, None, and lists, tuples and dicts of these.
    """
    path = place(folder, function.__name__, function, args, kwargs)
    kept = read(path)
    if kept is None:
        kept = {"result": function(*args, **kwargs)}
        write(path, kept)
    return kept["result"]


# Files ---------------------------------------------------------------------------------------


def place(folder: Path | str, name: str, *what) -> Path:
    versions = (torch.__version__, torch.backends.cpu.get_cpu_capability(), sys.version_info[:2])
    return Path(folder) / f"{name}-{fingerprint((versions, *what))[:32]}.pt"


def write(path: Path, content: dict) -> None:
    """Whole or not at all, with its checksum in front."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    write_whole(path, hashlib.sha256(data).digest() + data)


def read(path: Path) -> dict | None:
    """What `write` wrote; None when there is nothing, or nothing undamaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        return None
    return torch.load(io.BytesIO(data), weights_only=True)


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write a model's parameters and buffers; `load_weights` reads them back."""
    write(Path(path), {"state": dict(model.state_dict())})


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Put the weights of a checkpoint into the model.

    Raises FileNotFoundError where there is none, ValueError when it is damaged or belongs to
    another architecture: the model is then as it was.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: write one with save_weights")
    kept = read(path)
    if kept is None or "state" not in kept:
        raise ValueError(f"{path.name} is no checkpoint, or a damaged one: train again")
    ours, theirs = model.state_dict(), kept["state"]
    differ = [f"{name} is missing in it" for name in ours if name not in theirs]
    differ += [f"{name} is not in the model" for name in theirs if name not in ours]
    differ += [
        f"{name} has shape {tuple(theirs[name].shape)} there and {tuple(t.shape)} in the model"
        for name, t in ours.items()
        if name in theirs and theirs[name].shape != t.shape
    ]
    if differ:
        more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise ValueError(
            f"{path.name} belongs to another architecture: " + "; ".join(differ[:3]) + more
        )
    model.load_state_dict(theirs)


# Fingerprints --------------------------------------------------------------------------------


def fingerprint(what) -> str:
    """A hash of a value: of what it is made of, never of where it lies in memory.

    Tensors and arrays count with dtype, shape and bytes; functions with their code, defaults,
    closure, and whatever of this book or the caller's they name; models with their modules'
    settings, hooks and weights; other objects with their class and attributes. What an installed
    package defines counts by name.

    Raises TypeError for what has no content to hash (a file, a generator of random numbers).
    """
    digest = hashlib.sha256()
    Fingerprint(digest.update).take(what)
    return digest.hexdigest()


class Fingerprint:
    def __init__(self, update: Callable[[bytes], None]):
        self.update = update
        self.seen: dict[int, tuple[int, object]] = {}

    def say(self, *words) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            self.update(f"{len(data)}:".encode() + data)

    def take(self, x) -> None:
        if x is None or isinstance(x, bool | int | float | complex | str | bytes):
            self.say(type(x).__name__, x if isinstance(x, bytes) else repr(x))
            return
        # Alike constants may or may not be one object; functions, classes and models are.
        if not isinstance(x, Tensor | np.ndarray | Mapping | list | tuple | types.CodeType):
            if id(x) in self.seen:
                self.say("again", self.seen[id(x)][0])
                return
            self.seen[id(x)] = len(self.seen), x  # kept, so that its id stays its own
        if isinstance(x, Tensor):
            self.tensor(x)
        elif isinstance(x, np.ndarray | np.generic):
            if x.dtype.hasobject:
                raise TypeError("an array of objects has no fingerprint")
            self.say("array", x.dtype.str, x.shape, np.ascontiguousarray(x).tobytes())
        elif isinstance(x, Mapping):
            self.say(type(x).__name__, len(x))
            for key, value in x.items():
                self.take(key)
                self.take(value)
        elif isinstance(x, list | tuple):
            self.say(type(x).__name__, len(x))
            for item in x:
                self.take(item)
        elif isinstance(x, Set):
            self.say("set", *sorted(fingerprint(item) for item in x))
        elif isinstance(x, torch.dtype | torch.device | torch.Size | Path | range | slice):
            self.say(type(x).__name__, repr(x))
        elif isinstance(x, types.CodeType):
            self.code(x)
        elif isinstance(x, types.ModuleType):
            self.say("module", x.__name__)
            if not installed(x.__name__) and getattr(x, "__file__", None):
                self.say(Path(x.__file__).read_bytes())
        elif isinstance(x, type):
            self.class_(x)
        elif isinstance(x, functools.partial):
            self.take((x.func, x.args, x.keywords))
        elif isinstance(x, types.MethodType):
            self.take((x.__func__, x.__self__))
        elif isinstance(x, types.FunctionType):
            self.function(x)
        elif callable(x) and hasattr(x, "__qualname__"):  # built in
            self.say("built in", x.__module__, x.__qualname__)
        elif isinstance(x, nn.Module):
            self.model(x)
        elif isinstance(getattr(x, "__dict__", None), dict) and type(x).__module__ != "builtins":
            self.class_(type(x))
            self.take({k: v for k, v in vars(x).items() if k != "__orig_class__"})
        else:
            raise TypeError(
                f"a {type(x).__name__} has no fingerprint: pass numbers, tensors, models or plain "
                f"functions, or run without the cache"
            )

    def tensor(self, x: Tensor) -> None:
        x = x.detach()
        self.say("tensor", x.dtype, x.device.type, tuple(x.shape))
        self.update(x.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())

    def function(self, f: types.FunctionType) -> None:
        self.say("function", f.__module__, f.__qualname__)
        if installed(f.__module__):
            return
        self.take(f.__code__)
        self.take(f.__defaults__)
        self.take(f.__kwdefaults__)
        self.take([cell.cell_contents for cell in f.__closure__ or () if full(cell)])
        for name in sorted(names(f.__code__)):
            if name in f.__globals__:
                self.say(name)
                self.take(f.__globals__[name])

    def code(self, code: types.CodeType) -> None:
        self.say("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        self.take(list(code.co_consts))

    def class_(self, cls: type) -> None:
        self.say("class", cls.__module__, cls.__qualname__)
        if installed(cls.__module__):
            return
        for base in cls.__bases__:
            self.take(base)
        for name, value in vars(cls).items():
            value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            value = value.fget if isinstance(value, property) else value
            if isinstance(value, types.FunctionType | bool | int | float | str | tuple):
                if name not in ("__module__", "__qualname__", "__doc__", "__firstlineno__"):
                    self.say(name)
                    self.take(value)

    def model(self, model: nn.Module) -> None:
        for name, module in model.named_modules(remove_duplicate=False):
            self.say("in model", name, module.training, module.extra_repr())
            self.class_(type(module))
            for key, value in vars(module).items():
                if not key.startswith("_"):
                    self.say(key)
                    self.take(value)
                elif key.endswith("_hooks") and value:
                    self.say(key)
                    self.take(list(value.values()))
        for name, p in model.named_parameters(remove_duplicate=False):
            self.say(name, p.requires_grad)
            self.take(p)
            self.take(list((p._backward_hooks or {}).values()))
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self.say(name)
            self.take(buffer)


def names(code: types.CodeType) -> set[str]:
    """Global names that a function's code looks up, nested functions included."""
    looked_up = (i.argval for i in dis.get_instructions(code) if i.opname in LOOKUPS)
    inner = (names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(looked_up).union(*inner)


def full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@functools.cache
def installed(module: str | None) -> bool:
    """Whether a module comes with Python or an installed package, rather than from book or user."""
    root = (module or "builtins").split(".")[0]
    if root in ("builtins", "torch", "numpy", "scipy") or root in sys.stdlib_module_names:
        return root != "__main__"
    file = getattr(sys.modules.get(root), "__file__", None)
    homes = {sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")}
    return file is not None and any(Path(file).is_relative_to(home) for home in homes)
