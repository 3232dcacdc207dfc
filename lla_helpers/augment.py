"""Augmentation: other images of the same class, drawn by a seed, from torchvision's transforms.

An augmentation is called as augment(x, y, generator) and returns (x, y). `train` calls it on every
minibatch; `augmented_set` draws a set once and for all, because a Hessian needs samples that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from lla_helpers._torchvision import import_torchvision
from lla_helpers.model_view import same_random_state
from lla_helpers.pipelines import Pipeline, known

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]

CLASSES = 10


def transforms():
    import_torchvision()
    from torchvision.transforms import v2

    return v2


def each(make: Callable) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A transform of one image, drawn anew for each image of a batch."""

    def apply(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        transform = make(x)
        return torch.stack([transform(image) for image in x]), y

    return apply


def crop(x: Tensor):
    """A shift by up to an eighth of the side, at least a pixel; edges repeat themselves."""
    side = x.shape[-1]
    return transforms().RandomCrop(x.shape[-2:], max(1, side // 8), padding_mode="edge")


def flip(x: Tensor):
    """Left and right exchanged, with probability one half. Not for digits."""
    return transforms().RandomHorizontalFlip()


def rotation(x: Tensor):
    """A turn by up to 15 degrees, bilinear; what turns in from outside is 0."""
    v2 = transforms()
    return v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR)


def colour(x: Tensor):
    """Brightness, contrast and saturation by up to 40 %, hue by up to a tenth of the circle."""
    if x.shape[1] != 3:
        raise ValueError(f"colour jitter needs images with 3 channels, not {x.shape[1]}")
    return transforms().ColorJitter(0.4, 0.4, 0.4, 0.1)


def noise(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Independent normal noise on every pixel, standard deviation 0.1, cut off at 0 and 1."""
    return transforms().GaussianNoise(sigma=0.1)(x), y


def mixup(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """lambda x_i + (1 - lambda) x_{i-1}, targets likewise; lambda from Beta(0.4, 0.4), one a batch.

    Targets become shares of ten classes, (n, 10). (Zhang et al. 2018.)
    """
    if y.is_floating_point():
        raise ValueError("mixup needs labels, not shares of classes: name it once, and last")
    return transforms().MixUp(alpha=0.4, num_classes=CLASSES)(x, y)


AUGMENTATIONS = {
    "crop": each(crop),
    "flip": each(flip),
    "rotation": each(rotation),
    "noise": noise,
    "colour": each(colour),
    "mixup": mixup,
}


def augmentation(names: str | Sequence[str], then: Pipeline | None = None) -> Augmentation:
    """The named augmentations one after another; a string joins them with "+", "none" is none.

    They work on pixels between 0 and 1; `then` is the pipeline that follows. The random numbers
    come from the generator alone, and the global state stays as it was.

    Raises ValueError for an unknown name; when called, for pixels outside [0, 1].
    """
    chosen = names.split("+") if isinstance(names, str) else list(names)
    chosen = [name.strip() for name in chosen if name.strip() != "none"]
    for name in chosen:
        known("augmentation", name, AUGMENTATIONS)
    if "mixup" in chosen[:-1]:
        raise ValueError("mixup needs labels, not shares of classes: name it once, and last")

    def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if chosen and not (x.min() >= 0 and x.max() <= 1):
            raise ValueError(
                "augmentations work on pixels between 0 and 1: load with pipeline='none', and give "
                "the pipeline as `then`"
            )
        drawn = int(torch.randint(2**62, (), generator=generator))
        with same_random_state(x.device):
            torch.manual_seed(drawn)
            for name in chosen:
                x, y = AUGMENTATIONS[name](x, y)
        return (x if then is None else then(x)), y

    return augment


def augmented_set(
    x: Tensor,
    y: Tensor,
    augment: Augmentation,
    *,
    copies: int = 1,
    batch_size: int = 64,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """`copies` augmented versions of each sample, drawn once: a fixed set for the Hessian.

    The samples are taken in batches, in their order; the same seed gives the same set. Raises
    ValueError for no samples, or copies or a batch size below 1.
    """
    for name, value in (("copies", copies), ("batch_size", batch_size)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer, at least 1, not {value!r}")
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"as many labels as samples are needed, not {len(x)} and {len(y)}")
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        augment(x_batch, y_batch, generator)
        for _ in range(copies)
        for x_batch, y_batch in zip(x.split(batch_size), y.split(batch_size), strict=True)
    ]
    images, targets = zip(*drawn, strict=True)
    if any(t.is_floating_point() for t in targets):
        # A batch of one cannot be mixed with another sample, yet its target is a share, too.
        targets = [t if t.is_floating_point() else F.one_hot(t, CLASSES).float() for t in targets]
    return torch.cat(images), torch.cat(targets)
