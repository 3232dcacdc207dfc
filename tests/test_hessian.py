"""The operator against dense float64 matrices that PyTorch's own functional derivatives give."""

from __future__ import annotations

import copy
import functools
import gc
import platform
import random
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lla_helpers import Hessian, slq
from lla_helpers.hessian import suitable_chunk, vectors_at_once
from lla_helpers.models import mlp
from tests.reference import Flat
from tests.zoo import ZOO, N, batches, made

CE = F.cross_entropy
# What the contract promises of a product, relative to its norm.
CLOSE = {torch.float64: 1e-10, torch.float32: 2e-6}


@functools.cache
def truth(name: str, mode: str = "eval", size: int = N) -> dict:
    """Dense Hessian, GGN, gradient and loss of a network of the zoo, in float64."""
    model, x, y = made(name)
    named = [n for n, p in model.named_parameters() if p.requires_grad]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        flat = Flat(plain(model), CE, batches(x, y, size), names=named, mode=mode)
        return {
            "hessian": flat.hessian(),
            "ggn": flat.ggn(),
            "gradient": flat.gradient(),
            "loss": float(flat.loss(flat.start)),
        }


class Gate(nn.Module):
    """min(max(x + 3, 0), 6) / 6, times x for the swish: the definitions of the hard activations."""

    def __init__(self, swish: bool):
        super().__init__()
        self.swish = swish

    def forward(self, x):
        gate = (x + 3).clamp(0, 6) / 6
        return x * gate if self.swish else gate


def plain(model: nn.Module) -> nn.Module:
    """The same model with the hard activations spelt out, which PyTorch can differentiate twice."""
    model = copy.deepcopy(model)
    for name, child in model.named_children():
        if isinstance(child, (nn.Hardswish, nn.Hardsigmoid)):
            setattr(model, name, Gate(isinstance(child, nn.Hardswish)))
    return model


def vectors(size: int, k: int = 3, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(size, k, generator=torch.Generator().manual_seed(1), dtype=dtype)


def error(found, exact) -> float:
    found, exact = torch.as_tensor(found).double(), torch.as_tensor(exact).double()
    return float((found - exact).norm() / exact.norm())


def shuffled(x, y, size=7):
    return DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True)


# Products, gradients, losses --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("name", ZOO)
def test_products_of_every_network(name, kind, dtype):
    model, x, y = made(name)
    exact = truth(name)
    H = Hessian(model, CE, batches(x, y, 11), kind=kind, dtype=dtype, chunk_size=7)
    V = vectors(H.shape[0], dtype=dtype)
    assert H.shape == tuple(exact["hessian"].shape) and H.dtype == dtype
    assert error(H @ V, exact[kind] @ V.double()) < CLOSE[dtype]
    assert error(H.gradient(), exact["gradient"]) < 10 * CLOSE[dtype]
    assert H.loss() == pytest.approx(exact["loss"], rel=CLOSE[dtype])


@pytest.mark.parametrize("name", ZOO)
def test_products_of_every_network_as_if_its_layers_were_large(name):
    model, x, y = made(name)
    H = Hessian(model, CE, (x, y), dtype=torch.float64, block_size=1)
    assert H.view.own_layers  # vectors go one by one
    v = vectors(H.shape[0])
    assert error(H @ v, truth(name)["hessian"] @ v) < CLOSE[torch.float64]


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("name", ["mlp-tanh", "mlp-bn", "cnn-bn"])
@pytest.mark.parametrize("size", [N, 7])
def test_train_mode_takes_the_batches_as_they_are(name, kind, dtype, size):
    """Batch norm makes the batches part of the function; a ragged last one has its own weight."""
    model, x, y = made(name)
    exact = truth(name, "train", size)
    data = (x, y) if size == N else batches(x, y, size)
    H = Hessian(model, CE, data, mode="train", kind=kind, dtype=dtype, chunk_size=3)
    V = vectors(H.shape[0], dtype=dtype)
    # Dividing by a batch's deviation costs float32 a digit that evaluation mode does not lose.
    assert error(H @ V, exact[kind] @ V.double()) < 4 * CLOSE[dtype]
    assert H.loss() == pytest.approx(exact["loss"], rel=1e-6)
    if "bn" in name:
        assert error(truth(name, "train", 7)["hessian"], truth(name, "train", N)["hessian"]) > 0.01
        assert error(truth(name, "train", N)["hessian"], truth(name)["hessian"]) > 0.01


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("chunk_size", [1, 7, 11, 22, N, 512, None])
@pytest.mark.parametrize("name", ["mlp-tanh", "cnn-max"])
def test_chunks_do_not_matter(name, chunk_size, kind):
    """22 leaves a last chunk of one sample, which must weigh 1/23 and not 1/2 (trap 4)."""
    model, x, y = made(name)
    H = Hessian(model, CE, (x, y), chunk_size=chunk_size, dtype=torch.float64, kind=kind)
    V = vectors(H.shape[0])
    assert error(H @ V, truth(name)[kind] @ V) < 1e-10


