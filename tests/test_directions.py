"""Axes of a landscape: against dense eigenvectors, planted paths and counted cosines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers import Hessian
from lla_helpers.directions import (
    adam_directions,
    check_directions,
    flat,
    frozen,
    hessian_directions,
    orthogonalised,
    random_directions,
    trajectory_directions,
)
from lla_helpers.model_view import ModelView
from lla_helpers.models import mlp

WIDTHS = (6, 5, 4, 3)  # 35 + 24 + 15 = 74 parameters


def net(seed=0):
    return mlp(WIDTHS, "tanh", seed=seed)


def data(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.arange(n) % 3


def cosine(d):
    return float(d[:, 0] @ d[:, 1] / (d[:, 0].norm() * d[:, 1].norm()))


def test_flat_is_the_parameters_in_order_and_a_copy():
    model = net()
    theta = flat(model)
    assert torch.equal(theta, torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    theta.zero_()
    assert flat(model).abs().sum() > 0
    assert torch.equal(flat(model, "1.bias"), model[1].bias.detach())


def test_a_column_depends_on_seed_and_number_alone():
    model, state = net(), torch.get_rng_state()
    two, five = random_directions(model, 2, seed=3), random_directions(model, 5, seed=3)
    assert torch.equal(two, five[:, :2]) and two.shape == (74, 2) and two.dtype == torch.float32
    assert not torch.equal(two, random_directions(model, 2, seed=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert random_directions(model, 1, params="*.bias").shape == (12, 1)


def test_uniform_directions_are_nearly_parallel_and_gaussian_ones_nearly_orthogonal():
    # Means over 10^5 entries: cosines scatter by about 1 / sqrt(P) = 0.003.
    model = nn.Linear(400, 250)
    uniform = random_directions(model, 2, kind="uniform")
    assert 0 <= float(uniform.min()) and float(uniform.max()) <= 1
    assert cosine(uniform) == pytest.approx(0.75, abs=0.01)
    assert cosine(random_directions(model, 2)) == pytest.approx(0, abs=0.015)


def test_unknown_kinds_and_counts_are_refused():
    with pytest.raises(ValueError, match="did you mean 'gaussian'"):
        random_directions(net(), kind="gausian")
    with pytest.raises(ValueError, match="at least 1"):
        random_directions(net(), 0)
    with pytest.raises(ValueError, match="no parameters"):
        random_directions(nn.ReLU())


def test_adam_axes_are_its_buffers():
    model, (x, y) = net(), data()
    steps = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    F.cross_entropy(model(x), y).backward()
    steps.step()
    g = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    m, v = adam_directions(model, steps).T
    # After one step m = (1 - 0.9) g and v = (1 - 0.99) g^2.
    assert torch.allclose(m, 0.1 * g) and torch.allclose(v, 0.01 * g**2, rtol=1e-4)
    assert float(v.min()) >= 0
    assert torch.equal(adam_directions(model, steps, "3.*")[:, 0], m[35:59])


def test_adam_axes_need_adam_that_has_stepped_on_this_model():
    model, (x, y) = net(), data()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(model(x), y).backward()
    sgd.step()
    for steps in (sgd, torch.optim.Adam(model.parameters())):
        with pytest.raises(ValueError, match="has taken at least one step"):
            adam_directions(model, steps)


def eigen():
    model, (x, y) = net(), data()
    H = Hessian(model.double(), F.cross_entropy, (x, y))
    return H, *np.linalg.eigh(H.dense().numpy())


@pytest.mark.parametrize(
    ("which", "ranks"),
    [("LA", (1, 2)), ("SA", (-1, -2)), ("ends", (1, -1)), ((3, -2), (3, -2)), ((2, 5), (2, 5))],
    ids=str,
)
def test_hessian_axes_are_the_eigenvectors_asked_for(which, ranks):
    H, values, vectors = eigen()
    found, axes = hessian_directions(H, which)
    descending = values[::-1]
    index = [r - 1 if r > 0 else r for r in ranks]
    assert found == pytest.approx(descending[index], abs=1e-9 * descending[0])
    for axis, i in zip(axes.T.numpy(), index, strict=True):
        assert abs(axis @ vectors[:, ::-1][:, i]) == pytest.approx(1, abs=1e-6)
        assert axis[np.argmax(abs(axis))] > 0


def test_largest_modulus_may_be_negative():
    H = torch.diag(torch.tensor([3.0, -5.0, 1.0, 2.0], dtype=torch.float64))
    values, axes = hessian_directions(H, "LM")
    assert values == pytest.approx([-5, 3])
    assert torch.allclose(axes, torch.eye(4, dtype=torch.float64)[:, [1, 0]], atol=1e-6)


@pytest.mark.parametrize("which", [(0, 1), (1, 99), (1.0, 2)], ids=str)
def test_ranks_beyond_the_spectrum_are_refused(which):
    with pytest.raises(ValueError, match="ranks are counted"):
        hessian_directions(torch.eye(4), which)


def test_an_unknown_choice_suggests_one():
    with pytest.raises(ValueError, match="did you mean 'ends'"):
        hessian_directions(torch.eye(4), "end")


def test_a_planted_plane_is_found():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(300, 2, generator=generator, dtype=torch.float64)).Q
    t = torch.linspace(0, 1, 30, dtype=torch.float64)
    path = torch.stack([3 * (1 - t), (1 - t) * t], 1) @ basis.T + 7.0
    axes, coordinates, shares = trajectory_directions(path)
    assert torch.allclose(basis @ (basis.T @ axes), axes, atol=1e-8)
    assert torch.allclose(axes.T @ axes, torch.eye(2, dtype=torch.float64), atol=1e-8)
    assert shares.sum() == pytest.approx(1) and shares[0] > shares[1] > 0
    rebuilt = path[-1] + torch.from_numpy(coordinates) @ axes.T
    assert torch.allclose(rebuilt, path, atol=1e-8)
    assert np.allclose(coordinates[-1], 0)


def test_a_trajectory_that_has_no_plane_is_refused():
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(50, generator=generator)
    with pytest.raises(ValueError, match="at least 3 flat vectors"):
        trajectory_directions([point, point])
    with pytest.raises(ValueError, match="does not move"):
        trajectory_directions([point] * 5)
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        trajectory_directions([i * point.double() for i in range(5)])
    with pytest.raises(ValueError, match="not finite"):
        trajectory_directions([i * point / 0 for i in range(5)])


def test_orthogonalised_keeps_the_first_column_and_all_lengths():
    d = random_directions(net(), 3, kind="uniform")
    q = orthogonalised(d)
    gram = (q.T @ q).double()
    assert torch.allclose(q[:, 0], d[:, 0]) and torch.allclose(q.norm(dim=0), d.norm(dim=0))
    assert (gram - gram.diag().diag()).abs().max() < 1e-5 * gram.max()
    with pytest.raises(ValueError, match="a combination of those before it"):
        orthogonalised(torch.stack([d[:, 0], 2 * d[:, 0]], 1))
    with pytest.raises(ValueError, match="columns"):
        orthogonalised(d[:, 0])


def test_frozen_layers_do_not_move():
    model = net()
    d = random_directions(model, 2)
    still = frozen(model, d, ["1.*", "*.bias"])
    view = ModelView(model)
    for name, before, after in zip(
        view.theta, view.unflatten(d[:, 0]), view.unflatten(still[:, 0]), strict=True
    ):
        moves = name in ("3.weight", "5.weight")
        assert torch.equal(after, before if moves else torch.zeros_like(before)), name
    assert torch.equal(frozen(model, d[:, 1], "1.*"), frozen(model, d, "1.*")[:, 1])
    with pytest.raises(ValueError, match=r"near: 1\.weight"):
        frozen(model, d, "1.wieght")


@pytest.mark.parametrize(
    ("direction", "error", "words"),
    [
        (torch.zeros(73), ValueError, "74 entries"),
        (torch.zeros(2, 74), ValueError, r"not \(2, 74\)"),
        (torch.full((74,), torch.nan), ValueError, "finite"),
        (torch.zeros(74, dtype=torch.long), TypeError, "floating-point"),
        (np.zeros(74), TypeError, "floating-point"),
    ],
    ids=["shape", "rows", "nan", "integers", "numpy"],
)
def test_what_is_no_direction_is_refused(direction, error, words):
    with pytest.raises(error, match=words):
        check_directions(ModelView(net()), direction)
