"""Networks and their rescaled twins: how far apart every kind of loss-landscape plot draws them.

For each architecture and seed: train, rescale by one factor a layer and by one a filter without
changing the function, draw the plane of each method for all three, and take the distances. Beside
them, with batch norm: the distance between the plots in eval mode and with statistics collected
anew, and, as a ruler, the distance to a network trained from another seed.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F

from lla_helpers.data import load_digits
from lla_helpers.landscape import plane
from lla_helpers.models import cnn, resnet
from lla_helpers.training import accuracy, train
from lla_helpers.twins import (
    Axes,
    Method,
    bn_twin,
    plot_distance,
    relu_twin,
    twin_distances,
)

SEEDS = 6
GRID = np.linspace(-0.5, 0.5, 7)
NETS = {
    "convolutions, BN": lambda seed: cnn((4, 6), 12, batch_norm=True, seed=seed),
    "residual, BN": lambda seed: resnet(6, 1, seed=seed),
    "convolutions, no BN": lambda seed: cnn((4, 6), 12, seed=seed),
}
METHODS = {
    "random, none": Method("gaussian"),
    "random, weight": Method("gaussian", "weight"),
    "random, filter": Method("gaussian", "filter"),
    "random, filter, L1": Method("gaussian", "filter", norm=1),
    "random, filter, 1-D kept": Method("gaussian", "filter", "keep"),
    "random, filter, 1-D by element": Method("gaussian", "filter", "element"),
    "random, filter, 1-D zeroed": Method("gaussian", "filter", "zero"),
    "random, layer": Method("gaussian", "layer"),
    "random, model": Method("gaussian", "model"),
    "uniform, filter": Method("uniform", "filter"),
    "Hessian, none": Method("hessian"),
    "Hessian, weight": Method("hessian", "weight"),
    "Hessian, filter": Method("hessian", "filter"),
    "Hessian, layer": Method("hessian", "layer"),
    "Hessian, model": Method("hessian", "model"),
    "Hessian, in units of curvature": Method("curvature"),
    "relative Hessian, filter": Method("relative", "filter"),
    "relative Hessian, weight": Method("relative", "weight"),
}
RULED = ("random, filter", "Hessian, none", "relative Hessian, filter")


def items() -> dict[str, dict]:
    return {f"{net}, {seed}": {"net": net, "seed": seed} for net in NETS for seed in range(SEEDS)}


def trained(net: str, seed: int):
    """The network, and the 100 images that its plots are drawn on."""
    digits = load_digits(seed)
    x, y = digits.x_train[:500], digits.y_train[:500]
    model = NETS[net](seed)
    train(model, x, y, epochs=15, lr=0.02, batch_size=25, seed=seed)
    return model, (x[:100], y[:100]), accuracy(model, digits.x_test, digits.y_test)


def measure(net: str, seed: int) -> dict:
    model, data, share = trained(net, seed)
    other, _, _ = trained(net, seed + 1000)
    twin_of = relu_twin if net.endswith("no BN") else bn_twin
    twins = {family: twin_of(model, family, seed=seed) for family in ("layer", "filter")}
    found = twin_distances(METHODS, model, twins, F.cross_entropy, data, GRID, seed=seed)
    ruled = {name: METHODS[name] for name in RULED}
    ruler = twin_distances(ruled, model, {"other": other}, F.cross_entropy, data, GRID, seed=seed)
    stale = {}
    if twin_of is bn_twin:
        own = Axes(model, F.cross_entropy, data, seed)
        for name in RULED:
            axes, unit = own(METHODS[name])
            planes = [
                plane(model, F.cross_entropy, data, unit * axes, GRID, mode=mode)
                for mode in ("recalibrate", "eval")
            ]
            stale[name] = plot_distance(*planes)
    return {"accuracy": share, **found, "other network": ruler["other"], "stale": stale}
