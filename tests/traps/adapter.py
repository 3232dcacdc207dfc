"""What the traps ask of a library, and this package's answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from lla_helpers import Hessian, criteria, hutchinson_trace, slq
from tests.traps.problems import Problem

Product = Callable[[Tensor], Tensor]
Run = tuple[np.ndarray, np.ndarray]


class NotOffered(Exception):
    """The library has no such feature."""


class Adapter:
    """One library, as its documentation says to use it. What it lacks raises NotOffered.

    Vectors are flat, over the parameters that require grad, in `parameters()` order.
    """

    name = "?"
    # Ways to a Hessian-vector product; the first is the default.
    methods: tuple[str, ...] = ("default",)

    def prepare(self, problem: Problem) -> None:
        """What the user does beforehand: put the model into the mode that is to be analysed."""
        problem.model.train(problem.mode == "train")

    def operator(self, problem: Problem, method: str | None = None) -> Product:
        raise NotOffered

    def slq(self, problem: Problem, steps: int, probes: int, seed: int = 0) -> list[Run]:
        """Nodes and weights of each probe, just as the library gives them."""
        raise NotOffered

    def plotted(
        self, problem: Problem, steps: int, probes: int, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The grid and the heights of the curve that the library would draw."""
        raise NotOffered

    def k_hn(self, problem: Problem, steps: int, probes: int) -> tuple[float, int | None]:
        """K_Hn, and the number of steps that the result says it belongs to."""
        raise NotOffered

    def trace(self, problem: Problem, probes: int, seed: int = 0) -> tuple[float, int]:
        """Hutchinson's estimate, and the number of probes that it took."""
        raise NotOffered


class Ours(Adapter):
    name = "lla_helpers"
    methods = ("kept", "rebuilt")

    def prepare(self, problem):
        """Nothing: the mode is an option."""

    def hessian(self, problem: Problem, **options) -> Hessian:
        return Hessian(problem.model, problem.loss, problem.batches, mode=problem.mode, **options)

    def operator(self, problem, method=None):
        tight = {"chunk_size": 512, "memory_cap": 1e-9} if method == "rebuilt" else {}
        return self.hessian(problem, **tight).__matmul__

    def density(self, problem, steps, probes, seed=0):
        return slq(self.hessian(problem), steps, probes, seed=seed)

    def slq(self, problem, steps, probes, seed=0):
        density = self.density(problem, steps, probes, seed)
        return list(zip(density.nodes, density.weights, strict=True))

    def plotted(self, problem, steps, probes, seed=0):
        density = self.density(problem, steps, probes, seed)
        grid = density.grid(10_000)
        return grid, density.pdf(grid)

    def k_hn(self, problem, steps, probes):
        found = criteria(self.density(problem, steps, probes))
        return float(found.k_hn), found.steps

    def trace(self, problem, probes, seed=0):
        estimate, _ = hutchinson_trace(self.hessian(problem), probes, seed)
        return estimate, probes


def array(values) -> np.ndarray:
    """Tensors and lists as an array, complex or not."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
