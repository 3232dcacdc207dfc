"""Preprocessing: what each pipeline makes of the training part, and that it learns of no other."""

from __future__ import annotations

import pytest
import torch

from lla_helpers.data import load_digits, load_patches
from lla_helpers.pipelines import PIPELINES, fitted, whitened


@pytest.fixture(scope="module")
def raw():
    return load_patches(0, pipeline="none", dtype=torch.float64)


@pytest.mark.parametrize("name", PIPELINES)
def test_shape_and_dtype_stay(name, raw):
    made = fitted(name, raw.x_train)
    for dtype in (torch.float32, torch.float64):
        z = made(raw.x_test[:7].to(dtype))
        assert z.shape == (7, 3, 12, 12) and z.dtype == dtype and torch.isfinite(z).all()


@pytest.mark.parametrize("name", PIPELINES)
def test_it_is_fitted_on_the_training_part_alone(name, raw):
    """The same image comes out the same in whatever company, and images fitted on decide."""
    made = fitted(name, raw.x_train)
    assert torch.allclose(made(raw.x_test)[:1], made(raw.x_test[:1]), rtol=0, atol=1e-12)
    other = fitted(name, raw.x_train[:200])(raw.x_test)
    assert torch.equal(other, made(raw.x_test)) == (name in ("none", "per_image"))


def test_standardised_channels_have_mean_zero_and_variance_one(raw):
    z = fitted("standardised", raw.x_train)(raw.x_train)
    assert z.mean((0, 2, 3)).abs().max() < 1e-12
    assert (z.transpose(0, 1).flatten(1).std(1) - 1).abs().max() < 1e-12


def test_digits_are_standardised_as_ever():
    """By the mean and the standard deviation over all training pixels, to the last bit."""
    d, raw = load_digits(2), load_digits(2, pipeline="none", dtype=torch.float64)
    x = 16 * raw.x_train
    assert torch.equal(((x - x.mean()) / x.std()).float(), d.x_train)


def test_whitening_makes_the_covariance_what_the_floor_leaves(raw):
    """U S (S + c)^-1 U^T with c = floor tr(S)/D, exactly."""
    floor = 0.1
    x = raw.x_train.flatten(1)
    S = torch.cov(x.T)
    values, U = torch.linalg.eigh(S)
    expected = (U * (values / (values + floor * values.mean()))) @ U.T
    z = whitened(raw.x_train, floor)(raw.x_train).flatten(1)
    assert (torch.cov(z.T) - expected).abs().max() < 1e-9  # float64, 432 x 432
    assert z.mean(0).abs().max() < 1e-9
    # The directions that carry the images come out alike: the two largest differ 2.5-fold before.
    after = torch.linalg.eigvalsh(torch.cov(z.T))
    assert values[-1] / values[-2] > 2 and after[-1] / after[-2] < 1.01


def test_whitening_of_pixels_that_never_change():
    d = load_digits(0, pipeline="none")
    constant = d.x_train.flatten(1).std(0) == 0
    assert constant.any()
    z = fitted("whitened", d.x_train)(d.x_test)
    assert z.abs().max() < 50 and torch.isfinite(z).all()


def test_per_image_has_mean_zero_and_variance_one_and_blank_images_become_zero(raw):
    x = torch.cat([raw.x_train[:50], torch.full((1, 3, 12, 12), 0.3, dtype=torch.float64)])
    z = fitted("per_image", raw.x_train)(x)
    assert z[:50].mean((1, 2, 3)).abs().max() < 1e-12
    assert (z[:50].std((1, 2, 3), correction=0) - 1).abs().max() < 1e-9
    assert (z[50] == 0).all()


def test_what_cannot_be_fitted_is_refused(raw):
    with pytest.raises(ValueError, match=r"unknown pipeline 'whiten'; did you mean 'whitened'\?"):
        fitted("whiten", raw.x_train)
    for bad in (raw.x_train[:1], raw.x_train[:0], raw.x_train[0], torch.zeros(5)):
        with pytest.raises(ValueError, match="two or more images"):
            fitted("none", bad)
    with pytest.raises(ValueError, match="not finite"):
        fitted("none", raw.x_train.clone().fill_(torch.nan))
    for name in ("standardised", "whitened"):
        with pytest.raises(ValueError, match="nothing to"):
            fitted(name, torch.full((4, 1, 3, 3), 0.5))
