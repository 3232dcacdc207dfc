"""Do the criteria follow the accuracy when the data change? Nine models, 22 test sets each.

What decides claim G4, laid down before the first run: within each model, the rank correlation over
the sets of r_e and of K_H0.5, taken on a set, with the accuracy on it; its mean over the models,
with Student's 95 % interval, is below -0.5 for both.
"""

from __future__ import annotations

from lla_helpers.family import ARCHITECTURES, Recipe, shift_rows

MODELS = 9
ACTIVATIONS = ("relu", "gelu", "tanh")


def items(first_seed: int = 0, models: int = MODELS) -> dict[str, dict]:
    """Every architecture with every activation, half of them with batch norm; seeds differ."""
    return {
        f"model {seed}": {
            "architecture": ARCHITECTURES[i % 3],
            "activation": ACTIVATIONS[(i // 3 + i) % 3],
            "batch_norm": bool(i % 2),
            "samples": 800,
            "epochs": 20,
            "seed": seed,
        }
        for i, seed in enumerate(range(first_seed, first_seed + models))
    }


def measure(**recipe) -> dict:
    return {"sets": shift_rows(Recipe(**recipe))}
