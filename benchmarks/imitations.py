"""Ways to a Hessian-vector product, each in a few lines of ours: what methods cost, not libraries.

Each takes a problem with one batch and gives a function of (P, k) columns: k lists of tensors, a
parameter each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, linearize, vmap

from lla_helpers.hessian import keep_freed_memory
from tests.traps.problems import Problem

Work = Callable[[Tensor], list]


def gradient(problem: Problem) -> Work:
    ((x, y),) = problem.batches
    return lambda v: [torch.autograd.grad(problem.loss(problem.model(x), y), problem.chosen)]


def retained(problem: Problem) -> Work:
    """One first pass, walked again for every vector: PyHessian with one batch, and LLA."""
    ((x, y),) = problem.batches
    loss = problem.loss(problem.model(x), y)
    slopes = torch.autograd.grad(loss, problem.chosen, create_graph=True)
    return lambda v: [
        torch.autograd.grad(slopes, problem.chosen, problem.split(u), retain_graph=True)
        for u in v.T
    ]


def retained_in_kept_memory(problem: Problem) -> Work:
    """The same, after the allocator was asked to keep what is freed, as this package does."""
    keep_freed_memory()
    return retained(problem)


def rebuilt(problem: Problem) -> Work:
    """The first pass again for every vector: hessian-eigenthings, PyHessian with a loader."""
    ((x, y),) = problem.batches

    def one(u: Tensor) -> tuple[Tensor, ...]:
        loss = problem.loss(problem.model(x), y)
        slopes = torch.autograd.grad(loss, problem.chosen, create_graph=True)
        return torch.autograd.grad(slopes, problem.chosen, problem.split(u))

    return lambda v: [one(u) for u in v.T]


def functional_gradient(problem: Problem):
    ((x, y),) = problem.batches
    theta = {name: p.detach() for name, p in problem.model.named_parameters()}

    def loss(theta):
        return problem.loss(functional_call(problem.model, theta, (x,)), y)

    def tangent(u: Tensor) -> dict[str, Tensor]:
        return dict(zip(theta, problem.split(u), strict=True))

    return grad(loss), theta, tangent


def forward_over_reverse(problem: Problem) -> Work:
    slope, theta, tangent = functional_gradient(problem)
    return lambda v: [[*jvp(slope, (theta,), (tangent(u),))[1].values()] for u in v.T]


def linearized(problem: Problem) -> Work:
    """torch.func.linearize traces the gradient once; its tracing is not in the time per vector."""
    slope, theta, tangent = functional_gradient(problem)
    _, product = linearize(slope, theta)
    return lambda v: [[*product(tangent(u)).values()] for u in v.T]


def linearized_block(problem: Problem) -> Work:
    slope, theta, tangent = functional_gradient(problem)
    _, product = linearize(slope, theta)
    block = vmap(lambda u: product(tangent(u)))
    return lambda v: [*zip(*block(v.T).values(), strict=True)]


# name: (how, vectors at a time)
IMITATIONS = {
    "gradient": (gradient, 1),
    "retained graph": (retained, 1),
    "retained graph, freed memory kept": (retained_in_kept_memory, 1),
    "rebuilt graph": (rebuilt, 1),
    "jvp of gradient": (forward_over_reverse, 1),
    "linearize": (linearized, 1),
    "vmap of linearize, 8": (linearized_block, 8),
}
