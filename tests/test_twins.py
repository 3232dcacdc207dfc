"""Twins compute one function; which plots agree is what the algebra says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers.directions import flat, random_directions
from lla_helpers.landscape import Surface, plane
from lla_helpers.models import cnn, mlp, resnet
from lla_helpers.normalisation import normalised
from lla_helpers.training import train
from lla_helpers.twins import (
    Axes,
    Method,
    bn_pairs,
    bn_twin,
    factors,
    plot_distance,
    relu_twin,
    twin_distances,
)

GRID = np.linspace(-0.5, 0.5, 3)


def data(n=24):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def trained(model):
    x, y = data()
    train(model, x.float(), y, epochs=3, lr=0.05, batch_size=8)
    return model.double()


NETS = {
    "cnn": (lambda: cnn((3, 4), 5, batch_norm=True, side=4, classes=3), bn_twin, 2),
    "resnet": (lambda: resnet(3, 2, classes=3), bn_twin, 5),
    "mlp": (lambda: mlp((16, 6, 5, 3), batch_norm=True), bn_twin, 2),
    "plain cnn": (lambda: cnn((3, 4), 5, side=4, classes=3, act="leaky_relu"), relu_twin, 0),
    "plain mlp": (lambda: mlp((16, 6, 5, 3)), relu_twin, 0),
}


@pytest.mark.parametrize("family", ["layer", "filter"])
@pytest.mark.parametrize("name", NETS)
def test_a_twin_has_other_weights_and_the_same_function(name, family):
    make, twin_of, pairs = NETS[name]
    model, (x, _) = trained(make()), data()
    before = flat(model)
    twin = twin_of(model, family, spread=4, seed=1)
    assert len(bn_pairs(model)) == pairs
    assert torch.equal(flat(model), before), "the model itself must stay"
    assert (flat(twin) - before).norm() > 0.3 * before.norm()
    model.eval(), twin.eval()
    with torch.no_grad():
        assert torch.allclose(twin(x), model(x), rtol=1e-10, atol=1e-12)
        if twin_of is bn_twin:  # up to eps against the variance, 1e-5 against 1e-3 and more
            model.train(), twin.train()
            assert torch.allclose(twin(x), model(x), rtol=0.02, atol=0.02)


def distance(name, family, how, one_d=None):
    make, twin_of, _ = NETS[name]
    model = trained(make())
    twin = twin_of(model, family, spread=4, seed=1)
    surfaces = [
        plane(
            m,
            F.cross_entropy,
            data(),
            normalised(m, random_directions(m), how, one_d=one_d),
            GRID,
        )
        for m in (model, twin)
    ]
    return plot_distance(*surfaces)


@pytest.mark.parametrize(
    ("name", "family", "how", "one_d"),
    [
        # entry by entry, every positive rescaling cancels
        *((name, family, "weight", None) for name in NETS for family in ("layer", "filter")),
        # a factor for each filter is undone by filter norms; before batch norm, biases scale too
        ("cnn", "filter", "filter", "element"),
        ("cnn", "filter", "filter", "zero"),
        ("cnn", "layer", "filter", "vector"),
        ("resnet", "filter", "filter", "vector"),  # no bias before batch norm
        ("resnet", "filter", "filter", "keep"),
        ("resnet", "layer", "layer", None),
        ("plain mlp", "layer", "filter", None),
        ("plain cnn", "layer", "layer", None),
    ],
)
def test_plots_that_cannot_tell_twins_apart(name, family, how, one_d):
    assert distance(name, family, how, one_d) < 1e-8  # float64 rounding, through a logarithm


@pytest.mark.parametrize(
    ("name", "family", "how", "one_d"),
    [
        ("cnn", "layer", "none", None),
        ("cnn", "layer", "model", None),
        ("cnn", "filter", "layer", None),
        ("cnn", "filter", "filter", "vector"),
        ("cnn", "layer", "filter", "keep"),
        ("plain mlp", "filter", "filter", None),
        ("plain mlp", "layer", "model", None),
    ],
)
def test_plots_that_tell_twins_apart(name, family, how, one_d):
    assert distance(name, family, how, one_d) > 1e-3


def test_factors_are_one_a_layer_or_one_a_filter():
    one, each = factors(5, "layer", 4, 0, 0), factors(5, "filter", 4, 0, 0)
    assert (one == one[0]).all() and len(set(each.tolist())) == 5
    assert (each.log2().abs() >= 1).all() and (each.log2().abs() <= 2).all()
    assert torch.equal(each, factors(5, "filter", 4, 0, 0))
    assert not torch.equal(each, factors(5, "filter", 4, 0, 1))
    assert torch.equal(factors(3, "filter", 1, 0, 0), torch.ones(3, dtype=torch.float64))


def test_what_has_no_twin_is_refused():
    with pytest.raises(ValueError, match="stands before batch norm"):
        bn_twin(mlp((4, 3, 2)))
    with pytest.raises(ValueError, match="Tanh is not positively homogeneous"):
        relu_twin(mlp((4, 3, 2), "tanh"))
    with pytest.raises(ValueError, match="BatchNorm1d is not positively homogeneous"):
        relu_twin(mlp((4, 3, 2), batch_norm=True))
    with pytest.raises(ValueError, match="a Sequential"):
        relu_twin(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="did you mean 'filter'"):
        relu_twin(mlp((4, 3, 2)), "filters")
    with pytest.raises(ValueError, match="at least 1"):
        relu_twin(mlp((4, 3, 2)), spread=0.5)
    model = mlp((4, 3, 2), batch_norm=True)
    model[2].running_var.fill_(1e-7)
    with pytest.raises(ValueError, match="below eps"):
        bn_twin(model, spread=100)


def surface(loss):
    loss = np.asarray(loss, float)
    n = np.arange(loss.shape[-1], dtype=float)
    return Surface(n, n if loss.ndim == 2 else None, loss)


def test_the_distance_is_zero_for_equal_plots_and_one_at_the_references_spread():
    log = np.random.default_rng(0).normal(size=(4, 4))
    reference = surface(np.exp(log))
    assert plot_distance(reference, reference) == 0
    assert plot_distance(reference, surface(np.exp(log + log.std()))) == pytest.approx(1)
    # Units of the loss: a common factor leaves it, a power too.
    assert plot_distance(surface(np.exp(2 * log)), surface(np.exp(2 * log + 1))) == pytest.approx(
        plot_distance(reference, surface(np.exp(log + 0.5)))
    )


def test_mirror_images_count_as_equal_only_if_asked_for():
    values = np.random.default_rng(0).uniform(1, 2, size=(3, 3))
    for image in (values.T, values[::-1], values[:, ::-1], np.rot90(values)):
        pair = surface(values), surface(image)
        assert plot_distance(*pair) > 0.1 and plot_distance(*pair, symmetric=True) == 0
    line = surface(values[0]), surface(values[0, ::-1])
    assert plot_distance(*line, symmetric=True) == 0 < plot_distance(*line)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([1, 2], [1, 2, 3], "one grid"),
        ([1, 2], [1, np.inf], "not finite"),
        ([1, 2], [0, 1], "not positive"),
        ([2, 2], [1, 2], "constant"),
    ],
    ids=str,
)
def test_plots_that_cannot_be_compared_are_refused(first, second, words):
    with pytest.raises(ValueError, match=words):
        plot_distance(surface(first), surface(second))


def test_every_method_is_compared_in_the_models_unit():
    model = trained(NETS["cnn"][0]())
    twins = {"itself": model, "twin": bn_twin(model, "filter", seed=1)}
    methods = {
        "none": Method("gaussian"),
        "weight": Method("gaussian", "weight"),
        "uniform": Method("uniform", "filter", "zero"),
        "hessian": Method("hessian"),
        "normalised": Method("hessian", "filter"),
        "curvature": Method("curvature"),
        "relative": Method("relative", "filter"),
    }
    found = twin_distances(methods, model, twins, F.cross_entropy, data(), GRID, seed=2)
    assert set(found["itself"].values()) == {0.0}
    equal = {name for name, D in found["twin"].items() if D < 1e-6}
    assert equal == {"weight", "uniform", "relative"}
    # By hand, for one of them: the raw direction has the length of the model's weights for both.
    d = random_directions(model, 2, seed=2)
    d = d * flat(model).norm() / d[:, 0].norm()
    planes = [plane(m, F.cross_entropy, data(), d, GRID) for m in twins.values()]
    assert plot_distance(*planes) == pytest.approx(found["twin"]["none"], rel=1e-6)


def test_a_hessian_axis_has_its_unit_where_the_parabola_has_risen_by_four():
    model = trained(NETS["plain mlp"][0]())
    axes = Axes(model, F.cross_entropy, data())
    d, unit = axes(Method("hessian"))
    value = float(d[:, 0] @ (axes.H @ d[:, 0]))
    assert value * unit**2 / 2 == pytest.approx(4, rel=1e-4)
    d, unit = axes(Method("curvature"))
    bends = (d * (axes.H @ d)).sum(0).abs()
    assert unit == 1 and torch.allclose(bends / 2, torch.full_like(bends, 4), rtol=1e-3)
