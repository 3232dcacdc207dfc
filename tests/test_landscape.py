"""Surfaces: against models moved by hand, dense curvature, and the model left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers import Hessian
from lla_helpers.directions import (
    adam_directions,
    flat,
    hessian_directions,
    orthogonalised,
    random_directions,
)
from lla_helpers.landscape import (
    LossAt,
    Surface,
    adam_surface,
    between,
    line,
    plane,
    quadratic,
    recalibrated,
)
from lla_helpers.models import cnn, mlp
from lla_helpers.training import accuracy, train

A, B = np.linspace(-0.5, 0.5, 5), np.linspace(-0.3, 0.3, 3)


def data(n=24, side=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, side, side, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.arange(n) % 3


def net(batch_norm=True, seed=0, dtype=torch.float32):
    model = cnn((2, 3), 4, batch_norm=batch_norm, side=4, classes=3, seed=seed)
    train(model, *data(), epochs=2, lr=0.05, batch_size=8, seed=seed)
    return model.to(dtype)


def moved(model, vector):
    """A copy of the model with a flat vector added to its parameters."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        nn.utils.vector_to_parameters(flat(model) + vector, copied.parameters())
    return copied


@torch.no_grad()
def loss_of(model, x, y):
    return F.cross_entropy(model(x).double(), y).item()


@pytest.mark.parametrize("mode", ["eval", "train", "recalibrate"])
def test_a_plane_is_the_loss_of_the_moved_model(mode):
    model, (x, y) = net(), data()
    d = random_directions(model) * 0.1
    found = plane(model, F.cross_entropy, (x, y), d, A, B, mode=mode)
    assert found.loss.shape == (3, 5) == found.accuracy.shape
    for j, b in enumerate(B):
        for i, a in enumerate(A):
            by_hand = moved(model, a * d[:, 0] + b * d[:, 1])
            by_hand.eval()
            if mode == "train":
                by_hand.train()
            if mode == "recalibrate":
                torch.optim.swa_utils.update_bn([x], by_hand)
                by_hand.eval()
            # float32 sums in another order
            assert found.loss[j, i] == pytest.approx(loss_of(by_hand, x, y), rel=1e-5)
            if mode != "train":
                assert found.accuracy[j, i] == pytest.approx(accuracy(by_hand, x, y))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("at_once", [2, 7, 100])
def test_vmap_gives_the_same_surface(batch_norm, at_once):
    model = net(batch_norm)
    d = random_directions(model) * 0.1
    loop, together = (
        plane(model, F.cross_entropy, data(), d, A, B, at_once=n) for n in (1, at_once)
    )
    assert np.allclose(together.loss, loop.loss, rtol=1e-6, atol=0)
    assert np.array_equal(together.accuracy, loop.accuracy)


def test_batches_of_any_size_give_the_same_surface_except_where_they_are_the_batches():
    model, (x, y) = net(), data()
    d = random_directions(model, 1)[:, 0] * 0.1
    pieces = [(x[:7], y[:7]), (x[7:], y[7:])]
    whole = line(model, F.cross_entropy, (x, y), d, A)
    for options in ({}, {"chunk_size": 5}):
        assert np.allclose(line(model, F.cross_entropy, pieces, d, A, **options).loss, whole.loss)
    in_train = [line(model, F.cross_entropy, part, d, A, mode="train") for part in (pieces, (x, y))]
    assert not np.allclose(in_train[0].loss, in_train[1].loss, rtol=1e-3)


@pytest.mark.parametrize("which", ["LA", "ends"])
def test_curvature_along_a_hessian_axis_is_the_eigenvalue(which):
    # tanh is smooth; h = 1e-3 leaves a relative error of h^2, and float64 rounding of 1e-16 / h^2.
    model, (x, y) = mlp((16, 6, 5, 3), "tanh").double(), data(dtype=torch.float64)
    H = Hessian(model, F.cross_entropy, (x, y))
    values, axes = hessian_directions(H, which)
    for value, axis in zip(values, axes.T, strict=True):
        found = line(model, F.cross_entropy, (x, y), axis, [-1e-3, 0, 1e-3])
        assert found.curvature() == pytest.approx(value, rel=1e-2)
        assert line(
            model, F.cross_entropy, (x, y), torch.stack([axis] * 2, 1), [-1e-3, 0, 1e-3]
        ).curvature() == pytest.approx([value] * 2, rel=1e-2)
    both = plane(model, F.cross_entropy, (x, y), axes, [-1e-3, 0, 1e-3])
    assert both.curvature() == pytest.approx(values[0], rel=1e-2)


