"""Is it a symmetric matrix? Honest operators pass in either precision, tampered ones do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers import Hessian, slq
from lla_helpers.models import cnn
from lla_helpers.validity import Validity, check_operator
from tests import reference
from tests.zoo import ZOO, made

CE = F.cross_entropy
DTYPES = [torch.float32, torch.float64]


class Operator:
    def __init__(self, apply, size=40, dtype=torch.float64):
        self.apply, self.shape, self.dtype = apply, (size, size), dtype

    def __matmul__(self, v):
        return self.apply(v)


A = torch.from_numpy(reference.symmetric(np.linspace(-1, 3, 40)))
SKEW = torch.triu(torch.ones_like(A), 1)
SKEW = (SKEW - SKEW.T) / SKEW.norm()


@pytest.mark.parametrize("share", [1e-4, 1e-2, 1.0])
def test_asymmetry_is_measured_relative_to_the_operator(share):
    """|u.Av - v.Au| / |(Av, Au)| is of the order of the antisymmetric share of the matrix."""
    for scale in (1e-9, 1.0, 1e9):
        found = [
            check_operator(scale * (A + share * A.norm() * SKEW), seed=s).asymmetry
            for s in range(20)
        ]
        assert share / 3 < np.sqrt(np.mean(np.square(found))) < 3 * share
        assert check_operator(scale * A).asymmetry < 1e-15 * 10


@pytest.mark.parametrize(
    ("apply", "reason"),
    [
        (lambda v: (A + 0.05 * A.norm() * SKEW) @ v, "not symmetric"),
        (lambda v: A @ v.clamp(-1, 1), "not linear"),
        (lambda v: A @ v + 1e-3, "not linear"),
        (lambda v: A @ v / v.norm(), "not linear"),
        (lambda v: A @ v * torch.nan, "not symmetric"),
    ],
    ids=["skew", "clamp", "affine", "normalised", "nan"],
)
def test_what_is_no_symmetric_matrix_is_told_why(apply, reason):
    found = check_operator(Operator(apply))
    assert any(reason in fault for fault in found.faults())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matrices_pass_and_so_does_the_zero_operator(dtype):
    for matrix in (A, 0 * A, torch.eye(40), 1e-30 * A, torch.tensor([[2.0]])):
        assert check_operator(matrix.to(dtype)).faults() == ()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_honest_hessians_pass(name, dtype):
    model, x, y = made(name)
    modes = ["eval", "train"] if "bn" in name else ["eval"]
    for mode in modes:
        found = Hessian(model, CE, (x, y), mode=mode, dtype=dtype).check()
        assert found.faults() == () and found.notes == ()
        assert found.gradient_error < 1e-5


def test_an_honest_float32_cnn_passes_although_it_rounds():
    """Batch norm in train mode is off by 3e-6 and more in float32: that is rounding."""
    torch.manual_seed(0)
    model = cnn((4, 8), 16, "gelu", batch_norm=True)
    x, y = torch.randn(100, 1, 8, 8), torch.randint(0, 10, (100,))
    for mode in ("eval", "train"):
        for seed in range(3):
            assert Hessian(model, CE, (x, y), mode=mode).check(seed).faults() == ()


def test_an_exact_minimum_has_an_honest_gradient():
    """There the slope of the loss is rounding alone, and says nothing against the gradient."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, 1, dtype=torch.float64)
    model = nn.Linear(4, 1).double()
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(30, 1).double()], 1), y).solution
    with torch.no_grad():
        model.weight.copy_(solution[:4].T)
        model.bias.copy_(solution[4])
    H = Hessian(model, nn.MSELoss(), (x, y))
    assert H.gradient().norm() < 1e-12
    assert H.check().faults() == ()


class Reverse(torch.autograd.Function):
    """The gradient-reversal layer of domain-adversarial training."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


class Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-1e-3, 1e-3)


class Tampered(nn.Module):
    def __init__(self, function, where):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.function, self.where = function, where

    def forward(self, x):
        h = torch.tanh(self.inner(x))
        if self.where == "middle":
            h = self.function.apply(h)
        z = self.head(h)
        return self.function.apply(z) if self.where == "logits" else z


@pytest.mark.parametrize("function", [Reverse, Clamp])
@pytest.mark.parametrize("where", ["middle", "logits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_that_is_tampered_with_inside_the_graph_is_found(function, where, dtype):
    """Also where the operator is symmetric: the gradient is not that of the loss."""
    torch.manual_seed(0)
    model = Tampered(function, where)
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    H = Hessian(model, CE, (x, y), dtype=dtype)
    faults = H.check().faults()
    assert any("gradient is not that of the loss" in fault for fault in faults)
    assert any(function.__name__ in fault for fault in faults)
    assert slq(H, 5, 2).validity.faults()


def test_hooks_are_named_and_alone_no_fault():
    """A hook on a parameter shapes training; the operator is functional and never runs it."""
    model, x, y = made("mlp-tanh")
    handles = [
        model[1].weight.register_hook(lambda g: -g),
        model[3].register_full_backward_hook(lambda module, grads, out: None),
    ]
    found = Hessian(model, CE, (x, y)).check()
    assert any("1.weight has a gradient hook" in note for note in found.notes)
    assert any("module 3 has a backward hook" in note for note in found.notes)
    assert found.faults() == ()
    for handle in handles:
        handle.remove()
    assert Hessian(model, CE, (x, y)).check().notes == ()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_module_hook_that_changes_the_gradient_is_a_fault(dtype):
    model, x, y = made("mlp-tanh")
    model[3].register_full_backward_hook(lambda module, grads, out: tuple(-g for g in grads))
    faults = Hessian(model, CE, (x, y), dtype=dtype).check().faults()
    assert any("gradient is not that of the loss" in fault for fault in faults)
    assert any("module 3" in fault for fault in faults)


def test_tolerances_follow_the_precision():
    assert Validity(1e-7, 1e-7).faults() == ()
    assert len(Validity(1e-5, 1e-5).faults()) == 2
    assert Validity(1e-5, 1e-5, precision=1.2e-7).faults() == ()
    assert len(Validity(1e-3, 1e-3, precision=1.2e-7).faults()) == 2
    assert len(Validity(1e-3, 1e-3, precision=2e-16).faults()) == 2
    assert Validity(1e-5, 1e-5).faults(tolerance=1e-4) == ()
    assert len(Validity(0.0, 0.0, gradient_error=0.01).faults()) == 1
    assert Validity(0.0, 0.0, gradient_error=math.nan).faults() == ()
    assert Validity(0.0, 0.0, notes=("hook",)).faults() == ()
    assert Validity(1.0, 0.0, notes=("hook",)).faults()[-1] == "hook"


class Untracked(torch.autograd.Function):
    """sin with the right derivative, which hides that it depends on x."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = x.detach().cos()
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