@pytest.mark.parametrize(
    "data",
    [
        lambda x, y: batches(x, y, 7),
        lambda x, y: batches(x, y, 11),
        lambda x, y: batches(x, y, 1),
        lambda x, y: [[x[:20], y[:20]], [x[20:], y[20:]]],
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=11),
        lambda x, y: shuffled(x, y),
        lambda x, y: [x, y],
    ],
    ids=["sevens", "last-of-one", "ones", "lists", "loader", "shuffled-loader", "pair-as-list"],
)
def test_batches_do_not_matter(data):
    model, x, y = made("mlp-tanh")
    H = Hessian(model, CE, data(x, y), dtype=torch.float64)
    V = vectors(H.shape[0])
    assert error(H @ V, truth("mlp-tanh")["hessian"] @ V) < 1e-10


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_least_squares_has_a_closed_form(kind):
    """L = (1/NC) |X W^T - Y|^2 has H = (2 / NC) I_C (x) X^T X, whatever the targets."""
    model, x = nn.Linear(4, 3, bias=False), torch.randn(N, 4, dtype=torch.float64)
    H = Hessian(model, nn.MSELoss(), (x, torch.randn(N, 3)), kind=kind, dtype=torch.float64)
    exact = 2 / (3 * N) * torch.kron(torch.eye(3), x.T @ x)
    assert error(H.dense(), exact) < 1e-12


def test_softmax_regression_has_a_closed_form():
    """H = (1/N) sum (diag p - p p^T) (x) x x^T; linear outputs, so H = GGN."""
    model, x = nn.Linear(4, 3, bias=False), torch.randn(N, 4)
    y = torch.randint(0, 3, (N,))
    p = torch.softmax(x.double() @ model.weight.detach().double().T, 1)
    exact = sum(
        torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(z, z))
        for q, z in zip(p, x.double(), strict=True)
    )
    for kind in ("hessian", "ggn"):
        H = Hessian(model, CE, (x, y), kind=kind, dtype=torch.float64)
        assert error(H.dense(), exact / N) < 1e-12


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(
    ("loss_fn", "targets"),
    [
        (nn.MSELoss(), torch.randn(N, 3, generator=torch.Generator().manual_seed(2))),
        (nn.SmoothL1Loss(), torch.randn(N, 3, generator=torch.Generator().manual_seed(2))),
        (nn.BCEWithLogitsLoss(), torch.rand(N, 3, generator=torch.Generator().manual_seed(2))),
        (CE, torch.rand(N, 3, generator=torch.Generator().manual_seed(2)).softmax(1)),
        (nn.CrossEntropyLoss(label_smoothing=0.1), None),
        (lambda z, y: F.nll_loss(z.log_softmax(1), y), None),
        (lambda z, y: (z[range(len(y)), y] - z.mean(1)).abs().mean(), None),
    ],
    ids=["mse", "smooth-l1", "bce", "soft-labels", "smoothed", "nll", "l1-like"],
)
def test_losses(loss_fn, targets, dtype):
    model, x, y = made("mlp-tanh")
    y = y if targets is None else targets
    flat = Flat(model, loss_fn, [(x, y)])
    for kind, exact in (("hessian", flat.hessian()), ("ggn", flat.ggn())):
        H = Hessian(model, loss_fn, (x, y), kind=kind, dtype=dtype, chunk_size=7)
        V = vectors(H.shape[0], dtype=dtype)
        scale = flat.hessian().norm() * V.double().norm()
        assert (H @ V - exact @ V.double()).norm() < CLOSE[dtype] * scale


def test_outputs_that_do_not_depend_on_a_parameter_twice():
    """A loss linear in the parameters has a zero Hessian, not an error."""
    model, x, y = nn.Linear(4, 1), torch.randn(N, 4), torch.randn(N, 1)
    for kind in ("hessian", "ggn"):
        H = Hessian(model, lambda z, y: (z * y).mean(), (x, y), kind=kind)
        assert torch.equal(H.dense(), torch.zeros(5, 5))


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_kept_and_rebuilt_graphs_give_one_product(kind):
    """From a cap that keeps no graph, over caps that keep some, to one that keeps all."""
    model, x, y = made("mlp-tanh")
    kept = set()
    for cap in (1e-9, *np.geomspace(4e-6, 4e-5, 12), 1.0):
        H = Hessian(model, CE, (x, y), chunk_size=4, memory_cap=cap, dtype=torch.float64, kind=kind)
        V = vectors(H.shape[0])
        for _ in range(4):
            assert error(H @ V, truth("mlp-tanh")[kind] @ V) < 1e-10
        assert error(H.gradient(), truth("mlp-tanh")["gradient"]) < 1e-10
        kept.add(len(H.graphs))
    assert {0, 6} < kept and len(kept) >= 4


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("name", ZOO)
def test_vectors_that_walk_a_graph_together_meet_nobody(name, kind):
    """A block gives what its vectors give alone, whether PyTorch can batch the network or not."""
    model, x, y = made(name)
    options = dict(kind=kind, dtype=torch.float64, chunk_size=9)
    H, alone = (Hessian(model, CE, (x, y), **options, block_size=b) for b in (4, 1))
    V = vectors(H.shape[0], 6)  # a block of four, and one of two
    assert error(H @ V, alone @ V) < 1e-12
    assert alone.at_once == 1 and H.at_once == (4 if H.takes_blocks else 1)


