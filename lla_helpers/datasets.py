"""Every data set of the book by name: what ships, and what a data folder may hold."""

from __future__ import annotations

from functools import partial

from lla_helpers.data import Split, load_digits, load_fonts, load_patches
from lla_helpers.pipelines import known
from lla_helpers.torchvision_data import CLASS_NAMES, load_image_folder, load_torchvision

EMBEDDED = {"digits": load_digits, "fonts": load_fonts, "patches": load_patches}

DATASETS = {
    **EMBEDDED,
    **{name: partial(load_torchvision, name) for name in CLASS_NAMES},
    "image_folder": load_image_folder,
}


def load(name: str, seed: int = 0, **options) -> Split:
    """The data set `name`, split or ordered by `seed`: DATASETS[name](seed=seed, **options).

    "digits", "fonts" and "patches" ship with the book; the others are read from a data folder (see
    `torchvision_data`), and "image_folder" needs its `folder`. All take `pipeline` and `dtype`.

    Raises ValueError for an unknown name, saying which is near, TypeError for an unknown option,
    and what the loader raises.
    """
    known("data set", name, DATASETS)
    if name == "image_folder" and "folder" not in options:
        raise ValueError("image_folder needs `folder`, with train/CLASS/* and val/CLASS/* in it")
    return DATASETS[name](seed=seed, **options)
