"""Does the estimated type agree with the type from all eigenvalues? 100 networks drawn by seed.

None of them had a part in choosing the thresholds. Everything about a network is drawn from its
number: architecture, activation, width, batch norm and its mode, data, optimizer, length of
training from none to converged, and the share of labels that are replaced when the spectrum is
taken. Some 400 to 1,100 parameters, so that every eigenvalue can be had in float64.

Fixed before the run: an estimate agrees when its label is the exact one, and also when it says
"undetermined" while the exact negative share lies within two of its standard errors of a threshold,
which is what error bars are for. A wrong label never agrees. The setting "plain" decides.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers import Hessian, criteria, hesd_type, slq
from lla_helpers.data import load_digits
from lla_helpers.exact import exact_density, exact_hessian
from lla_helpers.models import cnn, mlp
from lla_helpers.training import train

NETWORKS = 100
SETTINGS = {  # the book's usual one decides; the other shows what deflation adds
    "plain": {"steps": 80, "probes": 4},
    "deflated": {"steps": 80, "probes": 4, "deflate": 10},
}
# The largest learning rate of each optimizer; that of a network lies up to five times below.
RATES = {"sgd": 0.5, "momentum": 0.1, "nesterov": 0.1, "adagrad": 0.05}
RATES |= {name: 0.02 for name in ("adam", "adamw", "rmsprop")}


def items() -> dict[str, dict]:
    return {f"network {number:03}": {"number": number} for number in range(NETWORKS)}


def drawn(number: int) -> dict:
    """What network `number` is: names and numbers only."""
    rng = np.random.default_rng([2025, number])

    def one(*choices):
        return choices[rng.integers(len(choices))]

    kind = "cnn" if rng.random() < 0.1 else "mlp"  # convolutions take twenty times as long
    batch_norm = bool(rng.random() < 0.4)
    optimizer = str(rng.choice(list(RATES)))
    return {
        "kind": kind,
        "act": one("relu", "leaky_relu", "tanh", "tanh", "gelu", "softplus"),
        "width": int(rng.integers(6, 13)) if kind == "mlp" else 3,
        "depth": int(one(1, 2)),
        "batch_norm": batch_norm,
        "mode": one("eval", "train") if batch_norm else "eval",
        "samples": int(one(150, 300, 500)) if kind == "mlp" else 100,
        "optimizer": optimizer,
        "lr": float(f"{RATES[optimizer] * 10 ** rng.uniform(-0.7, 0):.3g}"),
        "weight_decay": float(one(0.0, 0.001)),
        "epochs": int(one(0, 3, 10, 40, 80)),
        "replaced": float(one(0.0, 0.0, 0.1, 0.5, 1.0)),
    }


def built(it: dict, number: int) -> nn.Module:
    options = {"batch_norm": it["batch_norm"], "seed": number}
    width = it["width"]
    if it["kind"] == "mlp":
        return mlp((64, *[width] * it["depth"], 10), it["act"], **options)
    return cnn([width] * it["depth"], 6, it["act"], pool="avg", **options)


def replaced_labels(y: Tensor, share: float, seed: int) -> Tensor:
    """Labels of which this share, in a random place, is drawn anew from the other classes."""
    generator = torch.Generator().manual_seed(seed)
    y, chosen = y.clone(), torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    shift = torch.randint(1, 10, (len(chosen),), generator=generator)
    y[chosen] = (y[chosen] + shift) % 10
    return y


def measure(number: int) -> dict:
    it = drawn(number)
    digits = load_digits(number, test_share=1 - it["samples"] / 1797)
    x, y = digits.x_train, digits.y_train
    model = built(it, number)
    options = {name: it[name] for name in ("epochs", "lr", "optimizer", "weight_decay")}
    train(model, x, y, **options, seed=number)
    data = (x, replaced_labels(y, it["replaced"], number))
    spectrum = torch.linalg.eigvalsh(
        exact_hessian(model, F.cross_entropy, data, mode=it["mode"])
    ).numpy()
    truth = criteria(exact_density(spectrum))
    H = Hessian(model, F.cross_entropy, data, mode=it["mode"])
    found = {"parameters": len(spectrum), "loss": rounded(H.loss()), "exact": numbers(truth)}
    for name, setting in SETTINGS.items():
        found[name] = numbers(criteria(slq(H, **setting, seed=number)))
    return {**it, **found}


def numbers(c) -> dict:
    """The type, and what it was decided by."""
    kind = hesd_type(c)
    return {
        "type": kind.label,
        "singular": kind.quasi_singular,
        "nu": rounded(c.negative_share.value),
        "nu_se": rounded(c.negative_share.stderr),
        "rank": rounded(c.effective_rank.value),
        "rank_se": rounded(c.effective_rank.stderr),
    }


def agrees(row: dict, setting: str) -> bool:
    """The rule of this study, for one of its rows."""
    exact, found = row["exact"], row[setting]
    if found["type"] == exact["type"]:
        return True
    gap = min(abs(exact["nu"] - threshold) for threshold in (0.25, 0.5))
    return found["type"] == "undetermined" and gap < 2 * found["nu_se"]


def rounded(x: float) -> float | None:
    return float(f"{x:.5g}") if math.isfinite(x) else None
