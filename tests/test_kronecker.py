"""Layer blocks against dense Gauss-Newton matrices and Hessians, factors against their product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers import Hessian, top_eigenpairs
from lla_helpers.kronecker import (
    Kronecker,
    first_singular_share,
    kronecker_factors,
    layer_block,
    layer_named,
    layer_terms,
    order,
    subspace_overlap,
)
from lla_helpers.models import mlp
from tests.zoo import Tied, batches, made


class InPlace(nn.Module):
    """Activations that overwrite the pre-activation, and layers without bias."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Tokens(nn.Module):
    """A dense layer that is applied at every position of a sequence."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)).mean(1))


class Strided(nn.Module):
    """A convolution with a stride, dilation, circular padding and no bias."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(
            2, 3, (2, 3), 2, padding=(1, 2), dilation=2, bias=False, padding_mode="circular"
        )
        self.b = nn.LazyLinear(3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)).flatten(1))


def own(module, *shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x, y = module(), torch.randn(23, *shape), torch.randint(0, 3, (23,))
        model(x[:2])
    return model, x, y


NETS = {
    "mlp-tanh": lambda: (*made("mlp-tanh"), "3"),
    "mlp-relu": lambda: (*made("mlp-relu"), "1"),
    "mlp-relu, last layer": lambda: (*made("mlp-relu"), "3"),
    "mlp-bn": lambda: (*made("mlp-bn"), "1"),
    "cnn-avg, first": lambda: (*made("cnn-avg"), "0"),
    "cnn-max, second": lambda: (*made("cnn-max"), "2"),
    "cnn-bn": lambda: (*made("cnn-bn"), "0"),
    "no bias, in place": lambda: (*own(InPlace, 4), "a"),
    "every position": lambda: (*own(Tokens, 6, 4), "a"),
    "strided": lambda: (*own(Strided, 2, 7, 8), "a"),
}
PIECEWISE_LINEAR = ("mlp-relu", "mlp-relu, last layer", "cnn-max, second", "cnn-bn", "strided",
                    "no bias, in place")  # fmt: skip


def in_layer_order(model, name, data, kind):
    """The block from the operator, in layer coordinates."""
    dense = Hessian(
        model, F.cross_entropy, data, params=f"{name}.*", kind=kind, dtype=torch.float64
    ).dense()
    index = order(layer_named(model, name))
    return dense[index][:, index]


@pytest.mark.parametrize("net", NETS)
def test_the_expectation_is_the_exact_block(net):
    model, x, y, name = NETS[net]()
    # Ragged batches, and a chunk size that does not divide them.
    block = layer_block(model, name, batches(x, y, 7), chunk_size=5, dtype=torch.float64)
    exact = in_layer_order(model, name, (x, y), "ggn")
    assert (block - exact).abs().max() < 1e-10 * exact.abs().max()
    hessian = in_layer_order(model, name, (x, y), "hessian")
    distance = (block - hessian).abs().max() / hessian.abs().max()
    if net in PIECEWISE_LINEAR:
        assert distance < 1e-10
    elif "last" not in net:
        assert distance > 1e-3  # smooth: the test could tell


def test_m_and_its_root_are_the_same_and_a_has_rank_classes_less_one():
    model, x, y = made("mlp-tanh")
    (terms,) = layer_terms(model, "1", (x, y), dtype=torch.float64)
    root = terms.root()[:, 0]
    assert (terms.m() - root.transpose(1, 2) @ root).abs().max() < 1e-14
    a = torch.diag_embed(terms.p) - terms.p[:, :, None] * terms.p[:, None]
    assert (torch.linalg.matrix_rank(a) == 2).all() and a.sum(-1).abs().max() < 1e-15
    assert (torch.linalg.matrix_rank(terms.m(), rtol=1e-10) <= 2).all()


@pytest.mark.parametrize("net", ["mlp-relu", "cnn-max, second", "every position"])
def test_factors_by_their_definition(net):
    """Sums over samples and positions written out, against the chunked products."""
    model, x, y, name = NETS[net]()
    (terms,) = layer_terms(model, name, (x, y), dtype=torch.float64)
    left, right = 0.0, 0.0
    n, positions = terms.x.shape[:2]
    for i in range(n):
        a = terms.p[i].diag() - torch.outer(terms.p[i], terms.p[i])
        for t in range(positions):
            left += terms.u[i, t].T @ a @ terms.u[i, t] / n
            right += torch.outer(terms.x[i, t], terms.x[i, t]) / (n * positions)
    factors = kronecker_factors(model, name, batches(x, y, 7), chunk_size=5, dtype=torch.float64)
    assert (factors.left - left).abs().max() < 1e-13 * left.abs().max()
    assert (factors.right - right).abs().max() < 1e-13 * right.abs().max()
    reduced = kronecker_factors(model, name, (x, y), sharing="reduce", dtype=torch.float64)
    same = (reduced.left - left).abs().max() < 1e-12
    assert same == (positions == 1)


def test_one_sample_and_one_position_have_nothing_to_drop():
    model, x, y = made("mlp-relu")
    one = (x[:1], y[:1])
    block = layer_block(model, "1", one, dtype=torch.float64)
    factors = kronecker_factors(model, "1", one, dtype=torch.float64)
    assert (block - factors.dense()).abs().max() < 1e-14


def test_a_linear_network_with_constant_m_factorises_exactly():
    """Zero weights: p = 1/C for every input, M is constant, and E[M (x) xx^T] splits."""
    model, x, y = made("mlp-relu")
    last = model[3]
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    block = layer_block(model, "3", (x, y), dtype=torch.float64)
    factors = kronecker_factors(model, "3", (x, y), dtype=torch.float64)
    assert (block - factors.dense()).abs().max() < 1e-14
    assert torch.allclose(factors.left, (torch.eye(3) / 3 - 1 / 9).double(), atol=1e-15)


def random_product(a=4, b=6, seed=0) -> Kronecker:
    g = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, n, generator=g, dtype=torch.float64) for n in (a, b))
    return Kronecker(left @ left.T, right @ right.T)


