"""A reader's own model, weights, loss and data, named by text; whatever is wrong is one sentence.

Code runs only where a name asks for it in so many words, as `package.module:callable`. Weights are
read with `torch.load(weights_only=True)` or as safetensors: a checkpoint cannot run code.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers._torchvision import import_torchvision
from lla_helpers.model_view import in_mode, same_random_state
from lla_helpers.well_defined import one_line

LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
# The network that the chapter shows when nobody names another: model, arguments, weights.
EXAMPLE = (
    "lla_helpers.models:cnn",
    '{"channels": [4, 8], "hidden": 16}',
    "data/example.safetensors",
)
CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def named(model: str, arguments: str, weights: str) -> tuple[str, str, str]:
    """The three as given; for "example", those of the book's own network, unless it has weights."""
    if model != "example":
        return model, arguments, weights
    return EXAMPLE[0], EXAMPLE[1], weights or EXAMPLE[2]


def bring_model(name: str, arguments: str = "{}", weights: str = "", seed: int = 0) -> nn.Module:
    """A torchvision model by name, or what `package.module:callable` returns, in eval mode.

    arguments: a JSON object of keyword arguments. weights: the path of a state dict or a
    .safetensors file; "" leaves the initialisation, which `seed` draws.

    Raises ValueError for an unknown name (saying what is near), arguments that are no JSON object
    or do not fit, a callable that gives no model, and all that `load_state` raises.
    """
    options = json_object(arguments, "the model's arguments")
    if ":" in name:
        make = named_callable(name, "model")
    else:
        models = import_torchvision().models
        if name not in models.list_models(module=models):
            raise ValueError(
                f"torchvision has no model {name!r}{near(name, models.list_models(module=models))}"
                " for a model of your own, write package.module:callable"
            )
        options = {"weights": None, **options}

        def make(**kwargs):
            return models.get_model(name, **kwargs)

    with same_random_state(torch.device("cpu")):
        torch.manual_seed(seed)
        try:
            model = make(**options)
        except (TypeError, ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"{name} refuses its arguments: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} gives {type(model).__name__}, not a torch.nn.Module")
    if weights:
        load_state(model, Path(weights))
    return model.eval()


def load_state(model: nn.Module, path: Path) -> None:
    """Load a state dict; one under "state_dict" or "model", or prefixed "module.", will do.

    Raises FileNotFoundError where there is none; ValueError for a file that is damaged, would run
    code, or does not fit, listing what is missing, unexpected or of another shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a state dict")
    state = read_state(path)
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(
            f"{path.name} holds no state dict: save model.state_dict(), not the model or a "
            f"checkpoint with other things beside it"
        )
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    ours = model.state_dict()
    state = {**state, **tied(ours, state)}
    differ = {
        "missing": [n for n in ours if n not in state],
        "unexpected": [n for n in state if n not in ours],
        "of another shape": [n for n in ours if n in state and ours[n].shape != state[n].shape],
    }
    found = [f"{what}: {some(names)}" for what, names in differ.items() if names]
    if found:
        raise ValueError(f"{path.name} does not fit the model; {'; '.join(found)}")
    bad = [n for n, t in state.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        raise ValueError(f"{path.name} holds nan or inf in {some(bad)}")
    model.load_state_dict(state)


def tied(ours: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that a file leaves out because the model has them under another name, too.

    safetensors.torch.save_model keeps one name of each tensor.
    """
    place = {t.data_ptr(): name for name, t in ours.items() if name in state and t.numel()}
    return {
        name: state[place[t.data_ptr()]]
        for name, t in ours.items()
        if name not in state and t.data_ptr() in place
    }


def read_state(path: Path):
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path.name} is no safetensors file: {one_line(error)}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} is refused: it holds more than weights, and reading it could run code; "
            f"save model.state_dict() alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path.name} cannot be read as weights: {one_line(error)}") from error


def bring_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """ "cross_entropy", "mse", or `package.module:callable`: the mean loss over a batch."""
    if name in LOSSES:
        return LOSSES[name]
    if ":" in name:
        return named_callable(name, "loss")
    raise ValueError(f"unknown loss {name!r}{near(name, LOSSES)} or package.module:callable")


def found(path: str) -> str:
    """Where a path that the reader gave leads; "" and names that are no paths stay as they are.

    Relative paths count from the folder where the command was called (LLA_FROM), then from the
    book's own: a notebook runs in neither.
    """
    if not path or ":" in path or not (Path(path).suffix or "/" in path):
        return path
    places = [Path(os.environ.get("LLA_FROM", ".")), Path(__file__).resolve().parents[1]]
    return str(next((p / path for p in places if (p / path).exists()), places[0] / path))


