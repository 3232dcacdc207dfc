"""The three networks of the comparison, on the 1437 training digits, in float32."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch.utils.data import DataLoader, TensorDataset

from lla_helpers.data import load_digits
from lla_helpers.models import cnn, mlp
from lla_helpers.training import train
from tests.traps.problems import Problem, ragged

MAKERS = {
    "CNN, 85k": lambda: cnn((32, 64), 64, pool="avg"),
    "MLP, 85k": lambda: mlp((64, 256, 256, 10)),
    "MLP, 2k": lambda: mlp(),
}


def make(name: str, epochs: int = 5) -> Problem:
    """A net after a few epochs, with its data in one batch."""
    data = load_digits()
    model = MAKERS[name]()
    train(model, data.x_train, data.y_train, epochs=epochs, lr=0.05)
    return Problem(model, [(data.x_train, data.y_train)])


def fresh(problem: Problem, batches: Iterable | None = None) -> Problem:
    """A copy of the model, so that nothing that one library leaves on it slows the next one."""
    batches = problem.batches if batches is None else batches
    return Problem(copy.deepcopy(problem.model), batches, problem.loss, problem.mode)


def loader(problem: Problem, size: int) -> DataLoader:
    """The data as most programs hold them: collated anew for every pass."""
    ((x, y),) = problem.batches
    return DataLoader(TensorDataset(x, y), batch_size=size)


def in_batches(problem: Problem, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same batches, collated beforehand: kindest to those who read them again and again."""
    return ragged(problem.batches[0], size)
