"""Does the trace penalty generalise better? Six ways to train, tuned with one budget.

Each way gets eight settings, each run on three tuning seeds; the setting with the best mean
validation accuracy is trained anew on ten other seeds and only then tested. Plain training spends
its eight on the learning rate, the others two learning rates times four strengths. A run that
diverges counts as accuracy 0. All of this was fixed before the first final run.

500 images train, 578 validate, 719 test, another split for every seed. Network 64-16-16-16-10,
ReLU, 40 epochs of 25 steps, momentum 0.9, the learning rate divided by ten after epoch 25. The
penalty starts after epoch 15, on every 50th step, with 3 probes (code of Sankar et al. 2021);
"all 5" is the same on every 5th step. "middle" is the middle half of the parameter tensors.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from lla_helpers import Hessian, top_eigenpairs
from lla_helpers.data import load_digits
from lla_helpers.models import mlp
from lla_helpers.regularize import TracePenalty, middle, plain, train_by
from lla_helpers.sam import SharpnessAware
from lla_helpers.trace import hutchpp_trace
from lla_helpers.training import accuracy

SAMPLES, EPOCHS, DROP = 500, 40, 25
TUNING_SEEDS, FINAL_SEEDS = (100, 101, 102), tuple(range(10))
TWO_RATES = (0.01, 0.02)
GRIDS = {
    "plain": list(product((0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04), (0.0,))),
    "L2": list(product(TWO_RATES, (1e-4, 1e-3, 3e-3, 1e-2))),
    "SAM": list(product(TWO_RATES, (0.02, 0.05, 0.1, 0.2))),
    "all": list(product(TWO_RATES, (1e-3, 3e-3, 1e-2, 3e-2))),
    "middle": list(product(TWO_RATES, (1e-3, 1e-2, 3e-2, 1e-1))),
    "all 5": list(product(TWO_RATES, (1e-4, 1e-3, 3e-3, 1e-2))),
}


def items() -> dict[str, dict]:
    return {way: {"way": way} for way in GRIDS}


def measure(way: str) -> dict:
    tuning = []
    for lr, strength in GRIDS[way]:
        found = [trained(way, lr, strength, seed)[1] for seed in TUNING_SEEDS]
        tuning.append(
            {"lr": lr, "strength": strength, "validation": rounded(np.mean(found)), "runs": found}
        )
    best = max(tuning, key=lambda row: row["validation"])
    finals = [final(way, best["lr"], best["strength"], seed) for seed in FINAL_SEEDS]
    return {"tuning": tuning, "lr": best["lr"], "strength": best["strength"], "finals": finals}


def trained(way: str, lr: float, strength: float, seed: int):
    """The trained model, its validation accuracy (0 where it diverged), and the data."""
    digits = load_digits(seed, 0.4)
    model = mlp((64, 16, 16, 16, 10), seed=seed)
    x, y = digits.x_train[:SAMPLES], digits.y_train[:SAMPLES]
    gradient, decay = plain, 0.0
    if way == "L2":
        decay = strength
    elif way == "SAM":
        gradient = SharpnessAware(strength)
    elif way != "plain":
        params = middle(model) if way.startswith("middle") else None
        every = 5 if way.endswith("5") else 50
        gradient = TracePenalty(strength, params, every=every, seed=seed)
    options = {"epochs": EPOCHS, "batch_size": 20, "weight_decay": decay, "seed": seed}
    try:
        train_by(gradient, model, x, y, lr=lambda e: lr if e < DROP else lr / 10, **options)
    except FloatingPointError:
        return model, 0.0, digits
    held_out = digits.x_train[SAMPLES:], digits.y_train[SAMPLES:]
    return model, rounded(accuracy(model, *held_out)), digits


def final(way: str, lr: float, strength: float, seed: int) -> dict:
    model, validation, digits = trained(way, lr, strength, seed)
    H = Hessian(model, F.cross_entropy, (digits.x_train[:SAMPLES], digits.y_train[:SAMPLES]))
    with torch.no_grad():
        test_loss = F.cross_entropy(model(digits.x_test), digits.y_test).item()
    return {
        "seed": seed,
        "validation": validation,
        "test": rounded(accuracy(model, digits.x_test, digits.y_test)),
        "test_loss": rounded(test_loss),
        "train_loss": rounded(H.loss()),
        "trace": rounded(hutchpp_trace(H, 150, seed=seed)[0]),
        "middle_trace": rounded(hutchpp_trace(H.block(middle(model)), 150, seed=seed)[0]),
        "lambda_max": rounded(top_eigenpairs(H, 1, seed=seed)[0][0]),
    }


def rounded(x: float) -> float:
    return float(f"{x:.6g}")
