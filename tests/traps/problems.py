"""What the traps are set with: small networks, their losses, and their exact Hessians."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers.data import load_digits
from lla_helpers.models import mlp
from lla_helpers.training import train

Pair = tuple[Tensor, Tensor]


class MeanLoss(nn.Module):
    """`scale` times a mean loss; a module with `reduction`, because curvlinops asks for one."""

    reduction = "mean"

    def __init__(self, base=F.cross_entropy, scale: float = 1.0):
        super().__init__()
        self.base, self.scale = base, scale

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.scale * self.base(outputs, targets)


@dataclass(frozen=True)
class Problem:
    """A model, the batches of its data, and a loss; `mode` is the one to be analysed."""

    model: nn.Module
    batches: list[Pair]
    loss: MeanLoss = field(default_factory=MeanLoss)
    mode: str = "eval"

    def scaled(self, factor: float) -> Problem:
        return replace(self, loss=MeanLoss(self.loss.base, factor * self.loss.scale))

    @property
    def chosen(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.chosen)

    def split(self, v: Tensor) -> list[Tensor]:
        """A vector of length P as tensors of the chosen parameters' shapes."""
        parts = v.split([p.numel() for p in self.chosen])
        return [part.reshape(p.shape) for part, p in zip(parts, self.chosen, strict=True)]


def exact_hessian(problem: Problem) -> Tensor:
    """The Hessian of the mean over all samples, (P, P) in float64, from autograd.

    Written without the package under test: it is what the package is held against.
    """
    twin = replace(problem, model=copy.deepcopy(problem.model).double())
    twin.model.train(problem.mode == "train")
    batches = [(x.double(), y.double() if y.is_floating_point() else y) for x, y in twin.batches]
    if problem.mode == "eval":
        batches = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    count = sum(len(x) for x, _ in batches)
    total = torch.zeros(twin.size, twin.size, dtype=torch.float64)
    for x, y in batches:
        loss = len(x) / count * twin.loss(twin.model(x), y)
        slopes = torch.autograd.grad(
            loss, twin.chosen, create_graph=True, allow_unused=True, materialize_grads=True
        )
        slopes = torch.cat([slope.reshape(-1) for slope in slopes])
        # Some rows at a time: all of them at once would take P times the activations.
        for first in range(0, twin.size, 256):
            rows = total[first : first + 256]
            each = torch.eye(twin.size, dtype=torch.float64)[first : first + 256]
            blocks = torch.autograd.grad(
                slopes,
                twin.chosen,
                each,
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
            # A parameter that is never used has no block of columns: None, and nothing to add.
            for columns, block in zip(
                rows.split([p.numel() for p in twin.chosen], dim=1), blocks, strict=True
            ):
                columns += 0 if block is None else block.reshape(len(each), -1)
    return total


def vector(problem: Problem, seed: int = 0) -> Tensor:
    """A standard normal vector of length P in the model's dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(problem.size, generator=generator).to(problem.chosen[0].dtype)


@cache
def digits(samples: int) -> Pair:
    data = load_digits()
    return data.x_train[:samples], data.y_train[:samples]


@cache
def trained_mlp() -> nn.Module:
    """64-8-10 with ReLU, 610 parameters, trained on 300 digits; copy it before changing it."""
    model = mlp((64, 8, 10))
    train(model, *digits(300), epochs=40, lr=0.05)
    return model


@cache
def trained_spectrum() -> Tensor:
    """The exact eigenvalues of `on_trained_mlp()`, ascending."""
    return torch.linalg.eigvalsh(exact_hessian(on_trained_mlp()))


def on_trained_mlp(**changes) -> Problem:
    """The trained network on its 300 digits in one batch."""
    return replace(Problem(copy.deepcopy(trained_mlp()), [digits(300)]), **changes)


def ragged(pair: Pair, size: int) -> list[Pair]:
    return list(zip(pair[0].split(size), pair[1].split(size), strict=True))


def with_batch_norm(mode: str) -> Problem:
    """A network whose running statistics are not those of any batch, in two equal batches."""
    model = mlp((64, 6, 10), batch_norm=True)
    train(model, *digits(128), epochs=5, lr=0.05)
    return Problem(model, ragged(digits(128), 64), mode=mode)


def with_dropout() -> Problem:
    """Dropout in train mode: every forward pass is of another function."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 10)
    )
    return Problem(model, [digits(300)], mode="train")


class PartlyUsed(nn.Module):
    """Two layers, the first perhaps frozen, and perhaps a third that is never called."""

    def __init__(self, frozen: bool, spare: bool):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 6), nn.Linear(6, 10)
        self.first.requires_grad_(not frozen)
        if spare:
            self.spare = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x.flatten(1))))


def partly_used(frozen: bool = True, spare: bool = True) -> Problem:
    return Problem(PartlyUsed(frozen, spare), [digits(100)])


def smooth_and_tiny() -> Problem:
    """10-6-4-3 with tanh in float64, 109 parameters: a trained network without zero eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 10, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(10, 3, generator=generator, dtype=torch.float64)).argmax(1)
    model = mlp((10, 6, 4, 3), "tanh").double()
    train(model, x, y, epochs=100, lr=0.1)
    return Problem(model, [(x, y)])


def breaks_down() -> Problem:
    """Linear regression whose Hessian has the eigenvalues 3, 1, 1, 2 along (1, 1) and (1, -1).

    Random signs are a sum of two eigenvectors, so Lanczos ends after one or two steps.
    """
    covariance = torch.block_diag(
        torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.5, -0.5], [-0.5, 1.5]])
    ).double()
    # The Hessian of the mean over 4 samples of (x_n . w)^2 is x^T x / 2.
    x = torch.linalg.cholesky(2 * covariance).T.contiguous()
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.ones_(model.weight)
    return Problem(model, [(x, torch.zeros(4, 1).double())], MeanLoss(F.mse_loss))