def test_curvature_needs_the_origin_in_the_middle():
    for a, b in (([0, 1, 2], None), ([-1, 0, 2], None), ([0], None), ([-1, 0, 1], [0, 1, 2])):
        b = None if b is None else np.array(b, float)
        a = np.array(a, float)
        shape = len(a) if b is None else (len(b), len(a))
        with pytest.raises(ValueError, match="origin in its middle"):
            Surface(a, b, np.ones(shape)).curvature()


def test_the_quadratic_model_is_the_second_order_taylor_polynomial():
    model, (x, y) = mlp((16, 6, 5, 3), "tanh").double(), data(dtype=torch.float64)
    H = Hessian(model, F.cross_entropy, (x, y))
    d = random_directions(model)
    h = 1e-3 * np.array([-1, 0, 1])
    true = plane(model, F.cross_entropy, (x, y), d, h)
    model_of = quadratic(H, d, h)
    # The remainder is of third order: about h^3 |d|^3 times third derivatives.
    assert np.abs(model_of.loss - true.loss).max() < 1e-2 * np.ptp(true.loss)
    assert np.abs(model_of.loss - true.loss).max() < 1e-5
    along = quadratic(H, d[:, 0], h)
    assert np.allclose(along.loss, model_of.loss[1]) and along.b is None
    assert along.curvature() == pytest.approx(float(d[:, 0] @ (H @ d[:, 0])))


@pytest.mark.parametrize("mode", ["eval", "train", "recalibrate"])
def test_the_model_is_left_as_it_was(mode):
    model, (x, y) = net(), data()
    model.train()
    model[1].eval()  # modes as they were, module by module
    F.cross_entropy(model(x), y).backward()
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    momenta = [getattr(m, "momentum", None) for m in model.modules()]
    grads = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    d = random_directions(model)
    plane(model, F.cross_entropy, (x, y), d, A, B, mode=mode)
    between(model, net(seed=1), F.cross_entropy, (x, y), A, mode=mode)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [m.training for m in model.modules()]
    assert momenta == [getattr(m, "momentum", None) for m in model.modules()]
    assert all(torch.equal(g, p.grad) for g, p in zip(grads, model.parameters(), strict=True))
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_the_model_is_left_as_it_was_after_an_error_too():
    model = net()

    def broken(z, y):
        raise RuntimeError("stop")

    momenta = [getattr(m, "momentum", None) for m in model.modules()]
    d = random_directions(model)
    for mode in ("eval", "recalibrate"):
        with pytest.raises(RuntimeError, match="stop"):
            plane(model, broken, data(), d, A, mode=mode)
    assert momenta == [getattr(m, "momentum", None) for m in model.modules()]
    assert not model.training


def test_between_meets_both_networks_and_their_buffers():
    model, other, (x, y) = net(), net(seed=1), data()
    found = between(model, other, F.cross_entropy, (x, y), [0, 0.5, 1])
    assert found.loss[0] == pytest.approx(loss_of(model, x, y), rel=1e-6)
    assert found.loss[2] == pytest.approx(loss_of(other, x, y), rel=1e-6)
    middle = copy.deepcopy(model)
    states = model.state_dict(), other.state_dict()
    middle.load_state_dict(
        {n: (a + states[1][n]) / 2 if a.is_floating_point() else a for n, a in states[0].items()}
    )
    assert found.loss[1] == pytest.approx(loss_of(middle, x, y), rel=1e-5)
    again = between(model, other, F.cross_entropy, (x, y), [0.5], mode="recalibrate")
    torch.optim.swa_utils.update_bn([x], middle)
    middle.eval()
    assert again.loss[0] == pytest.approx(loss_of(middle, x, y), rel=1e-5)


