"""N H N: a matrix product, shared by twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lla_helpers import Hessian
from lla_helpers.directions import flat
from lla_helpers.landscape import line
from lla_helpers.model_view import ModelView
from lla_helpers.models import mlp
from lla_helpers.relative_hessian import GROUPS, RelativeHessian, sizes
from lla_helpers.training import train
from lla_helpers.twins import bn_twin, relu_twin


def data(n=24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def net(batch_norm=True):
    model, (x, y) = mlp((6, 5, 4, 3), "relu", batch_norm=batch_norm), data()
    train(model, x.float(), y, epochs=3, batch_size=8)
    return model.double()


def test_sizes_are_root_mean_squares_of_groups():
    model = net()
    view = ModelView(model)
    for how in GROUPS:
        parts = view.unflatten(sizes(model, how, one_d="vector"))
        for (name, p), size in zip(model.named_parameters(), parts, strict=True):
            w = p.detach()
            expected = {
                "weight": w.abs(),
                "filter": w.square().mean(-1, keepdim=True).sqrt().expand_as(w),
                "layer": w.square().mean().sqrt().expand_as(w),
            }[how if w.ndim > 1 else "layer"]
            assert torch.allclose(size, expected), (how, name)
    assert torch.equal(sizes(model, "weight"), flat(model).abs())
    small = torch.cat([torch.full((p.numel(),), p.ndim == 1) for p in model.parameters()])
    assert (sizes(model, one_d="zero")[small] == 0).all()
    assert (sizes(model, one_d="keep")[small] == 1).all()


@pytest.mark.parametrize(
    ("twin_of", "batch_norm", "family", "how", "shared"),
    [
        (bn_twin, True, "filter", "filter", True),
        (bn_twin, True, "layer", "layer", True),
        (bn_twin, True, "filter", "layer", False),
        (relu_twin, False, "filter", "weight", True),
        (relu_twin, False, "filter", "filter", False),
        (relu_twin, False, "layer", "filter", True),
    ],
    ids=str,
)
def test_twins_share_it_where_sizes_scale_with_the_weights(
    twin_of, batch_norm, family, how, shared
):
    model = net(batch_norm)
    twin = twin_of(model, family, seed=1)
    spectra, plain = [], []
    for m in (model, twin):
        H = Hessian(m, F.cross_entropy, data())
        N = sizes(m, how)
        op = RelativeHessian(H, N)
        dense = N[:, None] * H.dense() * N
        v = torch.ones(op.shape[0], 2, dtype=torch.float64)
        assert torch.allclose(op @ v, dense @ v) and torch.allclose(op @ v[:, 0], dense @ v[:, 0])
        spectra.append(np.linalg.eigvalsh(dense.numpy()))
        plain.append(np.linalg.eigvalsh(H.dense().numpy()))
    # float64 rounding of the dense products, relative to the largest eigenvalue
    assert np.allclose(*spectra, rtol=0, atol=1e-8 * spectra[0].max()) == shared
    assert not np.allclose(*plain, rtol=0, atol=1e-2 * plain[0].max())


def test_curvature_along_its_axes_is_its_eigenvalue():
    model = mlp((6, 5, 4, 3), "tanh").double()
    op = RelativeHessian(Hessian(model, F.cross_entropy, data()), sizes(model))
    values, axes = op.directions("LA")
    for value, axis in zip(values, axes.T, strict=True):
        along = line(model, F.cross_entropy, data(), axis, [-1e-3, 0, 1e-3])
        assert along.curvature() == pytest.approx(value, rel=1e-2)


def test_bad_sizes_are_refused():
    model, H = net(), torch.eye(3)
    with pytest.raises(ValueError, match="did you mean 'filter'"):
        sizes(model, "fliter")
    with pytest.raises(ValueError, match="did you mean 'zero'"):
        sizes(model, one_d="zeros")
    for bad in (torch.ones(2), torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, torch.nan, 1.0])):
        with pytest.raises(ValueError, match="3 finite numbers"):
            RelativeHessian(H, bad)
