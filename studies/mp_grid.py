"""Types of spectra for every optimizer on every embedded data set: the grid of chapter `mp_hesd`.

8 optimizers x 3 data sets x 5 seeds, tanh networks, at the recipe of `lla_helpers.recipes`: 720
training images, 20 epochs; the spectrum on the first 200 of them. About two minutes on one core.
"""

from __future__ import annotations

from lla_helpers.datasets import EMBEDDED, load
from lla_helpers.hesd import criteria, hesd_type
from lla_helpers.recipes import RATES, fit, network, spectrum
from lla_helpers.training import accuracy

SEEDS = range(5)


def items() -> dict[str, dict]:
    return {
        f"{dataset}-{optimizer}-{seed}": {"dataset": dataset, "optimizer": optimizer, "seed": seed}
        for dataset in EMBEDDED
        for optimizer in RATES
        for seed in SEEDS
    }


def measure(
    dataset: str, optimizer: str, seed: int, samples: int = 720, epochs: int = 20, subset: int = 200
) -> dict:
    data = load(dataset, seed)
    x, y = data.x_train[:samples], data.y_train[:samples]
    model = network(dataset, "tanh", seed)
    losses = fit(model, x, y, optimizer, epochs=epochs, seed=seed)
    c = criteria(spectrum(model, x[:subset], y[:subset], seed=seed))
    return {
        "loss": losses[-1],
        "test_accuracy": accuracy(model, data.x_test, data.y_test),
        "nu": c.negative_share.value,
        "nu_stderr": c.negative_share.stderr,
        "effective_rank": c.effective_rank.value,
        "r_e": c.r_e.value,
        "lambda_max": c.lambda_max.value,
        "type": hesd_type(c).label,
    }
