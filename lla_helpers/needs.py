"""What a run of `your_model` needs, from the model itself and one product on a few samples.

`python -m lla_helpers.needs CHAPTER` is how `run --dry-run` asks: it reads a JSON list of parameter
values, and answers with the seconds that `yardstick` takes here and, for `your_model`, an entry a
list item. It is a process of its own because a model may be any code of the reader's.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F

from lla_helpers import Hessian
from lla_helpers.bring import (
    Part,
    bring_data,
    bring_device,
    bring_loss,
    bring_model,
    found,
    named,
    suits,
)
from lla_helpers.data import load_digits
from lla_helpers.hessian import suitable_chunk
from lla_helpers.models import mlp
from lla_helpers.torchvision_data import load_torchvision

GIB = 2**30
PROCESS = 0.4  # GiB of a kernel with PyTorch and Matplotlib
# Shape of a sample, classes, training samples, and MB to download, of the sets of torchvision.
SETS = {
    "mnist": ((1, 28, 28), 10, 60_000, 12),
    "fashion_mnist": ((1, 28, 28), 10, 60_000, 31),
    "svhn": ((3, 32, 32), 10, 73_257, 246),
    "cifar10": ((3, 32, 32), 10, 50_000, 170),
    "cifar100": ((3, 32, 32), 100, 50_000, 169),
}
MODEL = ("model", "model_args", "weights", "data", "data_args", "loss", "samples", "side", "params")
MODEL += ("mode", "device", "seed")


def seconds_of(what: Callable[[], object], rounds: int = 3, device: str = "cpu") -> float:
    """The least time of a few calls: a core's own, so that others hardly count, or a GPU's."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken = []
    for _ in range(rounds):
        start = clock()
        what()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(clock() - start)
    return min(taken)


def yardstick() -> float:
    """Seconds of 200 gradients of the book's small MLP on all digits: how fast is this machine?"""
    data, model = load_digits(), mlp()
    leaves = list(model.parameters())

    def gradients() -> None:
        for _ in range(200):
            torch.autograd.grad(F.cross_entropy(model(data.x_train), data.y_train), leaves)

    gradients()
    return seconds_of(gradients)


@dataclass(frozen=True)
class Measured:
    """A model, and what one sample costs: bytes of its graph, seconds of what is done with it."""

    layers: tuple[int, ...]  # parameters of each layer, the largest first
    samples: int
    sample_bytes: int
    graph_bytes: float
    forward: float
    first_pass: float
    product: float
    orthogonalise: float  # seconds to take one Lanczos vector out of another
    data: str
    device: str

    @property
    def size(self) -> int:
        return sum(self.layers)


