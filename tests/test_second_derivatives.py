"""Own gradients of gradients against PyTorch's, in double precision, and where they are used."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lla_helpers import Hessian
from lla_helpers.graphs import nodes
from lla_helpers.second_derivatives import Layer, LayerGradient, ReLU, ShortestWay, convolution
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


def large_layers(H: Hessian, at_once: int = 1) -> Hessian:
    """The operator of a small network made to do what those of large ones do."""
    H.at_once, H.view.own_layers, H.view.one_by_one = at_once, True, at_once == 1
    return H


one_by_one_or_in_blocks = pytest.mark.parametrize("at_once", [1, 3])


@pytest.mark.parametrize(
    ("name", "params"),
    [(name, None) for name in CONVOLUTIONS]
    + [("padded", params) for params in ("0.weight", "2.*", "5.*", ["0.*", "5.bias"])],
    ids=str,
)
@one_by_one_or_in_blocks
def test_the_hessian_is_that_of_pytorch(name, params, at_once):
    model, data = network(build(name)), samples(2, 6, 6)
    model(data[0])  # the lazy layer learns its size
    H = large_layers(Hessian(model, nn.functional.cross_entropy, data, params=params), at_once)
    assert at_once == 1 or H.takes_blocks
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


class Between(nn.Module):
    """Two linear layers and a ReLU, and `between(z)` of what goes from the first into the ReLU."""

    def __init__(self, between):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.first, self.second = nn.Linear(6, 5).double(), nn.Linear(5, 5).double()
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.second(self.first(x))))


def reversing(z: torch.Tensor) -> torch.Tensor:
    if z.requires_grad:
        z.register_hook(torch.neg)
    return torch.relu(z)


def rectified_in_place(z: torch.Tensor) -> torch.Tensor:
    return torch.relu_(z)


# What passes from a layer into its ReLU may be changed, watched or used elsewhere.
BETWEENS = {
    "a ReLU": torch.relu,
    "a ReLU in place": rectified_in_place,
    "scaled in place": lambda z: torch.relu(z.mul_(1.5)),
    "used twice": lambda z: torch.relu(z) + z.sin(),
    "two ReLUs": lambda z: torch.relu(z) * torch.relu(z),
    "a reversing hook": reversing,
    "a view": lambda z: torch.relu(z.view(-1)).view_as(z),
    "nothing": lambda z: z,
}


@pytest.mark.parametrize("name", BETWEENS)
@pytest.mark.parametrize("params", [None, "first.*", "*.weight", "second.bias"], ids=str)
@one_by_one_or_in_blocks
def test_whatever_comes_between_a_layer_and_its_relu(name, params, at_once):
    """The same layer is met twice, and its own output is the input of its second use."""
    x, y = samples(6)
    model = Between(BETWEENS[name])
    ours, theirs = (
        Hessian(model, nn.functional.cross_entropy, (x, y), params=params) for _ in "ab"
    )
    assert not theirs.view.own_layers
    assert relative_error(large_layers(ours, at_once).dense(), theirs.dense()) < 1e-12
    assert ours.at_once == at_once


@one_by_one_or_in_blocks
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_a_loss_without_curvature_leaves_what_the_network_has(kind, at_once):
    """The absolute error is linear in the outputs: nothing comes back to the last layer but debts.

    The Hessian is that of sum_n s_n f(x_n), and the Gauss-Newton matrix is zero.
    """
    x, _ = samples(6)
    model = Between(torch.relu)
    y = torch.zeros(5, 5, dtype=torch.float64)
    H = large_layers(Hessian(model, nn.functional.l1_loss, (x, y), kind=kind), at_once)
    exact = Flat(model, nn.functional.l1_loss, [(x, y)], names=H.names).hessian()
    assert exact.norm() > 0.1
    error = (H.dense() - (exact if kind == "hessian" else 0)).norm()
    assert error < 1e-12 * exact.norm()


@one_by_one_or_in_blocks
def test_the_gauss_newton_matrix_is_that_of_pytorch(at_once):
    model, data = network(build("padded")), samples(2, 6, 6)
    model(data[0])
    ours, theirs = (Hessian(model, nn.functional.cross_entropy, data, kind="ggn") for _ in "ab")
    assert relative_error(large_layers(ours, at_once).dense(), theirs.dense()) < 1e-12


class Odd(nn.Module):
    """A layer that is evaluated without gradients, or whose input is written to after its use."""

    def __init__(self, written: bool):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 256)
            self.last = nn.Linear(256, 10)
        self.written = written

    def forward(self, x):
        h = torch.relu(self.first(x))
        with torch.set_grad_enabled(self.written):
            h = h.clone()
            z = self.second(h)
        if self.written:
            h.mul_(2)
        return self.last(h + torch.relu(z))


@pytest.mark.parametrize("written", [False, True])
def test_a_relu_is_no_part_of_a_layer_that_it_does_not_come_from(written):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 64, generator=generator)
    y = torch.randint(0, 10, (600,), generator=generator)
    model, loss = Odd(written), nn.functional.cross_entropy
    # PyTorch refuses to differentiate by a weight whose input has been written over.
    H = Hessian(model, loss, (x, y), params=["first.*", "second.bias", "last.*"])
    assert H.view.own_layers
    v = torch.randn(H.shape[0], generator=generator)
    other = Hessian(model, loss, (x, y), params=["first.*", "second.bias", "last.*"])
    other.view.own_layers = False
    # float32: 600 terms in another order.
    assert relative_error(H @ v, other @ v) < 1e-5


def test_an_input_written_to_after_its_use_is_refused_as_by_pytorch():
    """A ReLU joined to that layer would be differentiated by the weights with the new input."""
    x, w = samples(3)[0].clone(), torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    with ShortestWay():
        z = nn.functional.linear(x, w)
        x.mul_(2)
        y = torch.relu(z)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), w, create_graph=True)


class Suspicious(nn.Sequential):
    def forward(self, x):
        z = super().forward(x)
        assert z.grad_fn is None or "Addmm" in z.grad_fn.name(), "what is this graph?"
        return z


def test_a_model_that_knows_its_graph_keeps_it():
    x, y = torch.ones(600, 64), torch.zeros(600, dtype=torch.long)
    model = Suspicious(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    assert not Hessian(model, nn.functional.cross_entropy, (x, y)).view.own_layers


def test_two_gradients_of_one_pass_are_not_mixed():
    w = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    with ShortestWay():
        y = nn.functional.linear(samples(3)[0], w)
    torch.autograd.grad(y.sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="second gradient"):
        torch.autograd.grad(y.pow(2).sum(), w, create_graph=True)


class Checkpointed(nn.Module):
    """Activations of the first layers are computed again in the backward pass."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.first = nn.Sequential(nn.Linear(64, 256), nn.ReLU())
            self.last = nn.Linear(256, 10)

    def forward(self, x):
        return self.last(torch.utils.checkpoint.checkpoint(self.first, x, use_reentrant=False))


