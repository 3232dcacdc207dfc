"""What might foretell generalisation, and the gap that it would have to foretell.

With a share eta of the training labels replaced by other classes, training and test accuracy are
not about the same thing until the test labels are noisy in the same way. Their expectation over
that noise needs no drawing:

    a(eta) = mean_n [ (1 - eta) s_n(y_n) + eta / (C - 1) sum_{k != y_n} s_n(k) ]

with s_n(k) the score of sample n if its label were k: 1 if k is predicted, or the loss.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lla_helpers.model_view import in_mode


def flip_labels(y: Tensor, share: float, classes: int = 10, seed: int = 0) -> Tensor:
    """A copy of y in which round(share * n) labels, drawn by `seed`, are another class each."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is the part of the labels to replace, 0 to 1, not {share!r}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    shift = torch.randint(1, classes, (len(chosen),), generator=generator)
    noisy = y.clone()
    noisy[chosen] = (y[chosen] + shift) % classes
    return noisy


@torch.no_grad()
def expected(model: nn.Module, x: Tensor, y: Tensor, noise: float = 0.0) -> tuple[float, float]:
    """Accuracy and mean cross-entropy in eval mode, in expectation over label noise.

    noise: the probability that a label is replaced by another class, each as likely. With 0 these
    are the plain accuracy and loss.
    """
    with in_mode(model, "eval"):
        outputs = model(x).double()
    classes = outputs.shape[1]
    right = F.one_hot(outputs.argmax(1), classes).double()
    loss = -F.log_softmax(outputs, 1)
    chance = torch.full_like(right, noise / (classes - 1))
    chance.scatter_(1, y[:, None], 1 - noise)
    return float((chance * right).sum(1).mean()), float((chance * loss).sum(1).mean())


@torch.no_grad()
def margin(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Median over samples of the label's logit less the largest other one, in eval mode."""
    with in_mode(model, "eval"):
        outputs = model(x).double()
    own = outputs.gather(1, y[:, None]).squeeze(1)
    others = outputs.scatter(1, y[:, None], -math.inf).amax(1)
    return float((own - others).median())


def weight_norm(model: nn.Module) -> float:
    """Euclidean norm of all parameters that are trained."""
    squares = [p.detach().double().square().sum() for p in model.parameters() if p.requires_grad]
    if not squares:
        raise ValueError("the model has no parameter that is trained")
    return float(torch.stack(squares).sum().sqrt())


def sharpness(
    model: nn.Module, x: Tensor, y: Tensor, *, radius: float = 0.1, steps: int = 5
) -> float:
    """max over |d| <= radius of L(theta + d) - L(theta), by `steps` of projected gradient ascent.

    The first step goes to the sphere along the gradient, as sharpness-aware minimisation does
    (Foret et al. 2021); the others are half as long. The best point counts, so it is a lower bound
    of the maximum and never negative. Cross-entropy, in eval mode; the model stays as it was.
    """
    if not radius > 0:
        raise ValueError(f"radius must be positive, not {radius!r}")
    theta = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    if not theta:
        raise ValueError("the model has no parameter that is trained")
    moved = {k: torch.zeros_like(p, requires_grad=True) for k, p in theta.items()}
    best, start = -math.inf, math.nan
    with in_mode(model, "eval"):
        for step in range(steps + 1):
            weights = {k: theta[k] + moved[k] for k in theta}
            loss = F.cross_entropy(functional_call(model, weights, (x,)).double(), y)
            start = loss.item() if step == 0 else start
            best = max(best, loss.item())
            gradient = dict(
                zip(moved, torch.autograd.grad(loss, list(moved.values())), strict=True)
            )
            length = norm(gradient)
            if step == steps or length == 0:
                break
            stride = (radius if step == 0 else radius / 2) / length
            ahead = {k: moved[k].detach() + stride * gradient[k] for k in moved}
            shrink = min(1.0, radius / norm(ahead))
            moved = {k: (shrink * v).requires_grad_() for k, v in ahead.items()}
    return best - start


def norm(vectors: dict[str, Tensor]) -> float:
    return float(torch.stack([v.detach().double().norm() for v in vectors.values()]).norm())