def your_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The needs of one set of values: "seconds", "gib", "products", "where", "rows"; or "rows".

    Where model, data or loss is refused, the row "a run" has the sentence that a run ends with.
    """
    try:
        m = measured(*(values[name] for name in MODEL))
    except (ValueError, TypeError, OSError) as error:
        return {"rows": {"a run": f"would end with: {error}"}}
    n = products(values, m.layers)
    memory = memory_of(values, m)
    seconds = m.samples * (n * per_product(memory, m) + values["grid"] ** 2 * m.forward)
    probes, steps = 2 * values["probes"], min(values["steps"], m.size)
    seconds += probes * steps**2 / 2 * m.orthogonalise
    model = f"{m.size:,} parameters, {m.size * 4 / 2**20:,.1f} MiB a vector"
    return {
        "where": "one core here" if m.device == "cpu" else f"{m.device} here",
        "seconds": seconds,
        "gib": memory["total"],
        "products": round(n),
        "rows": {"model": f"{values['model']}: {model}", "data": m.data},
    }


def products(values: Mapping[str, Any], layers: tuple[int, ...]) -> float:
    """Hessian-vector products of the chapter on one part's samples, at most.

    `slq` takes three to check its operator. A product on a quarter of the samples counts a quarter,
    one with a layer's block counts whole.
    """
    size, steps, probes = sum(layers), values["steps"], values["probes"]

    def slq(m: int, k: int, p: int = size) -> int:
        return 3 + min(m, p) * k

    top = min(values["top"], size)
    both_parts = 2 * slq(steps, probes)
    extremes = 2 * max(4 * steps, 8 * top)
    blocks = sum(slq(20, probes, p) for p in layers[: values["layers"]])
    quarters = slq(min(steps, 40), 2)
    habits = slq(max(steps // 2, 2), probes) + min(steps, 40)
    return both_parts + extremes + blocks + 2 + quarters + habits


def memory_of(values: Mapping[str, Any], m: Measured) -> dict[str, float]:
    """GiB at the peak: data, kept graphs of both parts, and the vectors of the hungriest step."""
    cap, vector = values["memory"] * GIB, 4 * m.size
    chunk = m.samples
    if values["mode"] == "eval":
        chunk = min(suitable_chunk(m.graph_bytes, cap / 2), m.samples)
    one, count = m.graph_bytes * chunk, math.ceil(m.samples / chunk)
    fit = int(cap / 2 / max(one, 1))
    kept = count if fit >= count else max(fit - 1, 0)
    graphs = one * min(kept + 1, count)
    top = min(values["top"], m.size)
    krylov = vector * (min(m.size, max(2 * top + 20, 40)) + top)
    lanczos = min(cap - graphs, 4 * vector * min(values["steps"], m.size))  # the rest is on disk
    peak = 2 * m.samples * m.sample_bytes + 2 * graphs + max(krylov, lanczos) + 10 * vector
    return {"total": PROCESS + peak / GIB, "kept": kept / count}


def per_product(memory: Mapping[str, float], m: Measured) -> float:
    """Seconds a sample: graphs that do not fit are built again, for one vector of a large model."""
    return m.product + (1 - memory["kept"]) * m.first_pass


@cache
def measured(
    model: str,
    model_args: str,
    weights: str,
    data: str,
    data_args: str,
    loss: str,
    samples: int,
    side: int,
    params: str | None,
    mode: str,
    device: str,
    seed: int,
) -> Measured:
    place = bring_device(device)
    model, model_args, weights = named(model, model_args, weights)
    net = bring_model(model, model_args, found(weights), seed).to(place)
    loss_fn = bring_loss(loss)
    part, total, told = some_data(data, data_args, samples, side, seed)
    few = min(len(part.x), 64)
    part = Part(part.name, part.x[:few].to(place), part.y[:few].to(place))
    suits(net, loss_fn, part)
    x, y = part.x, part.y
    timed = partial(seconds_of, device=place.type)
    with torch.no_grad():
        net(x[:2])
        forward = timed(lambda: net(x[:2])) / 2
    few = max(2, min(few, int(0.2 / max(forward, 1e-9))))
    x, y = x[:few], y[:few]
    H = Hessian(net, loss_fn, (x, y), params=params, mode=mode)
    v = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(0)).to(H.dtype)
    whole = timed(lambda: H @ v, 1)  # keeps the graphs, if they fit
    product = timed(lambda: H @ v)
    with torch.no_grad():
        forward = timed(lambda: net(x))
    return Measured(
        layers=layer_sizes(H),
        samples=total,
        sample_bytes=x[0].nbytes,
        graph_bytes=H.bytes_per_sample(),
        forward=forward / few,
        first_pass=max(whole - product, 0.0) / few,
        product=product / few,
        orthogonalise=orthogonalisation(H.shape[0], place.type),
        data=told,
        device=place.type,
    )


def some_data(
    name: str, arguments: str, samples: int, side: int, seed: int
) -> tuple[Part, int, str]:
    """Samples to time with, how many a run would have, and a sentence about the data.

    Images of torchvision's sets that are not there are stood in for by random ones of their shape.
    """
    try:
        part = bring_data(found(name), arguments, samples, seed, side)[0]
        return part, len(part.x), f"{name}: there, {len(part.x):,} samples"
    except FileNotFoundError as error:
        if name not in SETS:
            raise
        shape, classes, total, megabytes = SETS[name]
        shape = (shape[0], side, side) if side else shape
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(64, *shape, generator=generator)
        y = torch.randint(classes, (64,), generator=generator)
        told = f"not there; a run would end with: {error} ({megabytes} MB to download)"
        return Part("training", x, y), min(samples, total), told


def layer_sizes(H: Hessian) -> tuple[int, ...]:
    """Parameters of each layer (the module that a parameter belongs to), the largest first."""
    sizes: dict[str, int] = {}
    for name, p in H.view.theta.items():
        module = name.rpartition(".")[0] or name
        sizes[module] = sizes.get(module, 0) + p.numel()
    return tuple(sorted(sizes.values(), reverse=True))


def orthogonalisation(size: int, device: str, vectors: int = 4) -> float:
    """Seconds to take one vector's component along another out of it, as `Basis` does."""
    basis, w = torch.ones(1, vectors, size, device=device), torch.ones(1, size, 1, device=device)
    once = seconds_of(lambda: torch.bmm(torch.bmm(basis, w).transpose(1, 2), basis), device=device)
    return once / vectors


def sets_of(every: Sequence[Mapping[str, Any]]) -> str:
    """The sets of torchvision that some values name, and the sentence that a run would end with."""
    values = [v for values in every for v in values.values()]
    items = [item for v in values for item in (v if isinstance(v, list) else [v])]
    named = [name for name in SETS if name in items]
    missing: dict[str, Exception] = {}
    for name in named:
        try:
            load_torchvision(name, train_samples=1, test_samples=1)
        except (FileNotFoundError, ValueError) as error:
            missing[name] = error
    if not missing:
        return f"{', '.join(named)}: there" if named else ""
    megabytes = sum(SETS[name][3] for name in missing)
    error = next(iter(missing.values()))
    size = f"{megabytes} MB to download"
    return f"{', '.join(missing)}: not there, {size}; a run would end with: {error}"


def main(chapter: str) -> None:
    torch.set_num_threads(int(os.environ.get("LLA_THREADS", "1")))
    every = json.load(sys.stdin)
    answer = {"yardstick": yardstick(), "needs": [], "sets": ""}
    if chapter != "your_model":  # which says more of its one data set
        answer["sets"] = sets_of(every)
    if chapter == "your_model":
        answer["needs"] = [your_model(values) for values in every]
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
