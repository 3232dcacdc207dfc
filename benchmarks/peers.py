"""The peers behind the traps' adapter: each as its own documentation says to use it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from tests.traps.adapter import Adapter, Ours
from tests.traps.problems import Problem

# The package to ask for its version, and the module to import.
PACKAGES = {
    "curvlinops": ("curvlinops-for-pytorch", "curvlinops"),
    "hessian-eigenthings": ("hessian-eigenthings", "hessian_eigenthings"),
    "PyHessian": ("PyHessian", "pyhessian"),
}


class Curvlinops(Adapter):
    """HessianLinearOperator, and Papyan's spectral density.

    `ncv` has no default; the package's own example takes 128 steps and its default is one repeat.
    """

    name = "curvlinops"
    default_steps = 128
    columns = True

    def linear_operator(self, problem: Problem):
        from curvlinops import HessianLinearOperator

        return HessianLinearOperator(problem.model, problem.loss, problem.chosen, problem.batches)

    def operator(self, problem, method=None):
        return self.linear_operator(problem).__matmul__

    def slq(self, problem, steps, probes, seed=0):
        """The Lanczos runs alone, without the bounds that the drawn density needs."""
        from curvlinops.papyan2020traces.spectrum import fast_lanczos

        torch.manual_seed(seed)
        op = self.linear_operator(problem)
        runs = [fast_lanczos(op, steps) for _ in range(probes)]
        return [(nodes.numpy(), (vectors[0] ** 2).numpy()) for nodes, vectors in runs]

    def plotted(self, problem, steps, probes, seed=0):
        from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - ARPACK's start vector for the bounds
        op = self.linear_operator(problem)
        return lanczos_approximate_spectrum(op, steps, num_points=10_000, num_repeats=probes)

    def trace(self, problem, probes, seed=0):
        from curvlinops import hutchinson_trace

        torch.manual_seed(seed)
        return hutchinson_trace(self.linear_operator(problem), probes).item(), probes


class Eigenthings(Adapter):
    """HessianOperator, `spectral_density` and `trace`; 80 steps and 10 runs by default."""

    name = "hessian-eigenthings"
    methods = ("autograd", "finite_difference")
    default_steps = 80
    columns = False

    def linear_operator(self, problem: Problem, method: str = "autograd"):
        from hessian_eigenthings import HessianOperator, supervised_loss

        loss = supervised_loss(problem.loss)
        return HessianOperator(problem.model, problem.batches, loss, method=method)

    def operator(self, problem, method=None):
        return self.linear_operator(problem, method or "autograd").matvec

    def density(self, problem, steps, probes, seed, **options):
        from hessian_eigenthings import spectral_density

        return spectral_density(
            self.linear_operator(problem),
            num_runs=probes,
            lanczos_steps=steps,
            seed=1000 * seed,  # run i takes seed + i
            **options,
        )

    def slq(self, problem, steps, probes, seed=0):
        found = self.density(problem, steps, probes, seed)
        return list(zip(found.raw_eigenvalues.numpy(), found.raw_weights.numpy(), strict=True))

    def plotted(self, problem, steps, probes, seed=0):
        found = self.density(problem, steps, probes, seed)
        return found.grid, found.density

    def trace(self, problem, probes, seed=0):
        from hessian_eigenthings import trace

        found = trace(
            self.linear_operator(problem), num_matvecs=probes, method="hutchinson", seed=seed
        )
        return found.estimate, len(found.samples)


class PyHessian(Adapter):
    """`hessian`: one batch keeps its graph, a loader rebuilds it for every vector.

    The wheel has no function that draws a density (that file is only in the repository), and its
    `density` calls `torch.eig`, which PyTorch 2 no longer has.
    """

    name = "PyHessian"
    default_steps = 100
    columns = False

    def linear_operator(self, problem: Problem):
        from pyhessian import hessian

        pairs = list(problem.batches) if isinstance(problem.batches, list) else None
        data = {"data": pairs[0]} if pairs and len(pairs) == 1 else {"dataloader": problem.batches}
        return hessian(problem.model, problem.loss, cuda=False, **data)

    def operator(self, problem, method=None):
        from pyhessian.utils import hessian_vector_product

        op = self.linear_operator(problem)

        def product(v: torch.Tensor) -> torch.Tensor:
            parts = problem.split(v)
            if op.full_dataset:
                _, found = op.dataloader_hv_product(parts)
            else:
                found = hessian_vector_product(op.gradsH, op.params, parts)
            return torch.cat([part.reshape(-1) for part in found])

        return product

    def slq(self, problem, steps, probes, seed=0):
        torch.manual_seed(seed)
        nodes, weights = self.linear_operator(problem).density(steps, probes)
        return [(np.array(n), np.array(w)) for n, w in zip(nodes, weights, strict=True)]

    def trace(self, problem, probes, seed=0):
        torch.manual_seed(seed)
        terms = self.linear_operator(problem).trace(maxIter=probes)
        return float(np.mean(terms)), len(terms)


class PyHessianMended(PyHessian):
    """The same with `torch.eig` put back by way of `torch.linalg.eig`, as its repository does."""

    name = "PyHessian, eig mended"

    def slq(self, problem, steps, probes, seed=0):
        def eig(matrix, eigenvectors):
            values, vectors = torch.linalg.eig(matrix)
            return values[:, None], vectors

        missing = torch.eig
        torch.eig = eig
        try:
            return super().slq(problem, steps, probes, seed)
        finally:
            torch.eig = missing


def installed(tell: Callable[[str], None]) -> tuple[list[Adapter], dict[str, str]]:
    """Ours and the peers that can be imported, and the versions; `tell` of those that cannot."""
    adapters: list[Adapter] = [Ours()]
    versions = {"lla-helpers": version("lla-helpers"), "torch": torch.__version__}
    for adapter in (Curvlinops(), Eigenthings(), PyHessian(), PyHessianMended()):
        package, module = PACKAGES[adapter.name.split(",")[0]]
        try:
            import_module(module)
            versions[package] = version(package)
        except (ImportError, PackageNotFoundError) as error:
            tell(f"{adapter.name} is left out: {error}; pip install -r benchmarks/requirements.txt")
            continue
        adapters.append(adapter)
    return adapters, versions
