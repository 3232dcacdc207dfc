"""One rank of the job that test_ranks.py starts: its shard, its operator, what it found."""

import os
import sys

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from lla_helpers import Hessian, slq
from lla_helpers.data import load_digits
from lla_helpers.models import cnn

SAMPLES = 301


def operator(first: int, last: int, seed: int = 0) -> Hessian:
    data = load_digits(dtype=torch.float64)
    model = cnn((3, 4), 8, "tanh", batch_norm=True, seed=seed).double()
    return Hessian(model, F.cross_entropy, (data.x_train[first:last], data.y_train[first:last]))


def report(h: Hessian) -> dict[str, np.ndarray]:
    v = torch.randn(h.shape[0], 2, generator=torch.Generator().manual_seed(1)).double()
    density = slq(h, steps=20, probes=2)
    return {
        "product": (h @ v).numpy(),
        "gradient": h.gradient().numpy(),
        "loss": np.array(h.loss()),
        "nodes": density.nodes,
        "weights": density.weights,
    }


def main(out: str, what: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    # Unequal on purpose: the first rank has a handful of samples, the others share the rest.
    cuts = [0, 7, *np.linspace(7, SAMPLES, ranks).astype(int)[1:].tolist()]
    h = operator(cuts[rank], cuts[rank + 1], seed=rank if what == "weights" else 0)
    if what == "death" and rank == 1:
        os._exit(9)
    found = report(h)
    if rank == 0:
        np.savez(out, **found)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