class Unbatched(torch.autograd.Function):
    """x^2, whose second derivative looks at the numbers: nothing that vmap can do."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return UnbatchedSlope.apply(x, g)


class UnbatchedSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        ctx.save_for_backward(x, g)
        return 2 * x * g

    @staticmethod
    def backward(ctx, h):
        x, g = ctx.saved_tensors
        assert h.sum().item() == h.sum().item()
        return 2 * g * h, 2 * x * h


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.b(Unbatched.apply(self.a(x)))


def test_where_a_block_cannot_be_batched_its_vectors_go_alone():
    _, x, y = made("mlp-tanh")
    model = Squares()
    H = Hessian(model, CE, (x, y), dtype=torch.float64)
    assert H.at_once > 1 and not H.takes_blocks
    V = vectors(H.shape[0])
    exact = Flat(nn.Sequential(model.a, Square(), model.b), CE, [(x, y)]).hessian()
    assert error(H @ V, exact @ V) < 1e-10 and H.at_once == 1


class Square(nn.Module):
    def forward(self, x):
        return x.square()


def test_an_interrupted_product_leaves_the_operator_whole():
    """Ctrl-C in the second chunk of the first product; the next product counts each chunk once."""
    model, x, y = made("mlp-tanh")
    calls, stop = 0, None

    def loss_fn(z, t):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return CE(z, t)

    H = Hessian(model, loss_fn, (x, y), chunk_size=7, dtype=torch.float64)
    V = vectors(H.shape[0])
    assert H.takes_blocks  # whose trial takes the loss once
    stop = calls + 2
    with pytest.raises(KeyboardInterrupt):
        H @ V
    assert error(H @ V, truth("mlp-tanh")["hessian"] @ V) < 1e-10


def test_a_confident_network_keeps_its_digits_in_float32():
    """At loss 1e-6 the softmax's 1 - p is below float32's eps against 1; H must not be noise."""
    model, x, _ = made("mlp-tanh")
    with torch.no_grad():
        model[-1].weight *= 60
        y = model(x).argmax(1)
        model[-1].bias += 1
        keep = CE(model(x), y, reduction="none") < 1e-5
    x, y = x[keep], y[keep]
    exact = Flat(model, CE, [(x, y)])
    assert 0 < exact.loss(exact.start) < 1e-5
    H = Hessian(model, CE, (x, y))
    V = vectors(H.shape[0], dtype=torch.float32)
    assert error(H @ V, exact.hessian() @ V.double()) < 1e-4


# Forms of the operator --------------------------------------------------------------------------


def test_chunks_and_blocks_follow_from_what_a_graph_takes():
    """Sizes decide, not a stopwatch: two runs of a notebook give the same numbers."""
    assert suitable_chunk(each=2**16, room=2**30) == 256  # 16 MiB
    assert suitable_chunk(each=2**22, room=2**30) == 64  # but no fewer
    assert suitable_chunk(each=2**22, room=2**26) == 5  # unless a third of the room is less
    assert suitable_chunk(each=0.0, room=2**30) > 10**6
    assert vectors_at_once(graph=2**10, vector=2**10) == 16
    assert vectors_at_once(graph=2**20, vector=2**13) == 7
    assert vectors_at_once(graph=2**21, vector=2**16) == 1  # three would not repay it


def test_a_graph_is_counted_by_its_samples_not_by_the_data_around_them():
    model = mlp((64, 5, 3))
    x, y = torch.randn(5000, 64), torch.arange(5000) % 3
    few, many = Hessian(model, CE, (x[:32], y[:32])), Hessian(model, CE, (x, y))
    few.view.own_layers = many.view.own_layers = False  # of the same layers
    assert many.bytes_per_sample() == few.bytes_per_sample() < 1000


def test_forms_of_the_operator_agree():
    model, x, y = made("mlp-tanh")
    H = Hessian(model, CE, (x, y), dtype=torch.float64)
    V, dense = vectors(H.shape[0]), H.dense()
    assert dense.is_contiguous()  # transposed strides make products with it several times slower
    assert error(dense, truth("mlp-tanh")["hessian"]) < 1e-10
    assert error(H @ V[:, 0], dense @ V[:, 0]) < 1e-12
    assert (H @ V[:, :1]).shape == (H.shape[0], 1)
    scipy = H.to_scipy()
    assert error(scipy @ V.numpy(), dense @ V) < 1e-12
    assert error(scipy.matvec(V[:, 0].numpy()), dense @ V[:, 0]) < 1e-12
    assert error(scipy.rmatvec(V[:, 0].numpy()), dense @ V[:, 0]) < 1e-12
    assert scipy.dtype == np.float64


@pytest.mark.parametrize("computes", CLOSE, ids=str)
@pytest.mark.parametrize("given", CLOSE, ids=str)
def test_a_product_computes_in_the_operators_dtype_and_returns_the_vectors(computes, given):
    model, x, y = made("mlp-tanh")
    H = Hessian(model, CE, (x, y), dtype=computes)
    V = vectors(H.shape[0], dtype=given)
    product = H @ V
    assert product.dtype == given and not product.requires_grad
    worse = max(CLOSE[computes], CLOSE[given])
    assert error(product, truth("mlp-tanh")["hessian"] @ V.double()) < worse


def test_a_float64_vector_reaches_a_float64_operator_undiminished():
    """dtype=float64 on a float32 model: weights and data are converted, not only the result."""
    model, x, y = made("cnn-avg")
    assert next(model.parameters()).dtype == torch.float32
    H = Hessian(model, CE, (x, y), dtype=torch.float64)
    V = vectors(H.shape[0]).requires_grad_()
    assert error((H @ V).detach(), truth("cnn-avg")["hessian"] @ V.detach()) < 1e-10


GLOBS = ["1.*", "*.bias", ["3.weight", "1.bias"], ["*"], "[13].weight", "5.bias"]


@pytest.mark.parametrize("params", GLOBS, ids=str)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_blocks_are_submatrices(params, kind):
    from fnmatch import fnmatchcase

    model, x, y = made("mlp-tanh")
    globs = [params] if isinstance(params, str) else params
    mask = torch.cat(
        [
            torch.full((p.numel(),), any(fnmatchcase(n, g) for g in globs))
            for n, p in model.named_parameters()
        ]
    )
    exact = truth("mlp-tanh")[kind][mask][:, mask]
    whole = Hessian(model, CE, (x, y), dtype=torch.float64, kind=kind)
    whole @ vectors(whole.shape[0])  # a block of a used operator must not reuse its graphs
    for H in (
        whole.block(params),
        Hessian(model, CE, (x, y), dtype=torch.float64, kind=kind, params=params),
    ):
        assert H.shape == tuple(exact.shape)
        assert error(H.dense(), exact) < 1e-10
        assert H.names == [
            n for n, _ in model.named_parameters() if any(fnmatchcase(n, g) for g in globs)
        ]
    assert error(whole.dense(), truth("mlp-tanh")[kind]) < 1e-10


def test_frozen_unused_and_tied_parameters():
    model, x, y = made("unused")
    H = Hessian(model, CE, (x, y), dtype=torch.float64)
    assert H.names == ["idle", "head.weight", "head.bias"]
    assert not H.dense()[:4].any() and not H.gradient()[:4].any()
    frozen = Hessian(model, CE, (x, y), params="frozen.*", dtype=torch.float64)
    exact = Flat(model, CE, [(x, y)], names=["frozen.weight", "frozen.bias"]).hessian()
    assert error(frozen.dense(), exact) < 1e-10
    idle = Hessian(model, CE, (x, y), params="idle")
    assert not idle.dense().any()

    model, x, y = made("tied")
    H = Hessian(model, CE, (x, y), dtype=torch.float64)
    assert H.names == ["inner.weight", "inner.bias", "outer.bias", "head.weight", "head.bias"]
    assert H.shape[0] == 16 + 4 + 4 + 15


def test_the_operator_holds_the_weights_of_its_construction():
    model, x, y = made("mlp-bn")
    kept, rebuilt = (Hessian(model, CE, (x, y), memory_cap=cap) for cap in (1.0, 1e-9))
    with torch.no_grad():
        for tensor in (
            *model.parameters(),
            *(b for b in model.buffers() if b.dtype.is_floating_point),
        ):
            tensor.add_(1.0)
    V = vectors(kept.shape[0], dtype=torch.float32)
    for H in (kept, rebuilt):
        assert error(H @ V, truth("mlp-bn")["hessian"] @ V.double()) < 2e-6


def test_products_are_counted():
    model, x, y = made("mlp-tanh")
    H = Hessian(model, CE, (x, y), chunk_size=7)
    H @ vectors(H.shape[0], 3), H @ vectors(H.shape[0])[:, 0]
    assert H.products == 4


# Nothing of the model changes -------------------------------------------------------------------


def state(model: nn.Module) -> dict:
    """Everything that an operator must leave as it was, random number generators included."""
    return {
        "modes": {n: m.training for n, m in model.named_modules()},
        "parameters": {n: p.detach().clone() for n, p in model.named_parameters()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "grads": {n: p.grad for n, p in model.named_parameters()},
        "grad values": {
            n: None if p.grad is None else p.grad.detach().clone()
            for n, p in model.named_parameters()
        },
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "attributes": {n: set(vars(m)) for n, m in model.named_modules()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002
        "numpy at": np.random.get_state()[2],  # noqa: NPY002
        "python": random.getstate(),
    }


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    return bool(np.all(a == b)) if isinstance(a, np.ndarray) else a == b


def use(H):
    V = vectors(H.shape[0], 1, dtype=H.dtype)
    bias = H.block("*bias")
    H @ V, H.gradient(), H.loss(), H.check(), bias.dense()
    slq(bias, steps=3, probes=2, deflate=1)


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("before", ["no grad", "grad", "grad with a graph"])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_nothing_of_the_model_changes(mode, before, dtype):
    """Trap 11. The model starts in a mixed mode, with half of it frozen."""
    model, x, y = made("cnn-bn")
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    if before != "no grad":
        CE(model(x), y).backward(create_graph=before == "grad with a graph")
    for p in model.parameters():
        p.grad = p.grad  # an attribute set by hand must stay the same object
    found = state(model)
    loader = shuffled(x, y) if mode == "eval" else batches(x, y, 7)
    for kind in ("hessian", "ggn"):
        use(Hessian(model, CE, loader, mode=mode, dtype=dtype, kind=kind, chunk_size=7))
    assert same(found, state(model))
    for p in model.parameters():
        p.grad = None


def test_nothing_changes_when_the_operator_is_refused():
    model, x, y = made("transformer")
    model.train()
    model[0].norm1.eval()
    found = state(model)
    with pytest.raises(ValueError, match="random"):
        Hessian(model, CE, batches(x, y, 7), mode="train")
    assert same(found, state(model))


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_gradient_that_carries_a_graph_does_not_enter_the_product():
    """Trap 5: peers double the curvature of a model whose `.grad` has a graph."""
    model, x, y = made("mlp-tanh")
    CE(model(x), y).backward(create_graph=True)
    H = Hessian(model, CE, (x, y), dtype=torch.float64)
    second = Hessian(model, CE, (x, y), dtype=torch.float64)
    V = vectors(H.shape[0])
    for operator in (H, second, H):
        assert error(operator @ V, truth("mlp-tanh")["hessian"] @ V) < 1e-10
    for p in model.parameters():
        p.grad = None


def test_an_operator_frees_its_graphs_when_it_goes():
    """Trap 11: no reference cycle holds what an operator built, so twenty of them need no more
    memory than one. Weak references tell at once; resident memory would need a margin."""
    model, x, y = made("cnn-bn")
    gc.collect()
    gc.disable()
    try:
        refs = []
        for _ in range(20):
            H = Hessian(model, CE, (x, y), chunk_size=7)
            H @ vectors(H.shape[0], dtype=torch.float32)
            refs += [weakref.ref(t) for t in H.view.theta.values()]
            refs += [weakref.ref(f.product) for f in H.graphs]
            assert H.graphs
            del H
        assert [r() for r in refs if r() is not None] == []
    finally:
        gc.enable()


FAULTS = """
import itertools, resource, torch
from lla_helpers import Hessian
from lla_helpers.models import mlp
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
x = torch.randn(1437, 64, generator=generator)
H = Hessian(mlp((64, 256, 256, 10)), torch.nn.functional.cross_entropy, (x, x.argmax(1) % 10))
v = torch.randn(H.shape[0], generator=generator)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [faults()]
for _ in range(40):
    H @ v
    counts.append(faults())
