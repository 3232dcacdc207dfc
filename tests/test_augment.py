"""Augmentation: what each does to pixels and labels, and that a seed decides it."""

from __future__ import annotations

import pytest
import torch

from lla_helpers.augment import AUGMENTATIONS, augmentation, augmented_set
from lla_helpers.data import load_patches
from lla_helpers.models import mlp
from lla_helpers.pipelines import fitted
from lla_helpers.training import train


@pytest.fixture(scope="module")
def patches():
    d = load_patches(0, pipeline="none")
    return d.x_train[:96], d.y_train[:96]


def drawn(names, patches, seed=0, **options):
    return augmented_set(*patches, augmentation(names), seed=seed, **options)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_it_changes_pixels_within_bounds_and_follows_its_seed(name, patches):
    state = torch.get_rng_state()
    x, y = drawn(name, patches)
    assert torch.equal(state, torch.get_rng_state())
    assert x.shape == patches[0].shape and x.dtype == torch.float32 and len(y) == 96
    assert x.min() >= 0 and x.max() <= 1 and not torch.equal(x, patches[0])
    again, other = drawn(name, patches), drawn(name, patches, seed=1)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    assert not torch.equal(x, other[0])
    if name != "mixup":
        assert torch.equal(y, patches[1])


def test_none_is_none(patches):
    x, y = drawn("none", patches)
    assert torch.equal(x, patches[0]) and torch.equal(y, patches[1])


def test_flip_is_a_mirror_for_about_half(patches):
    x, _ = drawn("flip", patches)
    same = (x == patches[0]).flatten(1).all(1)
    mirrored = (x == patches[0].flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 30 < mirrored.sum() < 66  # 48 +- 4.9: four standard deviations are 20


def test_crop_is_a_shift_by_at_most_an_eighth(patches):
    x, _ = drawn("crop", patches)
    padded = torch.nn.functional.pad(patches[0], (1, 1, 1, 1), mode="replicate")
    shifts = [padded[:, :, i : i + 12, j : j + 12] for i in range(3) for j in range(3)]
    found = torch.stack([(x == s).flatten(1).all(1) for s in shifts])
    assert found.any(0).all()
    assert found.any(1).sum() == 9, "every shift occurs"


def test_rotation_keeps_the_middle(patches):
    x, _ = drawn("rotation", patches)
    change = (x - patches[0]).abs().mean((0, 1))
    assert change[5:7, 5:7].mean() < change[:2, :2].mean() / 2


def test_colour_changes_colours_and_keeps_shapes(patches):
    x, _ = drawn("colour", patches)
    before, after = (v.mean(1).flatten(1) for v in (patches[0], x))  # brightness
    centred = [(v - v.mean(1, keepdim=True)) for v in (before, after)]
    cosine = torch.nn.functional.cosine_similarity(*centred)
    assert cosine.median() > 0.97
    with pytest.raises(ValueError, match="3 channels, not 1"):
        augmentation("colour")(torch.rand(2, 1, 8, 8), torch.zeros(2).long(), torch.Generator())


def test_noise_has_its_size():
    x = torch.full((40, 1, 16, 16), 0.5)
    noisy, _ = augmented_set(x, torch.zeros(40).long(), augmentation("noise"))
    assert abs((noisy - 0.5).std() - 0.1) < 0.004  # 10,240 normal numbers: s.e. 0.0007


def test_mixup_mixes_images_and_targets_alike(patches):
    x, y = drawn("mixup", patches, batch_size=32)
    assert y.shape == (96, 10) and torch.allclose(y.sum(1), torch.ones(96))
    for i in range(0, 96, 32):
        images, labels = patches[0][i : i + 32], patches[1][i : i + 32]
        hot = torch.nn.functional.one_hot(labels, 10).float()
        before = hot - hot.roll(1, 0)
        moved = y[i : i + 32] - hot.roll(1, 0)
        share = (moved * before).sum() / (before * before).sum()
        mixed = share * images + (1 - share) * images.roll(1, 0)
        assert torch.allclose(x[i : i + 32], mixed, atol=1e-5)
    # 65 samples: the last batch holds one, and its targets are shares all the same.
    assert augmented_set(patches[0][:65], patches[1][:65], augmentation("mixup"))[1].shape[1] == 10


def test_they_compose_in_order_and_a_pipeline_follows(patches):
    pipeline = fitted("standardised", patches[0])
    both = augmentation("crop+flip", then=pipeline)
    x, _ = augmented_set(*patches, both)
    plain, _ = drawn(["crop", "flip"], patches)
    assert torch.equal(x, pipeline(plain))


def test_copies_differ(patches):
    x, y = drawn("crop", patches, copies=3)
    assert len(x) == 288 and torch.equal(y, patches[1].repeat(3))
    assert not torch.equal(x[:96], x[96:192])


def test_training_takes_it_for_every_batch(patches):
    """Deterministic by the seed of training, and another network than without."""
    weights = []
    for augment in ("crop+flip+mixup", "crop+flip+mixup", "none"):
        net = mlp((432, 4, 10))
        pipeline = fitted("standardised", patches[0])
        train(net, *patches, epochs=1, augment=augmentation(augment, then=pipeline), seed=3)
        weights.append(net[1].weight.detach())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_bad_input_is_refused_in_one_line(patches):
    x, y = patches
    with pytest.raises(ValueError, match=r"unknown augmentation 'flipp'; did you mean 'flip'\?"):
        augmentation("crop+flipp")
    with pytest.raises(ValueError, match="mixup needs labels"):
        augmentation("mixup+crop")
    with pytest.raises(ValueError, match="pixels between 0 and 1"):
        augmented_set(3 * x, y, augmentation("flip"))
    with pytest.raises(ValueError, match="pixels between 0 and 1"):
        augmented_set(x * torch.nan, y, augmentation("flip"))
    with pytest.raises(ValueError, match="as many labels as samples"):
        augmented_set(x[:0], y[:0], augmentation("flip"))
    for options in ({"copies": 0}, {"copies": 1.5}, {"batch_size": True}):
        with pytest.raises(ValueError, match="must be an integer, at least 1"):
            augmented_set(x, y, augmentation("flip"), **options)
