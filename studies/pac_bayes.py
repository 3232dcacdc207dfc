"""PAC-Bayes bounds on the digits: three posteriors, three learning rates, five seeds.

All certificates of one seed hold together: the bound is uniform over posteriors, and the nine
samplings of a training error share one delta'.
"""

from __future__ import annotations

from lla_helpers.models import mlp
from lla_helpers.pac_bayes import (
    DELTA_DRAWS,
    Posterior,
    certify,
    digits_for_bounds,
    optimise,
    sampled_error,
)
from lla_helpers.training import accuracy, train

WIDTHS = (64, 16, 10)
EPOCHS, STEPS = 3, 1200
POSTERIORS = {
    "diagonal": ("parameters", 0),
    "Kronecker, fixed": ("kronecker", 0),
    "Kronecker, recomputed": ("kronecker", STEPS // 10),
}
RATES = (0.01, 0.03, 0.1)


def items() -> dict[str, dict]:
    """Every posterior with every learning rate on every seed."""
    return {
        f"{name}, lr {lr:g}, seed {seed}": {"posterior": name, "lr": lr, "seed": seed}
        for seed in range(5)
        for name in POSTERIORS
        for lr in RATES
    }


def measure(posterior: str, lr: float, seed: int) -> dict:
    """The certificate, and errors on the test images (which no bound has seen)."""
    basis, every = POSTERIORS[posterior]
    x, y, x_test, y_test = digits_for_bounds(seed)
    initial, model = mlp(WIDTHS, seed=seed), mlp(WIDTHS, seed=seed)
    train(model, x, y, epochs=EPOCHS, lr=0.05, seed=seed)
    q = Posterior(model, initial, basis)
    q.rebase(x, y)
    optimise(q, x, y, steps=STEPS, lr=lr, rebase_every=every, seed=seed)
    found = certify(q, x, y, seed=seed, delta_draws=DELTA_DRAWS / (len(POSTERIORS) * len(RATES)))
    return {
        "steps": STEPS,
        "P": q.size,
        "bound": found.bound,
        "sampled error": found.sampled_error,
        "error bound": found.error_bound,
        "KL": found.kl,
        "lambda": found.variance,
        "excess": found.excess,
        "confidence": found.confidence,
        "test error of Q": sampled_error(q, x_test, y_test, 100, seed),
        "test error of the mean network": 1 - accuracy(q.mean_network(), x_test, y_test),
    }
