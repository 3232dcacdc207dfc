"""The trace penalty: its value and gradient against float64 matrices, its schedule, bad input."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers.models import mlp
from lla_helpers.regularize import TracePenalty, block_trace, middle, plain, train_by
from lla_helpers.third_derivative import ThriceDifferentiable
from lla_helpers.training import train
from tests.reference import Flat

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(12, 4, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 3, (12,), generator=GENERATOR)
TINY = (4, 3, 3)


def net(act="tanh", batch_norm=False):
    return mlp(TINY, act, batch_norm=batch_norm, seed=1).double()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def estimate(model, probes=3, seed=5, names=None, x=X, y=Y):
    """v^T H v with the same probes whatever the weights: a smooth function of them."""
    chosen = [p for n, p in model.named_parameters() if names is None or n in names]
    generator = torch.Generator().manual_seed(seed)
    with ThriceDifferentiable():
        loss = F.cross_entropy(model(x), y)
    return block_trace(loss, chosen, probes, generator)


def gradient_of(value, model):
    grads = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def central_difference(function, model, h=1e-4):
    """(f(theta + h e_i) - f(theta - h e_i)) / 2h: error h^2, about 1e-8, and rounding 1e-12."""
    start, found = weights(model), []
    for i in range(len(start)):
        sides = []
        for sign in (1, -1):
            moved = start.clone()
            moved[i] += sign * h
            nn.utils.vector_to_parameters(moved, model.parameters())
            sides.append(float(function(model).detach()))
        found.append((sides[0] - sides[1]) / (2 * h))
    nn.utils.vector_to_parameters(start, model.parameters())
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("names", [None, ["1.weight"], ["3.weight", "3.bias"]])
def test_gradient_is_that_of_finite_differences(names):
    model = net()
    got = gradient_of(estimate(model, names=names), model)
    expected = central_difference(lambda m: estimate(m, names=names), model)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def exact_trace(model, names=None):
    """The trace entry by entry, differentiable: e_i^T H e_i by two gradients."""
    chosen = [p for n, p in model.named_parameters() if names is None or n in names]
    gradient = torch.autograd.grad(F.cross_entropy(model(X), Y), chosen, create_graph=True)
    total = 0
    for g, p in zip(gradient, chosen, strict=True):
        for i, entry in enumerate(g.flatten()):
            total = total + torch.autograd.grad(entry, p, create_graph=True)[0].flatten()[i]
    return total


@pytest.mark.parametrize("names", [None, ["1.weight"]])
def test_the_expectation_over_probes_is_the_exact_trace_and_its_gradient(names):
    """`every_pattern` is the expectation itself, so rounding is all there is."""
    model = net()
    dense = torch.trace(Flat(model, F.cross_entropy, [(X, Y)], names=names).hessian())
    exact = exact_trace(model, names)
    tensors = [p for n, p in model.named_parameters() if names is None or n in names]
    value, gradient = every_pattern(model, tensors)
    assert float(exact.detach()) == pytest.approx(float(dense), rel=1e-10)
    assert value == pytest.approx(float(dense), rel=1e-10)
    assert torch.allclose(gradient, gradient_of(exact, model), rtol=1e-9, atol=1e-10)


def every_pattern(model, tensors):
    """The mean of v^T H v, and of its gradient, over random signs v.

    The estimate is quadratic in v, so the columns of any sign matrix with orthogonal rows, such as
    Sylvester's, have the same mean as all 2^P patterns.
    """
    size = sum(t.numel() for t in tensors)
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < size:
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    values, gradients = [], []
    for signs in hadamard[:size].T:
        loss = F.cross_entropy(model(X), Y)
        grads = torch.autograd.grad(loss, tensors, create_graph=True)
        parts = signs.split([t.numel() for t in tensors])
        v = [s.reshape(t.shape) for s, t in zip(parts, tensors, strict=True)]
        gv = sum((g * s).sum() for g, s in zip(grads, v, strict=True))
        hv = torch.autograd.grad(gv, tensors, create_graph=True)
        value = sum((h * s).sum() for h, s in zip(hv, v, strict=True))
        values.append(float(value.detach()))
        gradients.append(gradient_of(value, model))
    return sum(values) / len(values), torch.stack(gradients).mean(0)


@pytest.mark.parametrize("act", ["tanh", "relu"])
def test_random_probes_come_near_the_exact_trace_and_its_gradient(act):
    """400 probes in 20 runs: within five standard errors, in the value and in every entry."""
    model = net(act)
    runs = [estimate(model, 20, seed) for seed in range(20)]
    values = torch.stack(runs).detach()
    gradients = torch.stack([gradient_of(run, model) for run in runs])
    exact = exact_trace(model)
    assert abs(values.mean() - exact.detach()) < 5 * values.std() / 20**0.5
    error = (gradients.mean(0) - gradient_of(exact, model)).abs()
    assert (error <= 5 * gradients.std(0) / 20**0.5 + 1e-9).all()


def test_a_linear_loss_and_an_unused_parameter_have_no_curvature():
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    idle = torch.ones(2, requires_grad=True)
    assert block_trace((2 * w).sum(), [w, idle]).item() == 0.0
    assert block_trace((w**2).sum(), [w, idle], probes=1).item() == pytest.approx(6.0)


def test_batch_norm_in_train_mode_is_differentiated_through_its_statistics():
    model = net(batch_norm=True).train()
    frozen = copy.deepcopy(model)
    got = gradient_of(estimate(model), model)
    expected = central_difference(lambda m: estimate(m), frozen)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_penalty_adds_gamma_times_the_trace_gradient_on_due_steps_only():
    grads = {}
    for step, epoch in itertools.product((49, 50), (1, 2)):
        model = net()
        TracePenalty(0.3, "1.*", every=50, after=2, seed=4)(model, X, Y, step, epoch)
        grads[step, epoch] = torch.cat([p.grad.flatten() for p in model.parameters()])
    model = net()
    plain(model, X, Y, 0, 0)
    alone = torch.cat([p.grad.flatten() for p in model.parameters()])
    for key in ((49, 1), (50, 1), (49, 2)):
        assert torch.equal(grads[key], alone)
    names = ["1.weight", "1.bias"]
    model = net()
    trace = estimate(model, 3, (4 << 24) + 50, names)
    expected = alone + 0.3 * gradient_of(trace, model)
    assert torch.allclose(grads[50, 2], expected, rtol=1e-10, atol=1e-14)


def test_the_published_schedule_is_every_fiftieth_step_after_epoch_fifteen():
    penalty = TracePenalty(1.0)
    per_epoch = 25
    due = [s for s in range(40 * per_epoch) if penalty.due(s, s // per_epoch)]
    assert due == list(range(400, 1000, 50))


def test_middle_is_from_a_quarter_to_three_quarters_of_the_tensors():
    assert middle(mlp((64, 8, 8, 8, 10))) == ["3.weight", "3.bias", "5.weight", "5.bias"]
    assert middle(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ["0.bias", "1.weight"]
    with pytest.raises(ValueError, match="1 parameter tensors has no middle"):
        middle(nn.Linear(2, 2, bias=False))


def test_without_a_penalty_the_run_is_that_of_plain_training():
    models = [net() for _ in range(3)]
    a = train(models[0], X, Y, epochs=3, batch_size=5, lr=0.1, seed=7)
    b = train_by(plain, models[1], X, Y, epochs=3, batch_size=5, lr=0.1, seed=7)
    c = train_by(TracePenalty(0.0), models[2], X, Y, epochs=3, batch_size=5, lr=0.1, seed=7)
    assert a == b == c
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert torch.equal(weights(models[0]), weights(models[2]))


def test_a_penalised_run_is_flatter_and_the_same_for_the_same_seed():
    traces, states = [], []
    for gamma in (0.0, 0.2, 0.2):
        model = net()
        penalty = TracePenalty(gamma, every=2, after=0, probes=2)
        state = torch.get_rng_state()
        train_by(penalty, model, X, Y, epochs=60, batch_size=4, lr=0.05)
        assert torch.equal(state, torch.get_rng_state())
        traces.append(float(torch.trace(Flat(model, F.cross_entropy, [(X, Y)]).hessian())))
        states.append(weights(model))
    assert traces[1] < 0.9 * traces[0]
    assert torch.equal(states[1], states[2])


@pytest.mark.parametrize("gamma", [-1e-3, float("nan"), float("inf"), "1"])
def test_a_gamma_that_is_negative_or_no_number_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma, the strength of the penalty"):
        TracePenalty(gamma)


@pytest.mark.parametrize("options", [{"every": 0}, {"after": -1}])
def test_a_schedule_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match="every must be at least 1"):
        TracePenalty(1.0, **options)


@pytest.mark.parametrize("probes", [0, -1, 2.5, True])
def test_probes_below_one_are_refused(probes):
    with pytest.raises(ValueError, match="probes must be an integer"):
        estimate(net(), probes)


def test_a_layer_that_does_not_exist_suggests_near_ones():
    with pytest.raises(ValueError, match=r"no parameter is named '1\.wieght'; near: 1\.weight"):
        TracePenalty(1.0, "1.wieght")(net(), X, Y, 0, 0)


def test_frozen_parameters_and_none_at_all_are_refused():
    model = net().requires_grad_(False)
    model[1].weight.requires_grad_(True)
    with pytest.raises(ValueError, match="require grad"):
        TracePenalty(1.0, "3.*", after=0)(model, X, Y, 0, 0)
    with pytest.raises(ValueError, match="at least one"):
        block_trace(F.cross_entropy(net()(X), Y), [])


def test_a_loss_that_is_no_number_ends_it_at_its_step():
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0: .*weaker penalty"):
        train_by(plain, net(), X * torch.nan, Y)
    with pytest.raises(FloatingPointError, match=r"at step [1-9]"):
        train_by(TracePenalty(1e300, after=0, every=1), net(), X, Y, lr=1e9)


@pytest.mark.parametrize(("x", "y"), [(X[:0], Y[:0]), (X, Y[:-1])], ids=["empty", "lengths"])
def test_bad_data_are_refused_before_the_first_step(x, y):
    with pytest.raises(ValueError, match="as many labels as samples"):
        train_by(plain, net(), x, y)
