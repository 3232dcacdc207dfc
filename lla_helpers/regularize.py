"""Penalising the trace of the Hessian while training: L + gamma tr H_S, S a set of parameters.

    tr H_S = E[v^T H_S v],  E[v v^T] = I        d tr H_S / d theta = E[d (v^T H_S v) / d theta]

The trace is estimated by a few probes and differentiated like any other term of a loss: a third
derivative, by one more backward pass through the Hessian-vector product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers.model_view import choose, same_random_state
from lla_helpers.third_derivative import ThriceDifferentiable

# Fills `.grad` for one minibatch, given (model, x, y, step, epoch), and returns its loss.
Gradient = Callable[[nn.Module, Tensor, Tensor, int, int], Tensor]


def block_trace(
    loss: Tensor, tensors: Sequence[Tensor], probes: int = 3, generator: torch.Generator = None
) -> Tensor:
    """(1/k) sum_i v_i^T H v_i, H the Hessian of `loss` in `tensors`: a scalar with its graph.

    `loss` is a scalar that still has its graph; with normalisation layers, compute it within
    `ThriceDifferentiable`, or the trace's gradient is wrong. Probes are random signs, one for all
    tensors together: what couples two of them has mean zero, so that the expectation is the sum of
    the traces of each tensor's own block. Where `tensors` do not enter the loss the trace is 0.

    Raises ValueError for fewer than one probe, no tensors, or frozen ones. (Hutchinson 1990.)
    """
    if not isinstance(probes, Integral) or isinstance(probes, bool) or probes < 1:
        raise ValueError(f"probes must be an integer, at least 1, not {probes!r}")
    tensors = list(tensors)
    if not tensors or not all(t.requires_grad for t in tensors):
        raise ValueError("the trace is taken over tensors that require grad, at least one")
    options = {"create_graph": True, "materialize_grads": True}
    gradient = torch.autograd.grad(loss, tensors, **options)
    total = loss.new_zeros(())
    for _ in range(probes):
        v = [random_signs(t, generator) for t in tensors]
        gv = sum((g * s).sum() for g, s in zip(gradient, v, strict=True))
        if not gv.requires_grad:  # the loss is linear in them
            continue
        hv = torch.autograd.grad(gv, tensors, **options)
        total = total + sum((h * s).sum() for h, s in zip(hv, v, strict=True))
    return total / probes


def random_signs(like: Tensor, generator: torch.Generator | None) -> Tensor:
    signs = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
    return signs.to(like.device, like.dtype)


def middle(model: nn.Module) -> list[str]:
    """The middle parameter tensors: of n in all, numbers n // 4 to 3 n // 4, the last excluded.

    As in the code of Sankar et al. (2021). Raises ValueError when that leaves none.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    chosen = names[len(names) // 4 : 3 * len(names) // 4]
    if not chosen:
        raise ValueError(f"a model with {len(names)} parameter tensors has no middle ones")
    return chosen


@dataclass(frozen=True)
class TracePenalty:
    """The gradient of the loss plus, on some steps, gamma times the trace of a Hessian block.

    params: None for all parameters, a glob or list of globs over their names, e.g. `middle(model)`.
    every, after: the penalty acts on every `every`-th step once `after` epochs are done, as
    published: every 50th step after epoch 15, 3 to 10 probes (code of Sankar et al. 2021). Steps
    are counted through the whole training; the authors' code starts again with each epoch.

    Raises ValueError for a gamma that is negative or no number, or every below 1; a name that does
    not exist is refused, with near ones, at the first step.
    """

    gamma: float
    params: str | Sequence[str] | None = None
    probes: int = 3
    every: int = 50
    after: int = 15
    seed: int = 0
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def __post_init__(self) -> None:
        if not (isinstance(self.gamma, (int, float)) and 0 <= self.gamma < math.inf):
            raise ValueError(
                f"gamma, the strength of the penalty, must be a number, 0 or more, "
                f"not {self.gamma!r}: a negative one would reward curvature"
            )
        if self.every < 1 or self.after < 0:
            raise ValueError(
                f"every must be at least 1 and after at least 0, not {self.every} and {self.after}"
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, epoch: int) -> Tensor:
        everything = dict(model.named_parameters())
        names = choose(everything, self.params)
        if self.gamma == 0 or not self.due(step, epoch):
            loss = self.loss_fn(model(x), y)
            loss.backward()
            return loss.detach()
        # Probes belong to the step: the run does not depend on what else was drawn.
        generator = torch.Generator().manual_seed((self.seed << 24) + step)
        with ThriceDifferentiable():
            loss = self.loss_fn(model(x), y)
        trace = block_trace(loss, [everything[n] for n in names], self.probes, generator)
        (loss + self.gamma * trace).backward()
        return loss.detach()

    def due(self, step: int, epoch: int) -> bool:
        return epoch >= self.after and step % self.every == 0


def train_by(
    gradient: Gradient,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int = 40,
    lr: float | Callable[[int], float] = 0.1,
    batch_size: int = 20,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """Train in place by SGD with momentum on whatever `gradient` leaves in `.grad`.

    Minibatches come in the order of `lla_helpers.training.train`, so runs of one seed are paired.
    Returns the mean training loss of each epoch. Raises FloatingPointError, naming the step, when
    the loss is no longer finite, ValueError for an empty data set.
    """
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"training needs as many labels as samples, not {len(x)} and {len(y)}")
    rate = lr if callable(lr) else lambda epoch: lr
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate(0), momentum=momentum, weight_decay=weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    history, step = [], 0
    model.train()
    with same_random_state(x.device):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            total = 0.0
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch)
            for batch in torch.randperm(len(x), generator=generator).split(batch_size):
                optimizer.zero_grad()
                loss = gradient(model, x[batch], y[batch], step, epoch)
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss.item()} at step {step}: try a smaller lr than "
                        f"{rate(epoch):g}, or a weaker penalty"
                    )
                optimizer.step()
                total += loss.item() * len(batch)
                step += 1
            history.append(total / len(x))
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise FloatingPointError(f"a weight is no longer finite after the last step, {step - 1}")
    model.eval()
    return history


def plain(model: nn.Module, x: Tensor, y: Tensor, step: int, epoch: int) -> Tensor:
    """The gradient of the cross-entropy and nothing else."""
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()