def bring_device(name: str) -> torch.device:
    """ "cpu", "cuda", or "auto": CUDA where there is one. Raises ValueError where there is none."""
    there = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not there:
        raise ValueError("there is no CUDA device here: use device auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


class Part(NamedTuple):
    """Samples (n, ...) and targets (n, ...) of one part of a data set, and what to call it."""

    name: str
    x: Tensor
    y: Tensor


def bring_data(
    name: str, arguments: str = "{}", samples: int = 512, seed: int = 0, side: int = 0
) -> list[Part]:
    """Two parts of a data set, at most `samples` of each, drawn by `seed`.

    name: an embedded or torchvision set of `lla_helpers.datasets`; a path ending in .npz, with
    arrays x_train, y_train, x_test, y_test; or `package.module:callable`, which gives four arrays
    or tensors in that order, or two data sets of (x, y) samples. arguments: a JSON object of
    keyword arguments. side: images are scaled to side x side pixels; 0 leaves them.

    Raises ValueError, in one sentence, for an unknown name, arrays that are missing, of different
    length, empty or not finite, and what the loaders raise.
    """
    options = json_object(arguments, "the data's arguments")
    if isinstance(options.get("folder"), str):
        options["folder"] = found(f"{options['folder']}/")
    if name.endswith(".npz"):
        arrays = read_arrays(Path(name))
    elif ":" in name:
        arrays = four(name, called(name, options))
    else:
        from lla_helpers.datasets import load

        try:
            arrays = load(name, seed=seed, **options)
        except TypeError as error:
            raise ValueError(f"{name} refuses its arguments: {one_line(error)}") from error
    x_train, y_train, x_test, y_test = map(as_tensor, arrays)
    parts = []
    for part, x, y in (("training", x_train, y_train), ("test", x_test, y_test)):
        x, y = checked(f"{name}, {part} part", x, y)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(x), generator=generator)[:samples]
        x = x[chosen]
        if side:
            x = scaled(x, side, name)
        parts.append(Part(part, x, y[chosen]))
    return parts


def suits(model: nn.Module, loss_fn: Callable, part: Part) -> None:
    """Raise ValueError, in one sentence, when model, loss and data do not fit one another."""
    x, y = part.x[:2], part.y[:2]
    with torch.no_grad(), in_mode(model, "eval"):
        try:
            outputs = model(x)
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            raise ValueError(
                f"the model cannot be applied to inputs of shape {tuple(part.x.shape[1:])}: "
                f"{one_line(error)}"
            ) from error
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"the model returns {type(outputs).__name__}, not one tensor: wrap it in a module "
                f"that returns the output that the loss is taken of"
            )
        if loss_fn is F.cross_entropy and not part.y.is_floating_point():
            classes = outputs.shape[1] if outputs.ndim > 1 else 0
            low, high = int(part.y.min()), int(part.y.max())
            if low < 0 or high >= classes:
                raise ValueError(
                    f"labels run from {low} to {high}, and the model has {classes} outputs: "
                    f"labels must lie between 0 and {classes - 1}"
                )
        try:
            loss = loss_fn(outputs, y)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"the loss cannot be taken of outputs {tuple(outputs.shape)} and targets "
                f"{tuple(y.shape)} ({y.dtype}): {one_line(error)}"
            ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError("the loss must be one number, the mean over the batch")


# Parts of it -----------------------------------------------------------------------------------


def json_object(text: str, what: str) -> dict:
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f'{what} must be JSON such as {{"num_classes": 10}}: {error}') from error
    if not isinstance(found, dict):
        raise ValueError(f'{what} must be a JSON object such as {{"num_classes": 10}}')
    return found


def named_callable(name: str, what: str) -> Callable:
    if not CALLABLE.fullmatch(name):
        raise ValueError(f"{what} {name!r} is not of the form package.module:callable")
    module_name, attribute = name.split(":")
    if module_name.split(".")[0] == "torchvision":
        import_torchvision()
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"cannot import {module_name} for the {what}: {one_line(error)}; is its folder on "
            f"PYTHONPATH?"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(
            f"{module_name} has no callable {attribute!r}{near(attribute, dir(module))}"
        )
    return found


def called(name: str, options: Mapping):
    make = named_callable(name, "data set")
    try:
        return make(**options)
    except TypeError as error:
        raise ValueError(f"{name} refuses its arguments: {one_line(error)}") from error


def four(name: str, given) -> tuple:
    """x_train, y_train, x_test, y_test from what a callable gave."""
    if isinstance(given, (tuple, list)) and len(given) == 4:
        return tuple(given)
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return (*stacked(name, given[0]), *stacked(name, given[1]))
    raise ValueError(
        f"{name} gives {type(given).__name__}, not (x_train, y_train, x_test, y_test) or two data "
        f"sets of (x, y) samples"
    )


def stacked(name: str, samples) -> tuple[Tensor, Tensor]:
    try:
        pairs = [samples[i] for i in range(len(samples))]
        return (
            torch.stack([as_tensor(x) for x, _ in pairs]),
            torch.stack([as_tensor(y).reshape(np.shape(y)) for _, y in pairs]),
        )
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{name} gives a data set whose samples are no pairs (x, y) of one shape: "
            f"{one_line(error)}"
        ) from error


def read_arrays(path: Path) -> tuple[np.ndarray, ...]:
    names = ("x_train", "y_train", "x_test", "y_test")
    if not path.is_file():
        raise FileNotFoundError(f"no data at {path}: give an .npz with {', '.join(names)}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [n for n in names if n not in arrays]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}")
            return tuple(arrays[n] for n in names)
    except Exception as error:  # zipfile, zlib and NumPy each have errors of their own
        raise ValueError(f"{path.name} cannot be read as data: {one_line(error)}") from error


def as_tensor(array) -> Tensor:
    tensor = array if isinstance(array, Tensor) else torch.as_tensor(np.asarray(array))
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def checked(what: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"{what}: {tuple(x.shape)} inputs and {tuple(y.shape)} targets")
    if len(x) == 0:
        raise ValueError(f"{what} is empty")
    for name, tensor in (("inputs", x), ("targets", y)):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{what}: the {name} hold nan or inf")
    return x, y if y.is_floating_point() else y.long()


def scaled(x: Tensor, side: int, name: str) -> Tensor:
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"{name}: only images (n, channels, height, width) have sides to scale")
    return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)


def near(word: str, known) -> str:
    found = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {some(list(known))};"


def some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