class Tracked(Untracked):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Bent(nn.Module):
    def __init__(self, function):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x):
        return self.last(torch.relu(self.function.apply(3 * self.first(x))))


def some_samples(n=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, generator=generator), torch.arange(n) % 3


@pytest.mark.parametrize(("function", "honest"), [(Tracked, True), (Untracked, False)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_hessian_that_is_not_the_gradients_derivative_is_told(function, honest, dtype):
    """Symmetric, linear, and the gradient is right: only differences of gradients show it."""
    found = Hessian(Bent(function), CE, some_samples(), dtype=dtype).check()
    assert found.gradient_error < 1e-5 and found.asymmetry < 1e-4
    assert (found.product_error < 1e-5) == honest
    assert bool(found.faults()) != honest
    if not honest:
        assert "not the derivative of the gradient" in found.faults()[0]


@pytest.mark.parametrize("factor", [1, 4.5, 5, 6])
def test_a_network_without_loss_left_is_not_accused(factor):
    """log(1 + e^-z) rounds to multiples of eps, however small it is: here down to a loss of 3e-13.

    Steps that are too short then see steps, not slopes; they cannot agree on a slope either.
    """
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 5, generator=generator)
    y = (x[:, 0] > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(600):
        optimizer.zero_grad()
        CE(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        model[2].weight.mul_(factor)
        model[2].bias.mul_(factor)
    H = Hessian(model, CE, (x, y))
    if factor == 6:
        assert H.loss() < 1e-11
    assert H.check().faults() == ()


def test_in_half_precision_a_matrix_that_is_not_symmetric_is_still_found():
    """1000 eps would be 1 in float16 and 8 in bfloat16: nothing could fail."""
    for dtype in (torch.float16, torch.bfloat16):
        honest = check_operator(A.to(dtype))
        assert honest.faults() == ()
        assert "not symmetric" in check_operator((A.norm() * SKEW).to(dtype)).faults()[0]


def test_the_padding_row_of_an_embedding_is_a_constant():
    """PyTorch gives it no gradient, though the loss depends on it: that is no manipulation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Embedding(6, 4, padding_idx=0), nn.Flatten(), nn.Tanh(), nn.Linear(12, 3)
        )
        model[0].weight.data[0] = 1.0
    x = torch.arange(60).reshape(20, 3) % 6
    H = Hessian(model, CE, (x, torch.arange(20) % 3))
    assert H.check().faults() == ()
    assert not H.dense()[:4].any()


def test_the_padding_row_is_found_under_the_name_of_a_tied_weight():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 6, bias=False)
            self.embedding = nn.Embedding(6, 4, padding_idx=0)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(torch.tanh(self.embedding(x)).mean(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tied()
    x = torch.arange(60).reshape(20, 3) % 6
    found = Hessian(model, CE, (x, torch.arange(20) % 6)).check()
    # The head does change with that row: its gradient lacks only the embedding's part.
    assert found.gradient_error < 1e-3 and found.faults() == ()


class Rounding(nn.Module):
    """A part of the network computes in float32 whatever it is asked for."""

    def __init__(self, factor):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(5, 32), nn.Linear(32, 3)
        self.factor = factor

    def forward(self, x):
        h = self.first(x)
        z = self.last(torch.relu(h.to(torch.float32).to(h.dtype)))
        return Scaled.apply(z, self.factor)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return ctx.factor * g, None


@pytest.mark.parametrize("seed", range(5))
def test_rounding_hides_no_manipulation(seed):
    """Short steps see the rounding of float32 alone; judged is by those that agree best."""
    honest, scaled = (Hessian(Rounding(f), CE, some_samples()) for f in (1.0, 1.1))
    assert honest.check(seed).faults() == ()
    assert scaled.check(seed).gradient_error > 0.05
