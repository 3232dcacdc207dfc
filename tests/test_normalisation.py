"""Each normalisation gives each group the size of its weights, and never divides by zero."""

from __future__ import annotations

import pytest
import torch

from lla_helpers.directions import flat, random_directions
from lla_helpers.model_view import ModelView
from lla_helpers.models import cnn
from lla_helpers.normalisation import NORMALISATIONS, ONE_D, normalised


def net():
    return cnn((3, 4), 5, batch_norm=True, side=4)


def parts(model, direction):
    """(name, weights, direction), tensor by tensor."""
    view = ModelView(model)
    theta = [p.detach() for p in view.theta.values()]
    return list(zip(view.theta, theta, view.unflatten(direction), strict=True))


def rows(t):
    return t.reshape(len(t), -1)


@pytest.mark.parametrize("norm", [1, 2])
def test_filters_take_the_norm_of_their_weights(norm):
    model = net()
    d = random_directions(model, 1)[:, 0]
    for name, w, n in parts(model, normalised(model, d, "filter", norm=norm)):
        if w.ndim > 1:
            assert torch.allclose(rows(n).norm(norm, 1), rows(w).norm(norm, 1)), name
        else:  # as LLA: a 1-D tensor as a whole
            assert n.norm(norm) == pytest.approx(w.norm(norm).item(), rel=1e-5), name
    raw = dict((name, part) for name, _, part in parts(model, d))
    for name, w, n in parts(model, normalised(model, d, "filter", norm=norm)):
        along = (rows(n) * rows(raw[name])).sum() if w.ndim > 1 else 1.0
        assert along > 0, f"{name} was turned around"


@pytest.mark.parametrize("norm", [1, 2])
def test_layers_and_the_model_take_the_norms_of_their_weights(norm):
    model = net()
    d = random_directions(model, 1)[:, 0]
    for name, w, n in parts(model, normalised(model, d, "layer", norm=norm)):
        assert n.norm(norm) == pytest.approx(w.norm(norm).item(), rel=1e-5), name
    whole = normalised(model, d, "model", norm=norm)
    assert whole.norm(norm) == pytest.approx(flat(model).norm(norm).item(), rel=1e-5)
    assert torch.allclose(whole / whole.norm(), d / d.norm())


def test_weight_normalisation_is_the_product_and_none_is_nothing():
    model = net()
    d = random_directions(model, 2)
    assert torch.equal(normalised(model, d, "none"), d)
    assert torch.allclose(normalised(model, d, "weight"), d * flat(model)[:, None])


@pytest.mark.parametrize("how", NORMALISATIONS)
@pytest.mark.parametrize("one_d", ONE_D)
def test_one_d_tensors_follow_the_explicit_choice(how, one_d):
    model = net()
    d = random_directions(model, 1)[:, 0]
    raw = parts(model, d)
    for (name, w, n), (*_, before) in zip(
        parts(model, normalised(model, d, how, one_d=one_d)), raw, strict=True
    ):
        if w.ndim == 1:
            expected = {
                "keep": before,
                "vector": before * w.norm() / before.norm(),
                "element": before * w,
                "zero": torch.zeros_like(w),
            }[one_d]
            assert torch.allclose(n, expected), name


def test_with_model_normalisation_the_matrices_alone_make_the_group_if_one_d_are_apart():
    model = net()
    d = normalised(model, random_directions(model, 1)[:, 0], "model", one_d="zero")
    matrices = torch.cat([w.reshape(-1) for _, w, _ in parts(model, d) if w.ndim > 1])
    assert d.norm() == pytest.approx(matrices.norm().item(), rel=1e-5)


def test_zero_filters_and_zero_directions_stay_still():
    model = net()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias.zero_()
    d = random_directions(model, 1)[:, 0]
    d[:9] = 0  # the first filter of the first layer
    for how in NORMALISATIONS[1:]:
        n = normalised(model, d, how)
        assert torch.isfinite(n).all(), how
        kernel = parts(model, n)[0][2]
        assert not kernel[0].any() and kernel[2].any()
        if how in ("weight", "filter"):
            assert not kernel[1].any()
        if how != "model":
            assert not parts(model, n)[1][2].any()


def test_columns_are_normalised_one_by_one_and_parameters_can_be_chosen():
    model = net()
    d = random_directions(model, 3)
    both = normalised(model, d)
    assert torch.equal(both[:, 1], normalised(model, d[:, 1]))
    part = random_directions(model, 1, params="0.*")
    assert normalised(model, part, "layer", params="0.*").shape == part.shape


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"how": "fliter"}, "did you mean 'filter'"),
        ({"how": "xyz"}, "Known: none, weight, filter, layer, model"),
        ({"one_d": "zeros"}, "did you mean 'zero'"),
        ({"norm": 3}, "1 or 2"),
    ],
    ids=str,
)
def test_unknown_names_are_refused(options, words):
    model = net()
    with pytest.raises(ValueError, match=words):
        normalised(model, random_directions(model), **options)


def test_bad_directions_and_weights_are_refused():
    model = net()
    with pytest.raises(ValueError, match="a direction has shape"):
        normalised(model, torch.ones(3))
    d = random_directions(model)
    with torch.no_grad():
        model[0].weight[0] = torch.inf
    with pytest.raises(ValueError, match="weights are not finite"):
        normalised(model, d)
