"""Time per vector and of a whole SLQ: ours, the installed peers, and imitations of methods."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import nets
from benchmarks.imitations import IMITATIONS
from benchmarks.timing import Seconds, fastest, interleaved, ratio, spread
from lla_helpers import Hessian
from lla_helpers import slq as our_slq
from tests.traps.adapter import Adapter, NotOffered, Ours
from tests.traps.problems import Problem

OURS = Ours.name
BLOCK = 8


def vectors(problem: Problem, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(problem.size, count, generator=generator)


def product_calls(
    problem: Problem, adapters: list[Adapter], batches=None
) -> dict[str, tuple[Callable[[], object], int]]:
    """name: (one prepared call, the vectors in it). Ours takes the columns that slq would send."""
    calls = {}
    for adapter in adapters:
        if adapter.name.endswith("mended"):
            continue  # it differs in the density alone
        own = nets.fresh(problem, batches)
        adapter.prepare(own)
        if isinstance(adapter, Ours):
            op = Hessian(own.model, own.loss, own.batches)
            v = vectors(own, op.block_size).T.contiguous().T  # each vector in one piece, as in slq
            calls[OURS] = (lambda op=op, v=v: op @ v, v.shape[1])
            continue
        product, v = adapter.operator(own), vectors(own, 1)[:, 0]
        calls[adapter.name] = (lambda product=product, v=v: product(v), 1)
        if adapter.columns:
            block = vectors(own, BLOCK)
            calls[f"{adapter.name}, {BLOCK} columns"] = (
                lambda product=product, v=block: product(v),
                BLOCK,
            )
    return calls


def imitation_calls(
    problem: Problem, only: str | None = None
) -> dict[str, tuple[Callable[[], object], int]]:
    calls = {}
    for name, (make, count) in IMITATIONS.items():
        if only and name != only:
            continue
        work, v = make(nets.fresh(problem)), vectors(problem, count)
        calls[name] = (lambda work=work, v=v: work(v), count)
    return calls


def per_vector(calls: dict, rounds: int, least_seconds: float, tell) -> Seconds:
    found = interleaved({n: c for n, (c, _) in calls.items()}, rounds, least_seconds, tell)
    return {name: [s / calls[name][1] for s in values] for name, values in found.items()}


def summary(found: Seconds, base: str | None = None) -> dict:
    """Milliseconds of each, over `base`, and ours over the fastest peer."""
    peers = [name for name in found if name not in (OURS, *IMITATIONS)]
    best = fastest(found, peers)
    return {
        "rounds": len(next(iter(found.values()))),
        "ms": {name: spread(1e3 * s for s in values) for name, values in found.items()},
        "over_gradient": {name: ratio(found, name, base) for name in found} if base else {},
        "fastest_peer": best,
        "over_fastest_peer": ratio(found, OURS, best) if best else None,
        "over_each": {name: ratio(found, OURS, name) for name in found if name != OURS},
    }


def products(adapters, names, rounds: int, least_seconds: float, tell, bare=False) -> dict:
    """Per vector, prepared, all data in one batch; `bare` of imitations, but for the gradient."""
    results = {}
    for name in names:
        problem = nets.make(name)
        only = "gradient" if bare else None
        calls = product_calls(problem, adapters) | imitation_calls(problem, only)
        found = per_vector(calls, rounds, least_seconds, lambda t, n=name: tell(f"{n}: {t}"))
        results[name] = summary(found, "gradient")
    return results


def loaders(adapters, names, rounds: int, least_seconds: float, tell) -> dict:
    """Per vector, prepared, data in batches: peers read and rebuild them for every product."""
    results = {}
    for name in names:
        problem = nets.make(name)
        for size in (64, 256):
            for kind, held in (("loader", nets.loader), ("list", nets.in_batches)):
                label = f"{name}, {kind} of {size}"
                calls = product_calls(problem, adapters, held(problem, size))
                found = per_vector(
                    calls, rounds, least_seconds, lambda t, n=label: tell(f"{n}: {t}")
                )
                results[label] = summary(found)
    return results


def slq_call(adapter: Adapter, problem: Problem, steps: int, probes: int) -> Callable[[], object]:
    """A whole SLQ from the bare model: what the library prepares is part of it."""

    def call():
        own = nets.fresh(problem)
        adapter.prepare(own)
        if isinstance(adapter, Ours):
            return our_slq(Hessian(own.model, own.loss, own.batches), steps, probes)
        return adapter.slq(own, steps, probes)

    return call


def drawn_call(adapter: Adapter, problem: Problem, steps: int, probes: int):
    return lambda: adapter.plotted(nets.fresh(problem), steps, probes)


def whole(adapters, names, rounds: int, steps: int, probes: int, tell) -> dict:
    """A whole SLQ, preparation included. curvlinops counts twice: with and without its bounds."""
    results = {}
    for name in names:
        problem = nets.make(name)
        calls = {}
        for adapter in adapters:
            try:
                adapter.slq(nets.fresh(problem), 2, 1)
            except (NotOffered, RuntimeError) as error:
                tell(f"{adapter.name} has no SLQ here: {str(error).splitlines()[0]}")
                continue
            calls[adapter.name] = slq_call(adapter, problem, steps, probes)
            if adapter.name == "curvlinops":
                calls["curvlinops with bounds"] = drawn_call(adapter, problem, steps, probes)
        found = interleaved(calls, rounds, tell=lambda t, n=name: tell(f"{n}: {t}"))
        results[name] = {**summary(found), "steps": steps, "probes": probes}
    return results