def test_between_needs_two_networks_of_one_kind():
    with pytest.raises(ValueError, match="same names and shapes"):
        between(net(), net(batch_norm=False), F.cross_entropy, data(), A)
    with pytest.raises(ValueError, match="at_once=1"):
        between(net(), net(seed=1), F.cross_entropy, data(), A, at_once=4)


def test_recalibrated_is_a_copy_with_the_datas_statistics():
    model, (x, y) = net(), data()
    with torch.no_grad():
        model[1].running_mean += 5
    stale = loss_of(model, x, y)
    fresh = recalibrated(model, (x, y))
    assert loss_of(model, x, y) == stale and not fresh.training
    z = model[0](x)
    assert torch.allclose(fresh[1].running_mean, z.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(fresh[1].running_var, z.var((0, 2, 3)), rtol=1e-4)


def test_recalibration_can_use_other_data():
    model, (x, y) = net(), data()
    d = random_directions(model, 1)[:, 0] * 0.1
    other = data(seed=1)
    found = line(model, F.cross_entropy, (x, y), d, [0], mode="recalibrate", calibrate=other)
    assert found.loss[0] == pytest.approx(loss_of(recalibrated(model, other), x, y), rel=1e-5)
    with pytest.raises(ValueError, match="only for it"):
        line(model, F.cross_entropy, (x, y), d, [0], calibrate=other)


def test_recalibration_without_batch_norm_is_refused():
    model = net(batch_norm=False)
    with pytest.raises(ValueError, match="no batch-norm layer"):
        line(model, F.cross_entropy, data(), flat(model), A, mode="recalibrate")
    with pytest.raises(ValueError, match="no batch-norm layer"):
        recalibrated(model, data())


def test_losses_that_are_not_finite_stay_and_are_counted():
    model, (x, y) = net(batch_norm=False), data()
    d = flat(model)
    far = line(model, F.cross_entropy, (x, y), d, [0, 1e13, 1e25])
    assert np.isfinite(far.loss[0]) and far.bad.tolist()[0] is False
    assert far.bad[2] and far.bad.shape == (3,)
    assert far.accuracy[2] == 0  # an output that is not finite is no right answer
    pair = plane(model, F.cross_entropy, (x, y), torch.stack([d, d], 1), [0, 1e25], [0])
    assert pair.bad.tolist() == [[False, True]]


def test_capped_losses_end_at_the_cap_and_nan_stays():
    surface = Surface(np.arange(4.0), None, np.array([1, 5, np.inf, np.nan]))
    assert np.array_equal(surface.capped(3).loss, [1, 3, 3, np.nan], equal_nan=True)
    with pytest.raises(ValueError, match="more than 0"):
        surface.capped(0)


def test_adams_equation_is_its_next_step():
    model, (x, y) = net(batch_norm=False, dtype=torch.float64), data(dtype=torch.float64)
    steps = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        steps.zero_grad()
        F.cross_entropy(model(x), y).backward()
        steps.step()
    m, v = adam_directions(model, steps).T
    found = adam_surface(
        model, steps, F.cross_entropy, (x, y), [0, 1, 2], [1, 4], lr=0.01, eps=1e-12
    )
    by_hand = moved(model, -0.01 * m / v.sqrt().clamp(min=1e-30))
    assert found.loss[0, 1] == pytest.approx(loss_of(by_hand, x, y), rel=1e-6)
    assert found.loss[0, 0] == pytest.approx(loss_of(model, x, y), rel=1e-9)
    # A function of a / sqrt(b) alone, up to eps.
    assert found.loss[1, 2] == pytest.approx(found.loss[0, 1], rel=1e-6)
    with pytest.raises(ValueError, match="must not be negative"):
        adam_surface(model, steps, F.cross_entropy, (x, y), [0, 1], [-1, 1], lr=0.01)


def test_chosen_parameters_move_alone_and_regression_has_no_accuracy():
    model, (x, y) = net(), data()
    d = random_directions(model, 1, params="0.*")[:, 0]
    found = line(model, F.cross_entropy, (x, y), d, [0, 0.3], params="0.*")
    whole = torch.zeros_like(flat(model))
    whole[: len(d)] = d
    assert found.loss[1] == pytest.approx(loss_of(moved(model, 0.3 * whole), x, y), rel=1e-5)
    squared = line(model, F.mse_loss, (x, torch.zeros(len(x), 3)), whole, [0, 1])
    assert squared.accuracy is None and np.isfinite(squared.loss).all()


def test_displacements_are_made_one_group_at_a_time():
    # A grid of n points must not hold n vectors of length P: the iterator is read as it is used.
    at = LossAt(net(), F.cross_entropy, data(), at_once=3)
    from lla_helpers.landscape import evaluated

    alive, seen = [], []
    real = at.together

    def watched(displacements):
        seen.append((len(displacements), len(alive)))
        return real(displacements)

    at.together = watched

    def points():
        for i in range(7):
            alive.append(i)
            yield torch.zeros_like(at.start)

    assert evaluated(at, points(), 7, False).shape == (7, 2)
    assert seen == [(3, 3), (3, 6), (1, 7)]


def test_progress_goes_to_stderr(capsys):
    model = net(batch_norm=False)
    line(model, F.cross_entropy, data(), flat(model), A, progress=True)
    told = capsys.readouterr()
    assert "landscape" in told.err and told.out == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "evall"}, "did you mean 'eval'"),
        ({"mode": "train", "at_once": 4}, "vmap cannot do"),
        ({"mode": "recalibrate", "at_once": 4}, "vmap cannot do"),
        ({"at_once": 0}, "at least 1"),
        ({"params": "9.weight"}, "no parameter is named"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, words):
    model = net()
    with pytest.raises(ValueError, match=words):
        line(model, F.cross_entropy, data(), flat(model), A, **options)


