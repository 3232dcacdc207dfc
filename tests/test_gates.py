"""Frozen gates: the same function until the first gate would change, and no kink beyond it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers.exact import exact_hessian
from lla_helpers.gates import frozen_gates
from lla_helpers.models import cnn, mlp

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(20, 12, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 4, (20,), generator=GENERATOR)


def net(act: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(1)
    layers = (nn.Linear(12, 6), act or nn.ReLU(), nn.Linear(6, 5), copy.deepcopy(act) or nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(5, 4)).double()


def moved(model: nn.Module, step: float) -> nn.Module:
    """The model with every weight moved by `step` times the same normal number."""
    generator = torch.Generator().manual_seed(2)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p += step * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return other


@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardtanh(-0.2, 0.3)])
def test_same_function_and_hessian_here(act):
    model = net(act)
    frozen = frozen_gates(model, X)
    assert torch.allclose(model(X), frozen(X), atol=1e-14)
    both = [exact_hessian(m, F.cross_entropy, (X, Y)) for m in (model, frozen)]
    assert torch.allclose(*both, atol=1e-13)


def test_same_function_until_a_gate_changes_and_another_beyond():
    model = net()
    frozen = frozen_gates(model, X)
    near, far = 1e-6, 0.5  # no gate lies within 1e-6 of its kink; 0.5 is as large as the weights
    assert torch.allclose(moved(model, near)(X), moved(frozen, near)(X), atol=1e-14)
    assert (moved(model, far)(X) - moved(frozen, far)(X)).abs().max() > 0.01


def test_beyond_the_kinks_the_frozen_loss_is_smooth():
    """Second differences of a one-layer frozen network, which is linear in its weights."""
    model = nn.Sequential(nn.Linear(12, 6), nn.ReLU()).double()
    frozen = frozen_gates(model, X)
    bend = {}
    for name, m in (("kinked", model), ("frozen", frozen)):
        ends = moved(m, 2.0)(X) + moved(m, -2.0)(X) - 2 * m(X)
        bend[name] = ends.abs().max().item()
    assert bend["frozen"] < 1e-13 and bend["kinked"] > 0.1


def test_the_model_stays_as_it_is():
    model = net()
    model.train()
    before = copy.deepcopy(model.state_dict())
    frozen = frozen_gates(model, X)
    assert model.training and not frozen.training
    assert isinstance(model[1], nn.ReLU) and model[0].weight.grad is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    names = [n for n, _ in model.named_parameters()]
    assert [n for n, _ in frozen.named_parameters()] == names


def test_convolutions_with_average_pooling():
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    model = cnn((2, 2), 4, pool="avg")
    assert torch.allclose(model(x), frozen_gates(model, x)(x), atol=1e-6)  # float32


def test_other_samples_are_refused():
    frozen = frozen_gates(net(), X)
    with pytest.raises(ValueError, match="frozen on 20 samples"):
        frozen(X[:7])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (mlp((64, 4, 4), "tanh"), "no ReLU module"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.PReLU()), "applies prelu"),
        (cnn((2,), 4), "applies max_pool2d"),
    ],
    ids=["tanh", "prelu", "max-pooling"],
)
def test_what_cannot_be_frozen_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        frozen_gates(model, torch.randn(3, 1, 8, 8))


def test_functional_and_repeated_activations_are_refused():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act = nn.Linear(12, 12), nn.ReLU()

        def forward(self, x):
            return self.act(F.relu(self.layer(x)))

    class Repeated(Functional):
        def forward(self, x):
            return self.act(self.layer(self.act(self.layer(x))))

    with pytest.raises(ValueError, match="applies relu"):
        frozen_gates(Functional(), X.float())
    with pytest.raises(ValueError, match="used twice"):
        frozen_gates(Repeated(), X.float())


def test_one_module_in_two_places_has_two_gates():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(12, 4), shared, nn.Linear(4, 4), shared).double()
    assert torch.allclose(model(X), frozen_gates(model, X)(X), atol=1e-14)
