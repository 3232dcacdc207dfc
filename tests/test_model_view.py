"""A model as a function of chosen parameters: names, vectors, kernels, and what is put back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from lla_helpers import Hessian
from lla_helpers.model_view import (
    Arranging,
    ModelView,
    choose,
    in_mode,
    same_random_state,
    twice_differentiable,
)
from lla_helpers.models import mlp
from tests.zoo import ZOO, made

NAMES = ["1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias"]


def net():
    return mlp((4, 5, 4, 3), "tanh")


@pytest.mark.parametrize(
    ("params", "chosen"),
    [
        (None, NAMES),
        ("*", NAMES),
        ("*.bias", NAMES[1::2]),
        (["5.*", "1.bias"], ["1.bias", "5.weight", "5.bias"]),
        ("[13].weight", ["1.weight", "3.weight"]),
        (("1.*", "1.weight"), NAMES[:2]),
    ],
    ids=str,
)
def test_globs_choose_in_the_models_order(params, chosen):
    view = ModelView(net(), params)
    assert list(view.theta) == chosen
    assert sorted([*view.theta, *view.fixed]) == sorted(NAMES)
    assert view.size == sum(p.numel() for p in view.theta.values())
    assert all(p.requires_grad and p.is_leaf for p in view.theta.values())
    assert not any(p.requires_grad for p in view.fixed.values())


@pytest.mark.parametrize(
    ("params", "near"),
    [
        ("1.wieght", "near: 1.weight"),
        ("5.biases", "near: 5.bias"),
        ("qqq", "there are: 1.weight, 1.bias"),
        (["1.*", "fc*"], "'fc\\*'"),
    ],
    ids=str,
)
def test_an_unknown_name_suggests_a_near_one(params, near):
    with pytest.raises(ValueError, match=f"no parameter is named.*{near}"):
        choose(dict(net().named_parameters()), params)


def test_frozen_parameters_only_on_request():
    model = net()
    model[1].requires_grad_(False)
    assert list(ModelView(model).theta) == NAMES[2:]
    assert list(ModelView(model, "1.*").theta) == NAMES[:2]


def test_vectors_and_tensors_are_one():
    view = ModelView(net(), dtype=torch.float64)
    vector = torch.randn(view.size, dtype=torch.float64)
    tensors = view.unflatten(vector)
    assert [t.shape for t in tensors] == [p.shape for p in view.theta.values()]
    assert torch.equal(view.flatten(tensors), vector)
    # The order is that of PyTorch's own utility.
    flat = nn.utils.parameters_to_vector(net().parameters()).double()
    assert torch.equal(view.flatten(view.theta.values()), flat)


@pytest.mark.parametrize("name", ZOO)
def test_the_view_computes_what_the_model_computes(name):
    """Also through the kernels that stand in for PyTorch's fused ones."""
    model, x, _ = made(name)
    view = ModelView(model)
    with torch.no_grad():
        torch.testing.assert_close(view(view.theta, x), model(x))


def test_a_snapshot_a_part_of_it_and_its_conversion():
    model, x, _ = made("mlp-bn")
    view = ModelView(model)
    before = view(view.theta, x).detach()
    part = view.restricted("5.*") if "5.weight" in view.theta else view.restricted("*.bias")
    double = view.converted(torch.float64)
    with torch.no_grad():
        for tensor in (*model.parameters(), model[2].running_mean, model[2].running_var):
            tensor.add_(1.0)
    assert torch.equal(view(view.theta, x), before)
    assert torch.equal(part(part.theta, x), before)
    assert set(part.theta) | set(part.fixed) == set(view.theta) and part.size < view.size
    assert not any(p.requires_grad for p in part.fixed.values())
    again = double(double.theta, x.double())
    assert again.dtype == torch.float64
    torch.testing.assert_close(again.float(), before)
    assert all(p.is_leaf and p.requires_grad for p in double.theta.values())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_module_gets_its_own_mode_back(mode, fails):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model.train()
    model[1][1].eval()
    before = [m.training for m in model.modules()]
    try:
        with in_mode(model, mode):
            assert all(m.training == (mode == "train") for m in model.modules())
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [m.training for m in model.modules()] == before


