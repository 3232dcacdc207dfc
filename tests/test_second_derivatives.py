"""Own gradients of gradients against PyTorch's, in double precision, and where they are used."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lla_helpers import Hessian
from lla_helpers.graphs import nodes
from lla_helpers.second_derivatives import OURS, ShortestWay, convolution
from tests.reference import Flat

CONVOLUTIONS = {
    "padded": lambda: nn.Conv2d(2, 4, 3, padding=1),
    "strided, no bias": lambda: nn.Conv2d(2, 4, 3, stride=2, bias=False),
    "dilated": lambda: nn.Conv2d(2, 4, 2, dilation=2, padding=(1, 0)),
    "grouped": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "padding by name": lambda: nn.Conv2d(2, 4, 3, padding="same"),
    "reflected": lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
}


def network(first: nn.Module, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            first, nn.ReLU(), nn.Conv2d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
        ).double()


def samples(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 0, 1])


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def large_layers(H: Hessian) -> Hessian:
    """The operator of a small network made to do what those of large ones do."""
    H.at_once, H.view.layers_are_large = 1, True
    return H


@pytest.mark.parametrize(
    ("name", "params"),
    [(name, None) for name in CONVOLUTIONS]
    + [("padded", params) for params in ("0.weight", "2.*", "5.*", ["0.*", "5.bias"])],
    ids=str,
)
def test_the_hessian_is_that_of_pytorch(name, params):
    model, data = network(build(name)), samples(2, 6, 6)
    model(data[0])  # the lazy layer learns its size
    H = large_layers(Hessian(model, nn.functional.cross_entropy, data, params=params))
    exact = Flat(model, nn.functional.cross_entropy, [data], names=H.names).hessian()
    # Both sum some hundred terms in double precision, in different order.
    assert relative_error(H.dense(), exact) < 1e-12


def build(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return CONVOLUTIONS[name]()


@pytest.mark.parametrize("dimensions", [1, 3])
def test_other_dimensions(dimensions):
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[dimensions]
    model, data = nn.Sequential(), samples(2, *[4] * dimensions)
    for layer in (kind(2, 3, 2), nn.ReLU(), kind(3, 2, 2), nn.Flatten(), nn.LazyLinear(3)):
        model.append(layer)
    model = model.double()
    model(data[0])
    H = large_layers(Hessian(model, nn.functional.cross_entropy, data))
    exact = Flat(model, nn.functional.cross_entropy, [data], names=H.names).hessian()
    assert relative_error(H.dense(), exact) < 1e-12


def test_third_derivatives_go_through():
    x = samples(2, 4, 4)[0].requires_grad_()
    w = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    w.requires_grad_()

    def gradients(x, w):
        with ShortestWay():
            y = nn.functional.relu(nn.functional.conv2d(x, w)).pow(3).sum()
        return torch.autograd.grad(y, (x, w), create_graph=True)

    assert torch.autograd.gradgradcheck(gradients, (x, w))


def test_what_is_not_covered_is_left_to_pytorch():
    x, w = torch.ones(1, 3, 3), torch.ones(1, 1, 2, 2)
    assert convolution(x, w) is None  # one sample without its batch
    assert convolution(x[None], w, padding="same") is None
    with ShortestWay():
        assert torch.equal(nn.functional.conv2d(x, w), 4 * torch.ones(1, 2, 2))
        negative = torch.tensor([-1.0])
        nn.functional.relu(negative, inplace=True)
    assert negative == 0


def test_infinities_pass_as_through_pytorchs():
    x = torch.tensor([-torch.inf, -1.0, 0.0, 2.0, torch.inf, torch.nan])
    with ShortestWay():
        found = nn.functional.relu(x)
    assert torch.equal(found.nan_to_num(-7.0), torch.relu(x).nan_to_num(-7.0))


def test_they_are_used_where_layers_are_large_and_change_nothing_else():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 16, 16, 16, generator=generator)
    y = torch.randint(0, 3, (512,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 3))
    H = Hessian(model, nn.functional.cross_entropy, (x, y))
    assert H.view.layers_are_large
    assert not Hessian(model, nn.functional.cross_entropy, (x, y), kind="ggn").view.layers_are_large
    assert not Hessian(model, nn.functional.cross_entropy, (x[:4], y[:4])).view.layers_are_large
    v = torch.randn(H.shape[0], generator=generator)
    found = H @ v
    H.graphs.clear()
    H.view.layers_are_large = False
    # float32: a sum over 512 x 196 terms in another order.
    assert relative_error(found, H @ v) < 1e-5
    assert H.check().notes == ()  # no custom function of somebody else's


def test_the_walk_is_theirs():
    """Without this, the tests above would pass with PyTorch's own derivatives, too."""
    model, data = network(build("padded")), samples(2, 6, 6)
    model(data[0])
    H = large_layers(Hessian(model, nn.functional.cross_entropy, data))
    outputs = H.view(H.view.theta, data[0])
    functions = {getattr(node, "_forward_cls", None) for node in nodes([outputs])}
    assert {OURS[0], OURS[1]} <= functions
