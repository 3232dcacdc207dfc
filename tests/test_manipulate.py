"""Manipulated gradients: what each does, in which order, and how it is told off when misnamed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from lla_helpers import Hessian
from lla_helpers.manipulate import (
    MANIPULATIONS,
    GradientReversal,
    in_graph,
    manipulation,
    manipulations,
)

G = {"a.weight": torch.tensor([[3.0, -4.0], [0.0, 0.5]]), "b.bias": torch.tensor([12.0])}
X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


def apply(specs, seed=0):
    found, generator = G, torch.Generator().manual_seed(seed)
    for step in manipulations(specs):
        found = step(found, generator)
    return found


def net(*between):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), *between]
        return nn.Sequential(*layers).double()


def test_each_does_what_it_is_called_for():
    norm = sum(t.square().sum() for t in G.values()).sqrt()
    assert torch.allclose(apply(["clip_norm"])["b.bias"], 12 / norm)
    assert apply([("clip_norm", {"max_norm": 100})])["b.bias"] == 12
    assert apply([("clip_value", {"limit": 1.0})])["a.weight"].tolist() == [[1, -1], [0, 0.5]]
    assert apply("sign")["a.weight"].tolist() == [[1, -1], [0, 1]]
    assert apply([("scale", {"factor": -2})])["b.bias"] == -24
    assert apply(["reverse"])["a.weight"].tolist() == [[-3, 4], [0, -0.5]]
    assert apply([("drop", {"share": 1})])["a.weight"].abs().sum() == 0
    assert torch.equal(apply([("drop", {"share": 0})])["a.weight"], G["a.weight"])


def test_noise_and_dropping_have_the_moments_they_promise():
    """20,000 draws: three standard errors are 0.02 for the mean and 0.011 for a share of half."""
    big, generator = {"w": torch.ones(20_000)}, torch.Generator().manual_seed(0)
    noisy = manipulation(("noise", {"std": 0.5}))(big, generator)["w"]
    assert abs(noisy.mean() - 1) < 0.011 and abs(noisy.std() - 0.5) < 0.008
    kept = manipulation(("drop", {"share": 0.3}))(big, generator)["w"]
    assert abs(kept.mean() - 0.7) < 0.01 and set(kept.tolist()) == {0.0, 1.0}


def test_only_the_chosen_tensors_are_touched():
    found = apply([("reverse", {"params": "a.*"}), ("scale", {"factor": 2, "params": ["b.*"]})])
    assert torch.equal(found["a.weight"], -G["a.weight"]) and found["b.bias"] == 24


def test_order_matters():
    limit = ("clip_value", {"limit": 1.0})
    assert apply([limit, ("scale", {"factor": 3})])["b.bias"] == 3
    assert apply([("scale", {"factor": 3}), limit])["b.bias"] == 1


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_an_empty_gradient_and_a_vanishing_one_pass(name):
    generator = torch.Generator().manual_seed(0)
    assert manipulation(name)({}, generator) == {}
    zero = {"w": torch.zeros(3)}
    assert torch.isfinite(manipulation(name)(zero, generator)["w"]).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clipnorm", "unknown manipulation 'clipnorm'; did you mean 'clip_norm'"),
        ("Reverse", "did you mean 'reverse'"),
        (("clip_norm", {"maxnorm": 1}), "unknown option of 'clip_norm': 'maxnorm'; .*'max_norm'"),
        (("clip_norm", {"max_norm": -1}), r"max_norm .* \[0, inf\], not -1"),
        (("drop", {"share": 1.5}), r"share .* \[0, 1\], not 1.5"),
        (("noise", {"std": float("nan")}), "finite"),
        (("scale", {"factor": "2"}), "finite number"),
    ],
)
def test_bad_specs_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        manipulations([spec])


def test_what_is_no_spec_is_told_so():
    for spec in (3, ("scale",), ("scale", 2), {"scale": 2}):
        with pytest.raises(TypeError, match="a name or a pair"):
            manipulations([spec])
    with pytest.raises(ValueError, match="put those in the graph first"):
        manipulations(["sign", ("reverse", {"in_graph": True})])
    with pytest.raises(ValueError, match=r"no parameter is named 'c\.\*'"):
        apply([("reverse", {"params": "c.*"})])
    with pytest.raises(ValueError, match=r"no parameter is named '9\.\*'"):
        with in_graph(net(), [("reverse", {"params": "9.*"})]):
            pass


def test_in_the_graph_it_meets_the_second_derivative():
    """A reversal hook turns H v into D H D v: signs at both ends, so -1 twice is H itself."""
    model = net()
    theta = list(model.parameters())
    sizes = [p.numel() for p in theta]
    exact = Hessian(model, F.cross_entropy, (X, Y), dtype=torch.float64).dense()

    def twice(v):
        g = torch.autograd.grad(F.cross_entropy(model(X), Y), theta, create_graph=True)
        parts = [p.reshape(t.shape) for p, t in zip(v.split(sizes), theta, strict=True)]
        return torch.cat([t.flatten() for t in torch.autograd.grad(g, theta, parts)])

    for globs, flipped in (("*", sizes), ("2.*", sizes[2:])):
        signs = torch.ones(sum(sizes), dtype=torch.float64)
        signs[-sum(flipped) :] = -1
        with in_graph(model, [("reverse", {"params": globs})]):
            products = torch.stack([twice(e) for e in torch.eye(len(signs), dtype=torch.float64)])
        assert torch.allclose(products, signs[:, None] * exact * signs, atol=1e-12)
    assert not any(p._backward_hooks for p in theta)


def test_the_reversal_layer_reverses_once_a_pass():
    """At the logits: g = -s J^T r, and differentiating it again gives s^2 G - s R."""
    s, plain, reversed_ = 0.7, net(), net(GradientReversal(0.7))
    assert torch.equal(plain(X), reversed_(X))
    loss = F.cross_entropy
    H, G = (Hessian(plain, loss, (X, Y), kind=kind).dense() for kind in ("hessian", "ggn"))
    theta = dict(reversed_.named_parameters())

    def value(weights):
        return loss(functional_call(reversed_, weights, (X,)), Y)

    def flat(weights):
        return torch.cat([t.flatten() for t in weights.values()])

    assert torch.allclose(
        flat(grad(value)(theta)), -s * Hessian(plain, loss, (X, Y)).gradient(), atol=1e-12
    )
    fake = Hessian(reversed_, loss, (X, Y)).dense()
    assert torch.allclose(fake, s**2 * G - s * (H - G), atol=1e-12)

    shapes = {name: p.shape for name, p in theta.items()}

    def along(v):
        parts = v.split([shape.numel() for shape in shapes.values()])
        v = {n: t.reshape(shape) for (n, shape), t in zip(shapes.items(), parts, strict=True)}
        return flat(jvp(grad(value), (theta,), (v,))[1])

    forward = vmap(along)(torch.eye(len(H), dtype=torch.float64))
    assert torch.allclose(forward, -s * H, atol=1e-12)


def test_the_strength_of_a_reversal_is_a_number():
    with pytest.raises(ValueError, match="must be finite"):
        GradientReversal(float("inf"))