@pytest.mark.parametrize(
    "build",
    [
        lambda x: F.hardswish(x),
        lambda x: F.hardswish(x.clone(), inplace=True),
        lambda x: nn.Hardswish(inplace=True)(x.clone()),
        lambda x: F.hardsigmoid(x),
        lambda x: F.hardsigmoid(input=x),
        lambda x: F.hardsigmoid(x.clone(), True),
        lambda x: nn.Hardsigmoid()(x),
    ],
    ids=["swish", "inplace", "module", "sigmoid", "by keyword", "by position", "sigmoid module"],
)
def test_hard_activations_have_second_derivatives(build):
    x = torch.linspace(-5, 5, 41, dtype=torch.float64, requires_grad=True)
    expected = build(x)
    first = torch.autograd.grad(expected.sum(), x)[0]
    with twice_differentiable():
        found = build(x)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found.sum(), x, create_graph=True)
    inside = abs(abs(x.detach()) - 3) > 0.01  # at the kinks either slope is right
    torch.testing.assert_close(slope.detach()[inside], first[inside])
    (curvature,) = torch.autograd.grad(slope.sum(), x, allow_unused=True, materialize_grads=True)
    swish = float(found[-1] > 2)
    torch.testing.assert_close(curvature[inside], ((abs(x) < 3) * swish / 3).to(x).detach()[inside])


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_weight_norm_has_second_derivatives(dim):
    """PyTorch's own are wrong but for one norm of all (-1): a mended PyTorch would need no help."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    g = torch.norm_except_dim(v.detach(), 2, dim).mul(1.5).requires_grad_()
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)

    def loss(v, g):
        return (x @ torch._weight_norm(v, g, dim).T).sin().sum()

    assert torch.autograd.gradgradcheck(loss, (v, g), raise_exception=False) == (dim == -1)
    plain = loss(v, g)
    said: set[str] = set()
    with twice_differentiable(said):
        assert torch.autograd.gradgradcheck(loss, (v, g))
        torch.testing.assert_close(loss(v, g), plain)
    assert said == {"weight norm is computed as v (g / |v|), the same function"}


@pytest.mark.parametrize(
    "normed", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_the_hessian_of_a_weight_normalised_network_is_symmetric(normed):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(normed(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 2)).double()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    H = Hessian(model, F.cross_entropy, (x, torch.tensor([0, 1, 0, 1, 1, 0])))
    dense = H.dense()
    # Double precision over some ten operations; PyTorch's own kernel gives 0.3.
    assert (dense - dense.T).norm() < 1e-12 * dense.norm()
    assert H.arranged


def test_the_kernels_are_chosen_only_inside():
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    with twice_differentiable():
        pass
    after = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    assert before == after
    assert F.hardsigmoid(torch.ones(1, requires_grad=True)).grad_fn.name().startswith("Hardsigmoid")


def test_random_numbers_are_put_back_also_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), same_random_state(torch.device("cpu")):
        torch.randn(3)
        raise KeyError
    assert torch.equal(state, torch.get_rng_state())


def test_buffers_that_are_not_saved_are_still_snapshots():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.register_buffer("shift", torch.zeros(2), persistent=False)

        def forward(self, x):
            self.shift += 1
            return self.head(x) + self.shift

    model, x = Shift(), torch.zeros(1, 2)
    view = ModelView(model)
    assert torch.equal(view(view.theta, x), view(view.theta, x))
    assert not model.shift.any()


def test_what_stands_in_is_written_down():
    arranged = set()
    x = torch.ones(1, 2, 3, 4)
    with twice_differentiable(arranged):
        F.relu(x)
    assert arranged == set()
    with twice_differentiable(arranged):
        F.scaled_dot_product_attention(x, x, x)
        nn.Hardswish()(x)
    assert {said.split()[0] for said in arranged} == {"attention", "hardswish"}


def test_on_a_gpu_recurrent_layers_run_without_cudnn():
    """cuDNN's have no double backward. No GPU is needed to see what the mode would do."""

    class OnGPU:
        is_cuda = True

    def lstm(x):
        return torch.backends.cudnn.enabled

    arranged = set()
    mode = Arranging(arranged)
    assert mode.__torch_function__(lstm, (), (OnGPU(),)) is False
    assert arranged == {"recurrent layers run without cuDNN"}
    assert mode.__torch_function__(lstm, (), (torch.ones(1),)) is torch.backends.cudnn.enabled
    seen = []
    with Seen(seen):
        nn.LSTM(2, 2)(torch.ones(3, 1, 2))
    assert "lstm" in seen, "the layer's function is known to the mode by this name"


class Seen(torch.overrides.TorchFunctionMode):
    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_hooks_put_together_are_put_back():
    """The older weight norm and pruning leave a plain tensor, made of other parameters."""
    for prepare in (
        torch.nn.utils.weight_norm,
        lambda m: prune.random_unstructured(m, "weight", 0.2) and m,
    ):
        model = nn.Sequential(prepare(nn.Linear(4, 3)))
        before = model[0].weight
        x, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
        H = Hessian(model, F.cross_entropy, (x, y), dtype=torch.float64)
        H @ torch.ones(H.shape[0])
        assert model[0].weight is before
