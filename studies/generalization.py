"""Do the criteria foretell generalisation? Trained models, their spectra, simpler numbers, the gap.

Every factor of a recipe is drawn independently, so the models are a sample of the population that
LEVELS describes, and an interval over models is one for that population.

What decides claim H9, laid down before the first run: models whose spectrum on the training part is
mainly positive; rank correlation with the accuracy gap, of either sign; r_e and K_H0.5 each have to
pass three conditions, with bootstrap intervals over models at 1 - 0.05/6 each.
    |rho| > 0.3;  rho with loss, size, batch norm and activation held > 0, in the direction of rho;
    |rho| larger than that of the training loss, by a paired interval.
"""

from __future__ import annotations

import numpy as np

from lla_helpers.family import ARCHITECTURES, LEARNING_RATES, Recipe, row_of

MODELS = 48
LEVELS = {
    "architecture": ARCHITECTURES,
    "width": (8, 16, 32),
    "activation": ("relu", "tanh", "gelu"),
    "batch_norm": (False, True),
    "optimizer": tuple(LEARNING_RATES),
    "weight_decay": (0.0, 1e-3, 1e-2),
    "label_noise": (0.0, 0.1, 0.3),
    "samples": (100, 200, 400),
    "epochs": (20, 80),
}


def items(first_seed: int = 0, models: int = MODELS) -> dict[str, dict]:
    """Model number -> its recipe; the seed of a recipe is the model's number, too."""
    found = {}
    for seed in range(first_seed, first_seed + models):
        # The first draw of a generator is the same in every version of NumPy.
        draws = np.random.RandomState(seed).random_sample(len(LEVELS))
        chosen = {
            name: levels[int(u * len(levels))]
            for (name, levels), u in zip(LEVELS.items(), draws, strict=True)
        }
        found[f"model {seed}"] = {**chosen, "seed": seed}
    return found


def measure(**recipe) -> dict:
    return row_of(Recipe(**recipe))