def test_where_they_do_not_fit_in_pytorchs_are_taken():
    """A checkpoint rebuilds the graph outside of the mode that put our layers into it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 64, generator=generator)
    y = torch.randint(0, 10, (2000,), generator=generator)
    model = Checkpointed()
    H = Hessian(model, nn.functional.cross_entropy, (x, y))
    assert H.at_once == 1 and not H.view.own_layers
    plain = nn.Sequential(*model.first, model.last)
    v = torch.randn(H.shape[0], generator=generator)
    other = Hessian(plain, nn.functional.cross_entropy, (x, y))
    assert other.view.own_layers
    # float32: 2000 terms in another order.
    assert relative_error(H @ v, other @ v) < 1e-5


def test_a_third_derivative_is_an_error():
    """What is ours is written over, so a further derivative could only be wrong."""
    x = samples(3)[0].requires_grad_()
    w = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    with ShortestWay():
        y = nn.functional.linear(x, w).pow(3).sum()
    (g,) = torch.autograd.grad(y, w, create_graph=True)
    with pytest.raises(RuntimeError, match="no third one"):
        torch.autograd.grad(g.sum(), x, create_graph=True)


def test_what_is_not_covered_is_left_to_pytorch():
    x, w = torch.ones(1, 3, 3), torch.ones(1, 1, 2, 2)
    assert convolution(True, x, w) is None  # one sample without its batch
    assert convolution(True, x[None], w, padding="same") is None
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


def test_they_are_used_but_where_most_vectors_share_a_walk():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 16, 16, 16, generator=generator)
    y = torch.randint(0, 3, (512,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 3))
    H = Hessian(model, nn.functional.cross_entropy, (x, y))
    assert H.view.own_layers
    assert Hessian(model, nn.functional.cross_entropy, (x, y), kind="ggn").view.own_layers
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    of_little = Hessian(small, nn.functional.cross_entropy, (x[:40, 0, :4], y[:40]))
    assert of_little.at_once == 16 and not of_little.view.own_layers
    v = torch.randn(H.shape[0], generator=generator)
    found = H @ v
    H.graphs.clear()
    H.view.own_layers = False
    # float32: a sum over 512 x 196 terms in another order.
    assert relative_error(found, H @ v) < 1e-5
    assert H.check().notes == ()  # no custom function of somebody else's


def test_the_walk_goes_through_ours():
    """Without this, the tests above would pass with PyTorch's own derivatives, too."""
    model, data = network(build("padded")), samples(2, 6, 6)
    model.insert(4, nn.Tanh())
    model.insert(5, nn.ReLU())  # one that follows no layer
    model(data[0])
    H = large_layers(Hessian(model, nn.functional.cross_entropy, data))
    outputs = H.view(H.view.theta, data[0])
    gradient = torch.autograd.grad(outputs.sum(), list(H.view.theta.values()), create_graph=True)
    used = [getattr(node, "_forward_cls", None) for node in nodes([outputs])]
    assert (used.count(Layer), used.count(ReLU)) == (3, 1)  # two ReLUs are one with their layers
    used = [getattr(node, "_forward_cls", None) for node in nodes(gradient)]
    assert used.count(LayerGradient) == 3


@pytest.mark.parametrize("params", [None, "*.bias"], ids=str)
def test_the_cap_counts_what_our_layers_keep(params):
    """Ours keep the gradients that they hand over. For biases alone PyTorch's way is as short."""
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(2000) % 10
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 10)
        )
    H = Hessian(model, nn.functional.cross_entropy, (x, y), params=params)
    assert H.view.own_layers
    assert H.one_chunk == pytest.approx(H.bytes_per_sample() * H.batches.longest)
    theirs = Hessian(model, nn.functional.cross_entropy, (x, y), params=params)
    theirs.view.own_layers = False
    more = H.bytes_per_sample() / theirs.bytes_per_sample()
    assert more == pytest.approx(1) if params else more > 1.2
