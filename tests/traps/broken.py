"""Deliberately broken copies of the steps that the traps guard, one adapter each.

They are what people write first. Each is caught by its trap: that is the proof that the trap's test
can fail.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lla_helpers import Hessian, SpectralDensity, criteria
from lla_helpers.density import rademacher
from tests.traps.adapter import Ours, Product, Run


def plain_lanczos(
    product: Product,
    start: Tensor,
    steps: int,
    *,
    epsilon: float = 0.0,
    reorthogonalise: bool = True,
) -> Run:
    """Lanczos with two flaws on demand: an epsilon in the normalisation, and no second look."""
    basis, alpha, beta = torch.zeros(steps, len(start), dtype=start.dtype), [], []
    basis[0] = start / start.norm()
    for j in range(steps):
        w = product(basis[j])
        alpha.append((w @ basis[j]).item())
        w = w - alpha[j] * basis[j] - (beta[j - 1] * basis[j - 1] if j else 0.0)
        if reorthogonalise:
            for _ in range(2):
                w = w - basis.T @ (basis @ w)
        if j < steps - 1:
            beta.append(w.norm().item())
            basis[j + 1] = w / (beta[j] + epsilon)
    t = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
    nodes, vectors = np.linalg.eigh(t)
    return nodes, vectors[0] ** 2


class PlainLanczos(Ours):
    flaws: ClassVar[dict] = {}

    def slq(self, problem, steps, probes, seed=0):
        op = self.hessian(problem)
        starts = [rademacher(problem.size, seed, i).to(op.dtype) for i in range(probes)]
        return [plain_lanczos(op.__matmul__, start, steps, **self.flaws) for start in starts]

    def k_hn(self, problem, steps, probes):
        nodes, weights = map(np.stack, zip(*self.slq(problem, steps, probes), strict=True))
        found = criteria(SpectralDensity(nodes, weights, problem.size, steps))
        return float(found.k_hn), found.steps


class EpsilonInNormalisation(PlainLanczos):
    flaws: ClassVar[dict] = {"epsilon": 1e-6}


class NoReorthogonalisation(PlainLanczos):
    flaws: ClassVar[dict] = {"reorthogonalise": False}


class StepsNotTold(Ours):
    def k_hn(self, problem, steps, probes):
        return super().k_hn(problem, steps, probes)[0], None


class MeanOfBatchMeans(Ours):
    """Every batch counts the same, however few its samples."""

    def operator(self, problem, method=None):
        each = [
            Hessian(problem.model, problem.loss, batch, mode=problem.mode)
            for batch in problem.batches
        ]
        return lambda v: sum(h @ v for h in each) / len(each)


class GradientLeftBehind(Ours):
    """`backward(create_graph=True)`: the graph stays in `.grad`, and the next one adds to it."""

    def operator(self, problem, method=None):
        model = problem.model.eval()
        for x, y in problem.batches:
            problem.loss(model(x), y).backward(create_graph=True)
        gradients = [p.grad for p in problem.chosen]

        def product(v: Tensor) -> Tensor:
            parts = torch.autograd.grad(
                gradients, problem.chosen, problem.split(v), retain_graph=True
            )
            return torch.cat([part.reshape(-1) for part in parts])

        return product


class Rebuilt(Ours):
    """Straight on the model, again for every vector: statistics move, dropout is drawn anew."""

    def operator(self, problem, method=None):
        model = problem.model.train(problem.mode == "train")
        count = sum(len(x) for x, _ in problem.batches)

        def product(v: Tensor) -> Tensor:
            total = torch.zeros_like(v)
            for x, y in problem.batches:
                loss = problem.loss(model(x), y) * len(x) / count
                gradients = torch.autograd.grad(loss, problem.chosen, create_graph=True)
                parts = torch.autograd.grad(gradients, problem.chosen, problem.split(v))
                total += torch.cat([part.reshape(-1) for part in parts])
            return total

        return product


class AbsoluteWidth(Ours):
    """A Gaussian of variance 1e-5 and margins of 1, whatever the range."""

    def plotted(self, problem, steps, probes, seed=0):
        density = self.density(problem, steps, probes, seed)
        low, high = density.support
        grid = np.linspace(low - 1, high + 1, 10_000)
        return grid, density.pdf(grid, width=1e-5**0.5 / density.scale)


class GridOfTheFirstProbe(Ours):
    def plotted(self, problem, steps, probes, seed=0):
        density = self.density(problem, steps, probes, seed)
        grid = np.linspace(density.nodes[0].min(), density.nodes[0].max(), 10_000)
        return grid, density.pdf(grid)


class RelativeChangeOfTheTrace(Ours):
    """Stop when (new mean - old mean) / (old mean + 1e-6) is small: always, if it is negative."""

    def trace(self, problem, probes, seed=0):
        op, terms, mean = self.hessian(problem), [], 0.0
        for i in range(probes):
            v = rademacher(problem.size, seed, i).to(op.dtype)
            terms.append((v @ (op @ v)).item())
            if abs(np.mean(terms) - mean) / (mean + 1e-6) < 1e-3:
                break
            mean = np.mean(terms)
        return float(np.mean(terms)), len(terms)


class FiniteDifferences(Ours):
    """(gradient(theta + h v) - gradient(theta - h v)) / 2h: exact only between kinks."""

    def operator(self, problem, method=None):
        start = [p.detach().clone() for p in problem.chosen]

        def gradient(v: Tensor, h: float) -> Tensor:
            with torch.no_grad():
                for p, s, part in zip(problem.chosen, start, problem.split(v), strict=True):
                    p.copy_(s + h * part)
            found = self.hessian(problem).gradient()
            with torch.no_grad():
                for p, s in zip(problem.chosen, start, strict=True):
                    p.copy_(s)
            return found

        return lambda v: (gradient(v, 5e-3) - gradient(v, -5e-3)) / 1e-2


class GeneralEigenvalues(Ours):
    """T as a general matrix: complex numbers, although it is symmetric."""

    def slq(self, problem, steps, probes, seed=0):
        runs = super().slq(problem, steps, probes, seed)
        return [(nodes.astype(complex), weights.astype(complex)) for nodes, weights in runs]


class PaddedWithNan(Ours):
    """Runs that broke down, filled up to one length."""

    def slq(self, problem, steps, probes, seed=0):
        runs = super().slq(problem, steps, probes, seed)
        return [(np.where(weights > 0, nodes, np.nan), weights) for nodes, weights in runs]