def test_eigenpairs_trace_and_products_are_those_of_the_dense_product():
    product = random_product()
    dense = product.dense()
    exact, basis = torch.linalg.eigh(dense)
    values, vectors = product.eigenpairs(24)
    assert torch.allclose(values, exact.flip(0), rtol=1e-11, atol=1e-11 * exact[-1])
    residual = dense @ vectors - vectors * values
    assert residual.abs().max() < 1e-12 * exact[-1]
    assert (vectors.T @ vectors - torch.eye(24)).abs().max() < 1e-12
    assert abs(product.trace() - exact.sum()) < 1e-11 * exact.sum()
    assert subspace_overlap(vectors[:, :5], basis.flip(1)[:, :5]) == pytest.approx(1, abs=1e-10)
    v = torch.randn(24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(product @ v, dense @ v)
    assert torch.allclose(product @ v[:, 0], dense @ v[:, 0])
    refused("v must be", product.__matmul__, v[:5])


def test_top_eigenpairs_takes_the_product_as_an_operator():
    product = random_product(5, 9)
    values, _ = top_eigenpairs(product, 4)
    assert values == pytest.approx(product.eigenpairs(4)[0].numpy(), rel=1e-8)


def test_the_block_agrees_with_the_operator_in_trace_and_top_eigenpairs():
    model, x, y = made("cnn-max")
    block = layer_block(model, "2", (x, y), dtype=torch.float64)
    H = Hessian(model, F.cross_entropy, (x, y), params="2.*", dtype=torch.float64)
    assert float(block.trace()) == pytest.approx(float(H.dense().trace()), rel=1e-10)
    values, vectors = top_eigenpairs(H, 3)
    moved = vectors[order(model[2])]
    residual = block @ moved - moved * torch.from_numpy(values)
    assert residual.norm(dim=0).max() < 1e-8 * values[0]


def test_overlap_in_closed_cases():
    eye = torch.eye(6, dtype=torch.float64)
    assert subspace_overlap(eye[:, :2], eye[:, 1:3]) == 0.5
    turned = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q
    assert subspace_overlap(eye[:, :2], eye[:, :2] @ turned) == pytest.approx(1)
    g = torch.Generator().manual_seed(0)
    draws = [
        subspace_overlap(
            *(torch.linalg.qr(torch.randn(30, 3, generator=g, dtype=torch.float64)).Q for _ in "ab")
        )
        for _ in range(400)
    ]
    # The mean of 400 draws, each with a standard deviation of about 0.05, against k / P = 0.1.
    assert sum(draws) / 400 == pytest.approx(0.1, abs=0.01)


def test_share_of_the_first_singular_value():
    u, v = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0, 3.0])
    assert first_singular_share(torch.outer(u, v).flatten(), (2, 3)) == pytest.approx(1)
    assert first_singular_share(torch.eye(4).flatten(), (4, 4)) == pytest.approx(0.25)


def test_nothing_of_the_model_changes():
    model, x, y = made("cnn-bn")
    model.train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    layer_block(model, "0", (x, y))
    kronecker_factors(model, "3", (x, y))
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def refused(why, call, *args, **options):
    with pytest.raises(ValueError, match=why) as found:
        call(*args, **options)
    assert "\n" not in str(found.value)


def test_bad_input_is_one_sentence():
    model, x, y = made("mlp-bn")
    data = (x, y)
    refused(r"no layer '11'; did you mean '1'\?", kronecker_factors, model, "11", data)
    refused("is a BatchNorm1d, which has no Kronecker factors", layer_block, model, "2", data)
    refused("is a Sequential", layer_block, model, "", data)
    refused("'expand' or 'reduce'", kronecker_factors, model, "1", data, sharing="both")
    refused("the data set is empty", layer_block, model, "1", (x[:0], y[:0]))
    refused("k = 7 eigenvectors of a layer of dimension 6", random_product(2, 3).eigenpairs, 7)
    refused("k = 0", random_product(2, 3).eigenpairs, 0)
    refused("k = True", random_product(2, 3).eigenpairs, True)
    one = mlp((4, 5, 1))
    refused("one class has no curvature", layer_block, one, "1", data)
    refused("runs 2 times", layer_block, Twice(), "inner", data)
    grouped = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(2, 3))
    refused("in 2 groups", layer_block, grouped, "0", data)
    refused("no parameters|no layer", layer_block, nn.Identity(), "a", data)
    wide = torch.eye(3)[:2].T
    refused("one shape", subspace_overlap, wide, torch.eye(3))
    refused("orthonormal", subspace_overlap, 2 * wide, wide)
    refused("orthonormal", subspace_overlap, wide * float("nan"), wide)
    refused("k = 3 eigenvectors", subspace_overlap, torch.ones(2, 3), torch.ones(2, 3))
    refused("does not fill", first_singular_share, torch.ones(5), (2, 3))
    refused("zero vector", first_singular_share, torch.zeros(6), (2, 3))
    convolution, images, labels = made("cnn-max")
    (terms,) = layer_terms(convolution, "0", (images, labels))
    refused("one position a sample", terms.m)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.inner(self.inner(x)))


def test_a_weight_that_two_layers_share_is_refused():
    model, x, y = own(Tied, 4)
    refused("'inner', 'outer' share one weight", layer_block, model, "inner", (x, y))