print(sum(b == a for a, b in itertools.pairwise(counts[-31:])))
"""


# Other C libraries have other rules for what they hand back; elsewhere there is nothing to test.
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the GNU C library's malloc")
def test_products_use_again_what_they_freed():
    """Of thirty products some ten need no new page without `keep_freed_memory`, most with it."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert int(done.stdout or 0) > 20, done.stderr


def test_resident_memory_does_not_grow_over_twenty_operators():
    """The same from outside: an operator's weights and graphs take 12 MB, so a leak 240 MB."""
    import psutil

    model = nn.Sequential(nn.Linear(1000, 1000), nn.Tanh(), nn.Linear(1000, 10))
    x, y = torch.randn(300, 1000), torch.randint(0, 10, (300,))

    def resident() -> float:
        return psutil.Process().memory_info().rss / 2**20

    def once():
        H = Hessian(model, CE, (x, y))
        H @ torch.ones(H.shape[0])

    for _ in range(3):
        once()
    start = resident()
    for _ in range(20):
        once()
    assert resident() - start < 60


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.set_grad_enabled(False),
    ],
    ids=["no_grad", "inference_mode", "autocast", "set_grad_enabled"],
)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_the_callers_context_does_not_matter(context, kind):
    """Analysis code likes to run under no_grad; a silent zero there would be the worst answer."""
    model, x, y = made("mlp-tanh")
    exact = truth("mlp-tanh")
    outside = Hessian(model, CE, (x, y), kind=kind)
    V = vectors(outside.shape[0], dtype=torch.float32)
    with context():
        inside = Hessian(model, CE, (x, y), kind=kind)
        products = [inside @ V, outside @ V]
        gradients = [inside.gradient(), outside.gradient()]
    products += [inside @ V, outside @ V]
    for product in products:
        assert error(product.clone(), exact[kind] @ V.double()) < 2e-6
    for gradient in gradients:
        assert error(gradient.clone(), exact["gradient"]) < 2e-5


