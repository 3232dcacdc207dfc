"""A family of small trained classifiers: one recipe, one model, one row of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers.data import Split, load_digits, load_fonts
from lla_helpers.density import slq
from lla_helpers.hesd import criteria, hesd_type
from lla_helpers.hessian import Hessian
from lla_helpers.models import cnn, mlp
from lla_helpers.pipelines import fitted
from lla_helpers.predictors import expected, flip_labels, margin, sharpness, weight_norm
from lla_helpers.shifts import shifted_sets
from lla_helpers.training import train

# Learning rates were set on other seeds, so that every optimiser trains every architecture.
LEARNING_RATES = {"sgd": 0.2, "momentum": 0.05, "adam": 0.005, "adamw": 0.005, "rmsprop": 0.002}
ARCHITECTURES = ("one hidden layer", "two hidden layers", "convolutional")
STEPS, PROBES = 30, 6


@dataclass(frozen=True)
class Recipe:
    """All that makes a model: the same recipe gives the same weights on the same machine."""

    architecture: str = "two hidden layers"
    width: int = 16
    activation: str = "relu"
    batch_norm: bool = False
    optimizer: str = "momentum"
    weight_decay: float = 0.0
    label_noise: float = 0.0
    samples: int = 400
    epochs: int = 30
    seed: int = 0


def build(recipe: Recipe) -> nn.Sequential:
    """The untrained network; `width` is that of its hidden layers. A CNN has fewer channels."""
    options = {"batch_norm": recipe.batch_norm, "seed": recipe.seed}
    if recipe.architecture == "convolutional":
        channels = (recipe.width // 8, recipe.width // 4)
        return cnn(channels, recipe.width, recipe.activation, **options)
    if recipe.architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {recipe.architecture!r}; known: {ARCHITECTURES}")
    hidden = [recipe.width] if recipe.architecture == ARCHITECTURES[0] else [recipe.width] * 2
    return mlp([64, *hidden, 10], recipe.activation, **options)


def trained(recipe: Recipe) -> tuple[nn.Sequential, tuple[Tensor, Tensor], Split]:
    """The trained network, its training images with the labels it saw, and the whole split."""
    if recipe.optimizer not in LEARNING_RATES:
        known = ", ".join(LEARNING_RATES)
        raise ValueError(f"no learning rate for the optimiser {recipe.optimizer!r}; known: {known}")
    split = load_digits(recipe.seed)
    x = split.x_train[: recipe.samples]
    y = flip_labels(split.y_train[: recipe.samples], recipe.label_noise, seed=recipe.seed)
    model = build(recipe)
    train(
        model,
        x,
        y,
        epochs=recipe.epochs,
        batch_size=32,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        optimizer=recipe.optimizer,
        lr=LEARNING_RATES[recipe.optimizer],
    )
    return model, (x, y), split


def typefaces(seed: int) -> tuple[Tensor, Tensor]:
    """All 1500 printed digits, sent through the pipeline of the handwritten ones of this seed."""
    own = fitted("standardised", load_digits(seed, pipeline="none").x_train)
    fonts = load_fonts(seed, pipeline=own)
    return torch.cat([fonts.x_train, fonts.x_test]), torch.cat([fonts.y_train, fonts.y_test])


def spectrum(model: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> dict:
    """The criteria of one data set, with standard errors, and the type; always 30 x 6 products."""
    c = criteria(slq(Hessian(model, F.cross_entropy, (x, y)), STEPS, PROBES, seed=seed))
    kind = hesd_type(c)
    names = ("r_e", "k_hn", "negative_share", "effective_rank", "lambda_max", "trace")
    numbers = {name: getattr(c, name) for name in names}
    return {
        "type": kind.label,
        "quasi_singular": kind.quasi_singular,
        **{name: short(e.value) for name, e in numbers.items()},
        "stderr": {name: short(e.stderr) for name, e in numbers.items()},
    }


def short(x: float) -> float:
    """Six digits: more would differ between any two machines."""
    return float(f"{x:.6g}")


def row_of(recipe: Recipe) -> dict:
    """Everything about one model that the question of generalisation needs.

    gap: training accuracy on the labels as trained less the expected accuracy on the test images
        with equally noisy labels. loss_gap: the same of the loss, test less training.
    test_accuracy: on clean labels. typeface_accuracy: on printed digits, which no model was
        trained on. spectrum, test_spectrum: see `spectrum`. The other numbers are
    taken on the training part. The test spectrum is that of 200 test images.
    """
    model, (x, y), split = trained(recipe)
    noise = round(recipe.label_noise * len(x)) / len(x)
    train_accuracy, train_loss = expected(model, x, y)
    noisy_accuracy, noisy_loss = expected(model, split.x_test, split.y_test, noise)
    numbers = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gap": train_accuracy - noisy_accuracy,
        "loss_gap": noisy_loss - train_loss,
        "test_accuracy": expected(model, split.x_test, split.y_test)[0],
        "typeface_accuracy": expected(model, *typefaces(recipe.seed))[0],
        "train_accuracy": train_accuracy,
        "train_loss": train_loss,
        "sharpness": sharpness(model, x, y),
        "weight_norm": weight_norm(model),
        "margin": margin(model, x, y),
    }
    return {
        **{name: short(value) for name, value in numbers.items()},
        "spectrum": spectrum(model, x, y, recipe.seed),
        "test_spectrum": spectrum(model, split.x_test[:200], split.y_test[:200], recipe.seed),
    }


def shift_rows(recipe: Recipe, images: int = 200) -> list[dict]:
    """One model on 22 test sets of `images` images each: accuracy, loss and spectrum of each."""
    model, _, split = trained(recipe)
    printed = tuple(part[:images] for part in typefaces(recipe.seed))
    sets = shifted_sets(split.x_test[:images], split.y_test[:images], recipe.seed)
    rows = []
    for name, (x, y) in {**sets, "typefaces": printed}.items():
        accuracy, loss = expected(model, x, y)
        rows.append(
            {"set": name, "accuracy": short(accuracy), "loss": short(loss)}
            | spectrum(model, x, y, recipe.seed)
        )
    return rows
