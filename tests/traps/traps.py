"""Fourteen traps of Hessian spectra, each a function of an adapter: does the library fall in?

Every trap compares with something that is known otherwise: an exact Hessian, the same network at
another scale, or the state that was found. `run` reports errors as what they are.
"""

from __future__ import annotations

import copy
import ctypes
import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from lla_helpers.models import cnn
from tests.traps import problems
from tests.traps.adapter import Adapter, Run, array
from tests.traps.problems import Problem, exact_hessian, vector


@dataclass(frozen=True)
class Outcome:
    """Did it fall in, and the number or sentence that shows it."""

    falls: bool
    number: str


Trap = Callable[[Adapter], Outcome]
TRAPS: dict[int, tuple[str, Trap]] = {}


def trap(number: int, title: str) -> Callable[[Trap], Trap]:
    def register(function: Trap) -> Trap:
        TRAPS[number] = (title, function)
        return function

    return register


def relative(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


def extreme_ratio(runs: Iterable[Run]) -> float:
    """r_e = |min node / max node|, averaged over probes."""
    real = [np.real(array(nodes)) for nodes, _ in runs]
    return float(np.mean([abs(n.min() / n.max()) for n in real]))


def published_k_hn(runs: Iterable[Run], power: float = 0.5) -> float:
    """K_Hn as published: the weight stands inside the power; per probe, then averaged."""
    values = []
    for nodes, weights in runs:
        product = np.real(array(nodes)) * np.real(array(weights))
        negative, positive = -product[product < 0], product[product > 0]
        values.append(np.sum(negative**power) / np.sum(positive**power))
    return float(np.mean(values))


def to_exact(grid, heights, eigenvalues: Tensor) -> float:
    """W1 between a drawn curve and the exact spectrum, over the exact range."""
    grid, heights = np.real(array(grid)).astype(float), np.real(array(heights)).astype(float)
    exact = eigenvalues.numpy()
    masses = heights * np.gradient(grid)
    return wasserstein_distance(grid, exact, u_weights=masses) / (exact[-1] - exact[0])


@trap(1, "an absolute epsilon in the vectors' normalisation")
def small_loss_scale(adapter: Adapter) -> Outcome:
    """Loss x 2^-17, near 1e-5, must leave r_e and K_Hn as they are.

    A power of two changes no rounding: whatever moves was held against something absolute.
    """
    problem = problems.on_trained_mlp()
    adapter.prepare(problem)
    runs = [adapter.slq(problem.scaled(c), 60, 2) for c in (1.0, 2.0**-17)]
    (r_1, r_2), (k_1, k_2) = map(extreme_ratio, runs), map(published_k_hn, runs)
    falls = abs(r_2 / r_1 - 1) > 0.01 or abs(k_2 / k_1 - 1) > 0.01
    return Outcome(falls, f"loss x 2^-17: r_e {r_1:.3g} -> {r_2:.3g}, K_Hn {k_1:.3g} -> {k_2:.3g}")


@trap(2, "K_Hn without its steps or without re-orthogonalisation")
def k_hn_and_steps(adapter: Adapter) -> Outcome:
    """K_Hn must say its steps, and with all P of them it must be that of the whole spectrum."""
    problem = problems.smooth_and_tiny()
    values = torch.linalg.eigvalsh(exact_hessian(problem)).numpy()
    exact = published_k_hn([(values, np.full(len(values), 1 / len(values)))])
    few, told = adapter.k_hn(problem, 15, 16)
    every, _ = adapter.k_hn(problem, problem.size, 16)
    falls = told != 15 or abs(every / exact - 1) > 0.05
    return Outcome(
        falls, f"{few:.3g} at m = 15 (says {told}), {every:.3g} at m = P, exact {exact:.3g}"
    )


@trap(3, "ghosts: copies of the largest eigenvalue")
def ghosts(adapter: Adapter) -> Outcome:
    """At 200 steps one node, not several, may lie at the largest eigenvalue."""
    (nodes, _), *_ = adapter.slq(problems.on_trained_mlp(), 200, 1)
    nodes = np.sort(np.real(array(nodes)))
    copies = int(np.sum(nodes > (1 - 1e-3) * nodes[-1]))
    return Outcome(copies != 1, f"{copies} of the largest at m = 200")


@trap(4, "a partial last batch weighted like a full one")
def ragged_batches(adapter: Adapter) -> Outcome:
    """In batches of 64 with a last one of 44, or of 1, the product must be the exact one."""
    errors = []
    for samples in (300, 257):
        x, y = problems.digits(samples)
        problem = problems.on_trained_mlp(batches=problems.ragged((x, y), 64))
        v = vector(problem)
        errors.append(relative(adapter.operator(problem)(v), exact_hessian(problem) @ v.double()))
    return Outcome(max(errors) > 1e-4, f"error {errors[0]:.1e}, last batch of one {errors[1]:.1e}")


@trap(5, "a second object on the same model")
def second_object(adapter: Adapter) -> Outcome:
    """The second operator on one model must be the first one."""
    problem = problems.on_trained_mlp()
    v = vector(problem)
    first = adapter.operator(problem)(v)
    second = adapter.operator(problem)(v)
    factor = (second @ first / (first @ first)).item()
    return Outcome(relative(second, first.double()) > 1e-4, f"second / first = {factor:.3g}")


@trap(6, "a smoothing width that is not relative to the range")
def relative_width(adapter: Adapter) -> Outcome:
    """The drawn curve must be as near to the spectrum at loss x 1e-6 as at 1."""
    problem, exact = problems.on_trained_mlp(), problems.trained_spectrum()
    at_1, at_small = (
        to_exact(*adapter.plotted(problem.scaled(c), 60, 1), c * exact) for c in (1.0, 1e-6)
    )
    falls = not (at_small < 0.05 and at_small < 2 * at_1)
    return Outcome(falls, f"drawn W1/range {at_1:.2g}, at loss x 1e-6 {at_small:.2g}")


@trap(7, "a stopping rule that fails for a negative trace")
def negative_trace(adapter: Adapter) -> Outcome:
    """For -L the estimate must be minus that for L, with as many probes."""
    problem, trace = problems.on_trained_mlp(), problems.trained_spectrum().sum().item()
    _, usual = adapter.trace(problem, 64)
    estimate, used = adapter.trace(problem.scaled(-1.0), 64)
    falls = used < usual or abs(estimate / -trace - 1) > 0.25
    return Outcome(falls, f"{estimate:.3g} for {-trace:.3g}; {used} probes, {usual} for -H")


@trap(8, "batch norm: mode, running statistics, restoring")
def batch_norm_mode(adapter: Adapter) -> Outcome:
    """Each mode's operator must be exact, and leave the statistics and the mode as found."""
    seen, falls = [], False
    for mode in ("eval", "train"):
        problem = problems.with_batch_norm(mode)
        v, exact = vector(problem), exact_hessian(problem)
        as_nobody_left_it(problem)
        adapter.prepare(problem)
        before = state(problem)
        error = relative(adapter.operator(problem)(v), exact @ v.double())
        changed = differences(before, state(problem))
        falls = falls or error > 1e-3 or bool(changed)
        seen.append(f"{mode}: error {error:.1e}" + (f", moved {changed}" if changed else ""))
    return Outcome(falls, "; ".join(seen))


@trap(9, "dropout in train mode")
def dropout(adapter: Adapter) -> Outcome:
    """Outputs that are random have no Hessian: refuse them, or at the least stay symmetric."""
    problem = problems.with_dropout()
    adapter.prepare(problem)
    u, v = vector(problem, 1), vector(problem, 2)
    try:
        product = adapter.operator(problem)
    except (ValueError, RuntimeError) as error:
        return Outcome(False, f"refused: {first_line(error)}")
    torch.manual_seed(0)
    hu, hv = product(u), product(v)
    asymmetry = (abs(u @ hv - v @ hu) / torch.hypot(hu.norm(), hv.norm())).item()
    silently = "" if problem.model.training else ", but of the eval mode, without a word"
    return Outcome(asymmetry > 1e-3, f"asymmetry {asymmetry:.1e}{silently}")


@trap(10, "finite differences across kinks")
def every_method(adapter: Adapter) -> Outcome:
    """Every way to a product that the library offers must be exact on a ReLU network."""
    problem = problems.on_trained_mlp()
    v = vector(problem)
    exact = exact_hessian(problem) @ v.double()
    errors = {m: relative(adapter.operator(problem, m)(v), exact) for m in adapter.methods}
    return Outcome(
        max(errors.values()) > 1e-3, ", ".join(f"{m} {e:.1e}" for m, e in errors.items())
    )


@trap(11, "state and memory not as found")
def state_and_memory(adapter: Adapter) -> Outcome:
    """Gradients, buffers, modes as found afterwards; no memory kept by objects that are gone."""
    problem = problems.with_batch_norm("eval")
    as_nobody_left_it(problem)
    problem.chosen[0].grad = torch.ones_like(problem.chosen[0])
    adapter.prepare(problem)
    before = state(problem)
    adapter.operator(problem)(vector(problem))
    changed = differences(before, state(problem))
    growth, graph = memory_growth(adapter)
    return Outcome(
        bool(changed) or growth > 2.5 * graph,
        (f"moved {changed}; " if changed else "")
        + f"{growth:+.0f} MiB over 6 objects of about {graph:.0f} MiB",
    )


@trap(12, "complex, nan or negative weights")
def plain_nodes(adapter: Adapter) -> Outcome:
    """Nodes and weights must be real, finite and non-negative, after a breakdown, too."""
    faults = []
    for name, problem, steps, probes in (
        ("trained", problems.on_trained_mlp(), 40, 1),
        ("breakdown", problems.breaks_down(), 4, 8),
    ):
        runs = [(array(n), array(w)) for n, w in adapter.slq(problem, steps, probes)]
        if any(np.iscomplexobj(a) for run in runs for a in run):
            faults.append(f"{name}: complex")
        elif not all(np.isfinite(a).all() for run in runs for a in run):
            faults.append(f"{name}: nan")
        elif any((w < 0).any() for _, w in runs):
            faults.append(f"{name}: negative weights")
        elif not all(abs(w.sum() - 1) < 1e-3 for _, w in runs):
            faults.append(f"{name}: weights do not sum to 1")
    return Outcome(bool(faults), "; ".join(faults) or "real, finite, non-negative")


@trap(13, "frozen or unused parameters")
def partly_used(adapter: Adapter) -> Outcome:
    """A frozen layer is left out; a layer that is never called has rows of zeros."""
    shown, falls = [], False
    for name, problem in (
        ("frozen", problems.partly_used(spare=False)),
        ("unused", problems.partly_used(frozen=False)),
    ):
        v = vector(problem)
        try:
            error = relative(adapter.operator(problem)(v), exact_hessian(problem) @ v.double())
        except Exception as problem_with_it:
            falls = True
            shown.append(f"{name}: raises {first_line(problem_with_it)}")
        else:
            falls = falls or error > 1e-4
            shown.append(f"{name}: error {error:.1e}")
    return Outcome(falls, "; ".join(shown))


@trap(14, "a grid that clips some of the runs")
def grid_covers_all(adapter: Adapter) -> Outcome:
    """The drawn curve must hold all of the mass, whichever run reached furthest."""
    problem = problems.on_trained_mlp()
    worst = {}
    for steps in (20, 80):
        masses = []
        for seed in range(3):
            grid, heights = map(array, adapter.plotted(problem, steps, 3, seed))
            masses.append(float(np.trapezoid(np.real(heights), np.real(grid))))
        worst[steps] = max(masses, key=lambda mass: abs(mass - 1))
    shown = ", ".join(f"{mass:.4f} at {steps} steps" for steps, mass in worst.items())
    return Outcome(any(abs(mass - 1) > 0.05 for mass in worst.values()), f"mass drawn {shown}")


def as_nobody_left_it(problem: Problem) -> None:
    """The model in the other mode, one of its modules in neither."""
    problem.model.train(problem.mode == "eval")
    first = next(problem.model.children())
    first.train(not first.training)


def state(problem: Problem) -> dict[str, object]:
    """What an analysis must leave as it found it."""
    model = problem.model
    return {
        "grad": [None if p.grad is None else p.grad.detach().clone() for p in model.parameters()],
        "graph in grad": [p.grad is not None and p.grad.requires_grad for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "weights": [p.detach().clone() for p in model.parameters()],
        "buffers": [b.clone() for b in model.buffers()],
        "mode": [m.training for m in model.modules()],
    }


def differences(before: dict[str, object], after: dict[str, object]) -> str:
    def same(a, b) -> bool:
        tensors = isinstance(a, Tensor) and isinstance(b, Tensor)
        return torch.equal(a, b) if tensors else type(a) is type(b) and a == b

    return ", ".join(
        what
        for what, values in before.items()
        if not all(same(a, b) for a, b in zip(values, after[what], strict=True))
    )


def memory_growth(adapter: Adapter) -> tuple[float, float]:
    """Growth of the process over six operators after the first two, and one gradient's graph, MiB.

    The first two let the allocator settle. The graph is what backward needs: an operator that stays
    alive holds at least that.
    """
    problem = Problem(cnn((8, 16), 16, pool="avg"), [problems.digits(1000)])
    graph = saved_by_backward(problem)
    sizes = []
    for seed in range(8):
        adapter.operator(problem)(vector(problem, seed))
        sizes.append(resident())
    return sizes[-1] - sizes[1], graph


def saved_by_backward(problem: Problem) -> float:
    twin, sizes = copy.deepcopy(problem.model), {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ((x, y),) = problem.batches
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        problem.loss(twin(x), y)
    return sum(sizes.values()) / 2**20


def resident() -> float:
    """Resident memory in MiB, after garbage is collected and given back to the system."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another C library: it gives memory back in its own time
    return psutil.Process().memory_info().rss / 2**20


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:120]