def test_bad_directions_grids_losses_and_models_are_refused():
    model, pair = net(), data()
    d = random_directions(model)
    with pytest.raises(ValueError, match="a direction has shape"):
        plane(model, F.cross_entropy, pair, torch.ones(3, 2), A)
    with pytest.raises(ValueError, match="finite"):
        line(model, F.cross_entropy, pair, d[:, 0] / 0, A)
    with pytest.raises(ValueError, match="two directions"):
        plane(model, F.cross_entropy, pair, d[:, 0], A)
    for a in ([], [0, np.nan], [[0, 1], [2, 3]]):
        with pytest.raises(ValueError, match="a row of finite numbers"):
            line(model, F.cross_entropy, pair, d[:, 0], a)
    with pytest.raises(ValueError, match="scalar"):
        line(model, lambda z, y: F.cross_entropy(z, y, reduction="none"), pair, d[:, 0], A)
    with pytest.raises(ValueError, match="empty"):
        line(model, F.cross_entropy, (pair[0][:0], pair[1][:0]), d[:, 0], A)
    dropping = nn.Sequential(model, nn.Dropout(0.5))
    with pytest.raises(ValueError, match="random"):
        line(dropping, F.cross_entropy, pair, flat(dropping), A, mode="train")
    assert np.isfinite(line(dropping, F.cross_entropy, pair, flat(dropping), [0]).loss).all()


def test_orthogonalised_axes_span_the_same_plane():
    model, pair = net(batch_norm=False), data()
    d = random_directions(model, kind="uniform") * 0.1
    q = orthogonalised(d)
    # theta + a d1 + b d2 in the new coordinates: the loss at one point is one number.
    solved = torch.linalg.lstsq(q.double(), d[:, 1].double()).solution
    old = plane(model, F.cross_entropy, pair, d, [0], [1]).loss
    new = plane(model, F.cross_entropy, pair, q, [solved[0].item()], [solved[1].item()]).loss
    assert new == pytest.approx(old, rel=1e-4)
