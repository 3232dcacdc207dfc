"""Time per vector and of a whole SLQ: ours, the installed peers, and imitations of methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks import nets
from benchmarks.imitations import IMITATIONS
from benchmarks.timing import Call, Seconds, apart, fastest, interleaved, ratio, spread
from lla_helpers import Hessian
from lla_helpers import slq as our_slq
from tests.traps.adapter import Adapter, NotOffered, Ours
from tests.traps.problems import Problem

OURS = Ours.name
BLOCK = 8

# name: (what makes the call in its process, the vectors in a call)
Makes = dict[str, tuple[Callable[[], Call], int]]


def vectors(problem: Problem, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(problem.size, count, generator=generator)


def our_product(problem: Problem, count: int) -> Call:
    op = Hessian(problem.model, problem.loss, problem.batches)
    v = vectors(problem, count).T.contiguous().T  # each vector in one piece, as in slq
    return lambda: op @ v


def product(adapter: Adapter, problem: Problem, count: int) -> Call:
    adapter.prepare(problem)
    multiply, v = adapter.operator(problem), vectors(problem, count)
    v = v[:, 0] if count == 1 else v
    return lambda: multiply(v)


def imitation(name: str, problem: Problem) -> Call:
    make, count = IMITATIONS[name]
    work, v = make(problem), vectors(problem, count)
    return lambda: work(v)


def product_makes(problem: Problem, adapters: list[Adapter]) -> Makes:
    """Prepared products. Ours takes as many columns as slq would send."""
    makes: Makes = {}
    for adapter in adapters:
        if adapter.name.endswith("mended"):
            continue  # it differs in the density alone
        if isinstance(adapter, Ours):
            own = nets.fresh(problem)
            count = Hessian(own.model, own.loss, own.batches).block_size
            makes[OURS] = partial(our_product, problem, count), count
            continue
        makes[adapter.name] = partial(product, adapter, problem, 1), 1
        if adapter.columns:
            columns = f"{adapter.name}, {BLOCK} columns"
            makes[columns] = partial(product, adapter, problem, BLOCK), BLOCK
    return makes


def imitation_makes(problem: Problem, only: str | None = None) -> Makes:
    return {
        name: (partial(imitation, name, problem), count)
        for name, (_, count) in IMITATIONS.items()
        if only in (None, name)
    }


def per_vector(makes: Makes, rounds: int, least_seconds: float, tell) -> Seconds:
    with apart({name: make for name, (make, _) in makes.items()}, tell) as timers:
        found = interleaved(timers, rounds, least_seconds, tell)
    return {name: [s / makes[name][1] for s in values] for name, values in found.items()}


def summary(found: Seconds, base: str | None = None) -> dict:
    """Milliseconds of each, over `base`, and ours over the fastest peer."""
    if OURS not in found:
        raise RuntimeError(f"{OURS} itself could not be timed; the reason is told above")
    peers = [name for name in found if name not in (OURS, *IMITATIONS)]
    best = fastest(found, peers)
    return {
        "rounds": len(next(iter(found.values()))),
        "ms": {name: spread(1e3 * s for s in values) for name, values in found.items()},
        "over_gradient": {name: ratio(found, name, base) for name in found}
        if base in found
        else {},
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
        makes = product_makes(problem, adapters) | imitation_makes(problem, only)
        found = per_vector(makes, rounds, least_seconds, lambda t, n=name: tell(f"{n}: {t}"))
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
                makes = product_makes(nets.fresh(problem, held(problem, size)), adapters)
                found = per_vector(
                    makes, rounds, least_seconds, lambda t, n=label: tell(f"{n}: {t}")
                )
                results[label] = summary(found)
    return results


def whole_slq(adapter: Adapter, problem: Problem, steps: int, probes: int) -> Call:
    """A whole SLQ from the bare model: what the library prepares is part of it."""

    def call(steps=steps, probes=probes):
        own = nets.fresh(problem)
        adapter.prepare(own)
        if isinstance(adapter, Ours):
            return our_slq(Hessian(own.model, own.loss, own.batches), steps, probes)
        return adapter.slq(own, steps, probes)

    call(2, 1)  # imports, and what PyTorch sets up once
    return call


def whole_drawing(adapter: Adapter, problem: Problem, steps: int, probes: int) -> Call:
    adapter.plotted(nets.fresh(problem), 2, 1)
    return lambda: adapter.plotted(nets.fresh(problem), steps, probes)


def whole(adapters, names, rounds: int, steps: int, probes: int, tell) -> dict:
    """A whole SLQ, preparation included. curvlinops counts twice: with and without its bounds."""
    results = {}
    for name in names:
        problem = nets.make(name)
        makes = {}
        for adapter in adapters:
            try:
                adapter.slq(nets.fresh(problem), 2, 1)
            except (NotOffered, RuntimeError) as error:
                tell(f"{adapter.name} has no SLQ here: {str(error).splitlines()[0]}")
                continue
            makes[adapter.name] = partial(whole_slq, adapter, problem, steps, probes)
            if adapter.name == "curvlinops":
                drawing = partial(whole_drawing, adapter, problem, steps, probes)
                makes["curvlinops with bounds"] = drawing
        with apart(makes, tell) as timers:
            found = interleaved(timers, rounds, tell=lambda t, n=name: tell(f"{n}: {t}"))
        results[name] = {**summary(found), "steps": steps, "probes": probes}
    return results
