"""What might foretell generalisation, on models whose numbers can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers.models import mlp
from lla_helpers.predictors import expected, flip_labels, margin, sharpness, weight_norm


def blobs(n=60, classes=10):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    return x, torch.randint(0, classes, (n,), generator=generator)


def test_exactly_that_share_of_labels_is_another_class():
    y = blobs(50)[1]
    noisy = flip_labels(y, 0.3, seed=1)
    assert (noisy != y).sum() == 15 and noisy.min() >= 0 and noisy.max() <= 9
    assert torch.equal(flip_labels(y, 0.3, seed=1), noisy)
    assert not torch.equal(flip_labels(y, 0.3, seed=2), noisy)
    assert torch.equal(flip_labels(y, 0.0), y) and (flip_labels(y, 1.0) != y).all()
    with pytest.raises(ValueError, match="0 to 1"):
        flip_labels(y, 1.1)


def test_expectation_over_noise_is_the_mean_over_noisy_labels():
    x, y = blobs(200)
    model = mlp([64, 12, 10], seed=3)
    draws = [flip_labels(y, 0.3, seed=s) for s in range(200)]
    accuracies = torch.tensor([expected(model, x, noisy)[0] for noisy in draws])
    losses = torch.tensor([expected(model, x, noisy)[1] for noisy in draws])
    accuracy, loss = expected(model, x, y, 0.3)
    # Four standard errors of the mean of 200 draws.
    assert abs(accuracies.mean() - accuracy) < 4 * accuracies.std() / math.sqrt(200)
    assert abs(losses.mean() - loss) < 4 * losses.std() / math.sqrt(200)
    plain = expected(model, x, y)
    assert plain[1] == pytest.approx(F.cross_entropy(model(x).double(), y).item(), rel=1e-9)
    assert plain[0] == (model(x).argmax(1) == y).double().mean().item()


def test_pure_noise_leaves_chance():
    x, y = blobs()
    # Nine labels in ten wrong: every class is as likely as any other.
    assert expected(mlp([64, 12, 10], seed=0), x, y, 0.9)[0] == pytest.approx(0.1)


def test_margin_by_hand():
    model = nn.Flatten()  # outputs are the inputs
    x = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [2.0, 2.5, 7.0]])
    # 3 - 2, 0 - 5, 2.5 - 7
    assert margin(model, x, torch.tensor([0, 0, 1])) == pytest.approx(-4.5)


def test_weight_norm_counts_what_is_trained():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(3.0)
    assert weight_norm(model) == pytest.approx(math.sqrt(4 * 4 + 2 * 9))
    model.bias.requires_grad_(False)
    assert weight_norm(model) == pytest.approx(4)
    with pytest.raises(ValueError, match="no parameter"):
        weight_norm(nn.Flatten())


def test_sharpness_of_a_logistic_model_is_its_largest_rise():
    """One weight w, inputs 1, logits (w, 0), label 0: L = log(1 + exp(-w)), highest at w - r."""

    class Logit(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))

        def forward(self, x):
            return torch.cat([self.w * x, 0 * x], 1)

    model, x, y = Logit(), torch.ones(5, 1).double(), torch.zeros(5, dtype=torch.long)
    rise = math.log1p(math.exp(-0.6)) - math.log1p(math.exp(-0.7))
    assert sharpness(model, x, y) == pytest.approx(rise, rel=1e-9)
    assert sharpness(model, x, y, radius=0.2) > 1.9 * rise
    assert model.w.item() == 0.7 and model.w.grad is None


def test_sharpness_beats_random_directions_and_leaves_the_model_alone():
    x, y = blobs()
    model = mlp([64, 12, 10], batch_norm=True, seed=0)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = sharpness(model, x, y, radius=0.5)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    start = F.cross_entropy(model(x), y).item()
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        d = torch.randn(flat.shape, generator=generator)
        nn.utils.vector_to_parameters(flat + 0.5 * d / d.norm(), model.parameters())
        assert F.cross_entropy(model(x), y).item() - start < found
    with pytest.raises(ValueError, match="radius"):
        sharpness(model, x, y, radius=0)
    with pytest.raises(ValueError, match="no parameter"):
        sharpness(nn.Flatten(), x, y)