# Ill-defined operators and bad input -------------------------------------------------------------


def dropout_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x + torch.randn_like(x))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x), x


class Augmented(torch.utils.data.Dataset):
    """Samples that come out otherwise every time: noise, or a flip of the last axis."""

    def __init__(self, x, y, how, scale=1.0):
        self.x, self.y, self.how = x * scale, y, how

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i]
        if self.how == "noise":
            x = x * (1 + 1e-3 * torch.randn(()))
        elif torch.rand(()) < 0.5:
            x = x.flip(-1)
        return x, self.y[i]


class Weighted(nn.CrossEntropyLoss):
    def __init__(self, *weights):
        super().__init__(weight=torch.tensor(weights))

    def forward(self, z, y):
        return F.cross_entropy(z, y, weight=self.weight.to(z.dtype))


def plain_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


G = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 4, generator=G), torch.randint(0, 3, (40,), generator=G)
BY_CLASS = torch.argsort(Y, stable=True)
NAN = torch.where(torch.arange(40)[:, None] == 35, torch.nan, X)

REFUSED = {
    "dropout": (dict(model=dropout_model(), mode="train"), ValueError, r"random.*dropout.*2"),
    "attention dropout": (
        dict(model=made("transformer")[0], data=(X[:, None].expand(-1, 3, -1), Y), mode="train"),
        ValueError,
        r"random.*0\.self_attn.*0\.dropout",
    ),
    "small dropout, few samples": (
        dict(
            model=nn.Sequential(nn.Linear(4, 3), nn.Dropout(1e-3)),
            data=(X[:4], Y[:4]),
            mode="train",
        ),
        ValueError,
        r"random.*dropout.*1",
    ),
    "noise": (dict(model=Noisy()), ValueError, "random"),
    "augmentation, noise": (
        dict(data=DataLoader(Augmented(X, Y, "noise"), batch_size=9)),
        ValueError,
        "augmentation",
    ),
    "augmentation, flips": (
        dict(data=DataLoader(Augmented(X, Y, "flip"), batch_size=9)),
        ValueError,
        "augmentation",
    ),
    "augmentation of tiny inputs": (
        dict(data=DataLoader(Augmented(X, Y, "flip", 1e-7), batch_size=9)),
        ValueError,
        "augmentation",
    ),
    "augmentation, train": (
        dict(data=DataLoader(Augmented(X, Y, "flip"), batch_size=9), mode="train"),
        ValueError,
        "second pass",
    ),
    "shuffled, train": (dict(data=shuffled(X, Y, 9), mode="train"), ValueError, "shuffled"),
    "drop_last": (
        dict(data=DataLoader(TensorDataset(X, Y), 9, shuffle=True, drop_last=True)),
        ValueError,
        "second pass",
    ),
    "generator": (
        dict(data=(pair for pair in batches(X, Y, 9))),
        ValueError,
        "exhausted.*generator",
    ),
    "class weights": (dict(loss_fn=Weighted(1.0, 5.0, 0.2)), ValueError, "mean over its samples"),
    "class weights, mild": (
        dict(loss_fn=Weighted(1.0, 1.1, 1.0)),
        ValueError,
        "mean over its samples",
    ),
    "class weights, sorted": (
        dict(loss_fn=Weighted(1.0, 5.0, 0.2), data=(X[BY_CLASS], Y[BY_CLASS]), chunk_size=5),
        ValueError,
        "mean over its samples",
    ),
    "class weights, chunks of one": (
        dict(loss_fn=Weighted(1.0, 5.0, 0.2), chunk_size=1),
        ValueError,
        "mean over its samples",
    ),
    "ignored targets, late": (
        dict(data=(X, torch.where(torch.arange(40) > 33, -100, Y))),
        ValueError,
        "mean over its samples",
    ),
    "sum": (
        dict(loss_fn=nn.CrossEntropyLoss(reduction="sum")),
        ValueError,
        "mean over its samples",
    ),
    "none": (dict(loss_fn=nn.CrossEntropyLoss(reduction="none")), ValueError, "one number"),
    "constant": (dict(loss_fn=lambda z, y: torch.tensor(1.0)), ValueError, "no gradient"),
    "no tensor": (dict(loss_fn=lambda z, y: 1.0), ValueError, "one number"),
    "nan loss": (dict(data=(X * torch.nan, Y)), ValueError, "loss is nan"),
    "nan loss, late": (dict(data=(NAN, Y)), ValueError, "loss is nan"),
    "nan in a loader": (dict(data=batches(NAN, Y, 9)), ValueError, "loss is nan"),
    "infinite loss": (
        dict(loss_fn=lambda z, y: (z / 0).square().mean()),
        ValueError,
        "loss is inf",
    ),
    "labels": (dict(data=(X, Y + 5)), ValueError, "loss cannot be taken"),
    "labels, late": (
        dict(data=(X, torch.where(torch.arange(40) == 35, 3, Y))),
        ValueError,
        "loss cannot be taken",
    ),
    "label type": (dict(data=(X, Y.int().bool())), ValueError, "loss cannot be taken"),
    "empty pair": (dict(data=(X[:0], Y[:0])), ValueError, "empty"),
    "empty list": (dict(data=[]), ValueError, "empty"),
    "lengths": (dict(data=(X, Y[:-1])), ValueError, "same number of samples"),
    "three": (dict(data=[(X, Y, Y)]), TypeError, "pair of tensors"),
    "arrays": (dict(data=(X.numpy(), Y.numpy())), TypeError, "pair of tensors"),
    "no data": (dict(data=7), TypeError, "pair of tensors"),
    "shape": (dict(data=(X[:, :3], Y)), ValueError, "cannot be applied to inputs of shape"),
    "integers": (dict(data=(X.long(), Y)), ValueError, "cannot be applied to inputs"),
    "no parameters": (dict(model=nn.Flatten()), ValueError, "no parameters"),
    "frozen": (dict(model=plain_model().requires_grad_(False)), ValueError, "requires grad"),
    "glob": (dict(params="0.wieght"), ValueError, r"'0\.wieght'.*near: 0\.weight"),
    "one glob of two": (dict(params=["0.*", "7.*"]), ValueError, r"'7\.\*'"),
    "no glob": (dict(params=[]), ValueError, "empty list"),
    "params type": (dict(params=5), (TypeError, ValueError), "params.*glob"),
    "tuple": (dict(model=Pair()), TypeError, "tuple.*wrap"),
    "model": (dict(model=lambda x: x), TypeError, r"nn\.Module"),
    "kind": (dict(kind="gnn"), ValueError, "'hessian' or 'ggn'"),
    "mode": (dict(mode="training"), ValueError, "'eval' or 'train'"),
    "chunk": (dict(chunk_size=0), ValueError, "chunk_size"),
    "chunk type": (dict(chunk_size=2.5), ValueError, "chunk_size"),
    "block": (dict(block_size=0), ValueError, "block_size"),
    "cap": (dict(memory_cap=-1.0), ValueError, "memory_cap"),
    "dtype": (dict(dtype=torch.int64), ValueError, "floating-point"),
    "batch norm of one": (
        dict(
            model=nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
            data=batches(X, Y, 13),
            mode="train",
        ),
        ValueError,
        "cannot be applied",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_ill_defined_is_refused_in_one_line(case):
    """At construction, or at the latest by the first product, never by a wrong number."""
    options, kind, match = REFUSED[case]
    options = {"model": plain_model(), "loss_fn": CE, "data": (X, Y)} | options
    with pytest.raises(kind, match=match) as raised:
        H = Hessian(options.pop("model"), options.pop("loss_fn"), options.pop("data"), **options)
        H @ torch.ones(H.shape[0])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("v", "kind", "match"),
    [
        (torch.ones(42), ValueError, r"\(43,\) or \(43, k\), not \(42,\)"),
        (torch.ones(1, 43), ValueError, r"not \(1, 43\)"),
        (torch.ones(43, 2, 2), ValueError, r"not \(43, 2, 2\)"),
        (torch.tensor(1.0), ValueError, r"not \(\)"),
        (torch.ones(43, dtype=torch.int64), TypeError, "floating-point"),
        (np.ones(43), TypeError, "to_scipy"),
        (torch.full((43,), torch.nan), ValueError, "v.*finite"),
        (torch.full((43,), torch.inf), ValueError, "v.*finite"),
    ],
    ids=["length", "transposed", "3d", "0d", "integer", "array", "nan", "inf"],
)
def test_wrong_vectors_are_refused(v, kind, match):
    H = Hessian(plain_model(), CE, (X, Y))
    assert H.shape == (43, 43)
    with pytest.raises(kind, match=match):
        H @ v


def test_an_empty_block_of_vectors_gives_an_empty_block():
    H = Hessian(plain_model(), CE, (X, Y))
    assert (H @ torch.ones(43, 0)).shape == (43, 0)


def test_dense_refuses_above_a_size_and_names_it():
    H = Hessian(plain_model(), CE, (X, Y))
    with pytest.raises(ValueError, match=r"P = 43.*limit of 42"):
        H.dense(limit=42)
    assert H.dense(limit=43).shape == (43, 43)


class Once(torch.autograd.Function):
    """A custom operation whose author gave it no second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class Untwiced(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.inner, self.head, self.operation = nn.Linear(4, 4), nn.Linear(4, 3), operation

    def forward(self, x):
        return self.head(self.operation(self.inner(x)))


def distances(x):
    """Distances in the 3-norm, which PyTorch differentiates once."""
    return torch.cdist(x, torch.eye(4, dtype=x.dtype), p=3.0)


@pytest.mark.parametrize(
    "operation", [Once.apply, distances], ids=["once_differentiable", "not implemented"]
)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_an_operation_without_a_second_derivative_is_named(operation, kind):
    """PyTorch itself answers the first with zeros: a wrong number where there should be a word."""
    with pytest.raises(ValueError, match="second derivative"):
        H = Hessian(Untwiced(operation), CE, (X, Y), kind=kind)
        H @ torch.ones(H.shape[0])


def test_sequences_of_different_length_in_each_batch():
    """Batches padded to their own length cannot be merged, and need not be."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, tokens):
            return self.head(torch.tanh(self.embed(tokens)).mean(1))

    model = Mean()
    data = [
        (torch.randint(0, 5, (n, length), generator=G), torch.randint(0, 3, (n,), generator=G))
        for n, length in ((4, 5), (4, 5), (3, 7), (1, 2))
    ]
    H = Hessian(model, CE, data, dtype=torch.float64)
    assert error(H.dense(), Flat(model, CE, data).hessian()) < 1e-10


class Listed(nn.Module):
    """A weight used again through a list, where nobody can replace it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)
        self.again = [self.first.weight]

    def forward(self, x):
        return self.last(torch.tanh(F.linear(torch.tanh(self.first(x)), self.again[0])))


def five_features(n=20):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 5, generator=generator), torch.arange(n) % 3


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_parameters_that_are_reached_past_the_model_are_refused(kind):
    """They would be constants: weight decay in the loss would add nothing instead of c."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

    def decayed(z, y):
        return CE(z, y) + 0.5 * sum(p.square().sum() for p in model.parameters())

    with pytest.raises(ValueError, match=r"parameter 2\.bias is reached past the model"):
        Hessian(model, decayed, five_features(), kind=kind, params="2.*")
    with pytest.raises(ValueError, match=r"parameter first\.weight is reached past the model"):
        Hessian(Listed(), CE, five_features(), kind=kind)
    model.requires_grad_(False)  # a penalty on constants is a constant
    Hessian(model, decayed, five_features(), kind=kind, params="2.*")


def test_a_loss_may_read_what_is_not_chosen_and_targets_may_come_from_the_model():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = five_features()

    def decayed(z, y):
        return CE(z, y) + 0.5 * model[0].weight.square().sum()

    H = Hessian(model, decayed, (x, y), params="2.*", dtype=torch.float64)
    plain = Hessian(model, CE, (x, y), params="2.*", dtype=torch.float64)
    torch.testing.assert_close(H.dense(), plain.dense())
    distilled = Hessian(model, F.mse_loss, (x, model(x)))
    assert torch.equal(
        distilled.dense(), Hessian(model, F.mse_loss, (x, model(x).detach())).dense()
    )


class Shifting(nn.Module):
    """Writes to what it is given."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        x -= 1
        return self.inner(x.relu_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_model_may_write_to_its_input(dtype):
    inner, (x, y) = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), five_features()
    before = x.clone()
    H = Hessian(Shifting(inner), CE, (x, y), dtype=dtype)
    other = Hessian(inner, CE, ((x - 1).relu(), y), dtype=dtype)
    for _ in range(2):
        torch.testing.assert_close(H.dense(), other.dense())
    assert H.check().faults() == () and torch.equal(x, before)


class Recomputed(nn.Module):
    """A checkpoint around modules, or around functions that read their weights."""

    def __init__(self, functional=False):
        super().__init__()
        self.functional = functional
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.m, self.b = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.drop = nn.Dropout()

    def inner(self, x):
        if self.functional:
            h = F.linear(torch.tanh(F.linear(x, self.a.weight, self.a.bias)), self.m.weight)
            return (h + self.m.bias).tanh()
        return self.drop(self.m(torch.tanh(self.a(x)))).tanh()

    def forward(self, x):
        return self.b(torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False))


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("memory_cap", [4.0, 1e-9], ids=["kept", "rebuilt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_layers_that_are_computed_again_take_the_weights_of_construction(
    memory_cap, dtype, functional
):
    """Activation checkpoints work in the backward pass; the model may be elsewhere then."""
    model, data = Recomputed(functional), five_features()
    plain = nn.Sequential(model.a, nn.Tanh(), model.m, nn.Tanh(), model.b)
    names = ["a.weight", "a.bias", "m.weight", "m.bias", "b.weight", "b.bias"]
    exact = Hessian(plain, CE, data, dtype=torch.float64).dense()
    fresh, used = (Hessian(model, CE, data, dtype=dtype, memory_cap=memory_cap) for _ in "ab")
    assert fresh.names == names
    used.dense()
    assert model.training
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    for H in (fresh, used):
        error = (H.dense().double() - exact).norm() / exact.norm()
        assert error < CLOSE[dtype]
        assert H.check().gradient_error < 1e-6


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"memory_cap": float("inf")}, "memory_cap is a number of GiB"),
        ({"memory_cap": "4"}, "memory_cap is a number of GiB"),
        ({"memory_cap": None}, "memory_cap is a number of GiB"),
        ({"block_size": True}, "block_size must be a positive integer"),
        ({"dtype": "float32"}, "dtype must be a floating-point type"),
        ({"loss_fn": None}, "loss_fn must be a function of"),
    ],
    ids=str,
)
def test_wrong_types_are_told_in_one_sentence(options, complaint):
    options = {"loss_fn": CE, **options}
    with pytest.raises((TypeError, ValueError), match=complaint) as error:
        Hessian(nn.Linear(5, 3), options.pop("loss_fn"), five_features(), **options)
    assert "\n" not in str(error.value)


def test_parameters_without_entries_are_refused():
    model = nn.Linear(5, 3)
    model.register_parameter("empty", nn.Parameter(torch.empty(0)))
    with pytest.raises(ValueError, match="have no entries: empty"):
        Hessian(model, CE, five_features(), params="empty")


def test_the_cap_counts_the_largest_batch_wherever_it_stands():
    model = nn.Sequential(nn.Linear(5, 200), nn.Tanh(), nn.Linear(200, 3))
    small, large = five_features(2), five_features(1000)
    first, last = (
        Hessian(model, CE, batches, mode="train", memory_cap=0.01)
        for batches in ([large, small, large], [small, large, large])
    )
    assert first.one_chunk == last.one_chunk > 1000 * 200 * 4
    assert first.kept == last.kept
