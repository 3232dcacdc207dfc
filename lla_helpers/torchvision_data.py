"""MNIST, FashionMNIST, SVHN, CIFAR-10/100 and image folders, read from a data folder.

The files lie as torchvision downloads them, under one folder: the argument `folder`, else the
environment variable LLA_DATA, else data/downloads. Nothing is downloaded unless `download` is
called. Every official file is held to the MD5 digest that torchvision lists, and nothing is
unpickled: a CIFAR batch is a pickle, but its pixels and labels stand in it as plain operands, which
are read without carrying out a single instruction.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pickletools
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lla_helpers._torchvision import import_torchvision
from lla_helpers.data import DATA, Split
from lla_helpers.pipelines import Pipeline, fitted, known

Images = tuple[np.ndarray, np.ndarray]

CLASS_NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "svhn": "SVHN",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}

STRINGS = {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE",
    "SHORT_BINUNICODE",
}  # fmt: skip
INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG1"}


def load_torchvision(
    name: str,
    seed: int = 0,
    *,
    folder: Path | str | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
    pipeline: str | Pipeline = "standardised",
    dtype: torch.dtype = torch.float32,
    verify: bool = True,
) -> Split:
    """One of torchvision's data sets with its own training and test part.

    train_samples, test_samples: how many to take of each part, drawn by `seed`; None for all, in an
    order that `seed` draws. verify: hold the files to their digests; without, files of the same
    format but other contents can be read.

    Raises ValueError for an unknown name, too many samples, or a damaged file; FileNotFoundError
    for an absent one, with the path looked at and how to get it.
    """
    known("data set", name, CLASS_NAMES)
    official = getattr(datasets(), CLASS_NAMES[name])
    read = {"svhn": read_svhn, "cifar10": read_cifar, "cifar100": read_cifar}.get(name, read_mnist)
    root = data_folder(folder)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part, samples in (("train", train_samples), ("test", test_samples)):

        def content(path: Path, digest: str) -> bytes:
            return checked(name, root / path, digest if verify else None)

        try:
            images, labels = read(official, part, content)
        except (ValueError, EOFError, OSError, zlib.error, KeyError, TypeError) as error:
            if isinstance(error, FileNotFoundError) or str(error).startswith(name):
                raise
            raise ValueError(
                f"{name}: the {part} part under {root} cannot be read: {error}; {get_it(name)}"
            ) from error
        if len(images) != len(labels) or len(labels) == 0:
            raise ValueError(
                f"{name}: the {part} part under {root} has {len(images)} images and "
                f"{len(labels)} labels; {get_it(name)}"
            )
        parts.append(drawn(name, part, images, labels, samples, generator))
    (x_train, y_train), (x_test, y_test) = parts
    made = fitted(pipeline, x_train) if isinstance(pipeline, str) else pipeline
    return Split(made(x_train).to(dtype), y_train, made(x_test).to(dtype), y_test)


def load_image_folder(
    folder: Path | str,
    seed: int = 0,
    *,
    side: int = 64,
    train_samples: int | None = None,
    test_samples: int | None = None,
    pipeline: str | Pipeline = "standardised",
    dtype: torch.dtype = torch.float32,
) -> Split:
    """Images in FOLDER/train/CLASS/* and FOLDER/val/CLASS/*, as ImageNet-1K is laid out.

    The shorter side is scaled to `side` pixels and the middle square is cut out, in colour.
    train_samples, test_samples: how many of each part, drawn by `seed`; only these are opened.

    Raises FileNotFoundError where a part is missing, ValueError for parts with different classes,
    too many samples, or an image that cannot be opened, by name.
    """
    v2 = transforms_v2()
    prepare = v2.Compose([v2.PILToTensor(), v2.Resize(side, antialias=True), v2.CenterCrop(side)])
    generator = torch.Generator().manual_seed(seed)
    parts, classes = [], []
    for part, samples in (("train", train_samples), ("val", test_samples)):
        path = Path(folder) / part
        if not path.is_dir():
            raise FileNotFoundError(
                f"image_folder: {path} is not there. Lay the images out as FOLDER/train/CLASS/* "
                f"and FOLDER/val/CLASS/*, and give FOLDER as `folder`"
            )
        listed = datasets().ImageFolder(path)
        classes.append(listed.classes)
        chosen = choice("image_folder", part, len(listed), samples, generator).tolist()
        images = []
        for i in chosen:
            try:
                images.append(prepare(listed[i][0]))
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(
                    f"image_folder: {listed.samples[i][0]} cannot be opened: {error}"
                ) from error
        labels = torch.tensor([listed.samples[i][1] for i in chosen])
        parts.append((torch.stack(images).float() / 255, labels))
    if classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))
        raise ValueError(f"image_folder: classes that are not in both parts: {', '.join(odd[:5])}")
    (x_train, y_train), (x_test, y_test) = parts
    made = fitted(pipeline, x_train) if isinstance(pipeline, str) else pipeline
    return Split(made(x_train).to(dtype), y_train, made(x_test).to(dtype), y_test)


def download(name: str, folder: Path | str | None = None) -> Path:
    """Fetch a data set into the data folder with torchvision; its MD5 is checked. The folder.

    Raises ValueError for an unknown name, and what torchvision raises where there is no network.
    """
    known("data set", name, CLASS_NAMES)
    official = getattr(datasets(), CLASS_NAMES[name])
    utils = datasets().utils
    root = data_folder(folder)
    if name in ("mnist", "fashion_mnist"):
        for file, digest in official.resources:
            fetch_first(utils, official.mirrors, root / official.__name__ / "raw", file, digest)
    elif name == "svhn":
        for part in ("train", "test"):
            url, file, digest = official.split_list[part]
            utils.download_url(url, str(root), file, digest)
    else:
        utils.download_and_extract_archive(
            official.url, str(root), filename=official.filename, md5=official.tgz_md5
        )
    return root


def fetch_first(utils, mirrors: list[str], root: Path, file: str, digest: str) -> None:
    for i, mirror in enumerate(mirrors):
        try:
            utils.download_url(mirror + file, str(root), file, digest)
        except (OSError, RuntimeError):
            if i + 1 == len(mirrors):
                raise
        else:
            return


# Where, and whether it is what it should be ------------------------------------------------------


def data_folder(folder: Path | str | None = None) -> Path:
    """The argument, else LLA_DATA, else data/downloads."""
    return Path(folder or os.environ.get("LLA_DATA") or DATA / "downloads")


def get_it(name: str) -> str:
    return (
        f'get it with `python -c "from lla_helpers.torchvision_data import download; '
        f"download('{name}')\"`, or name the folder that has it as `folder` or in LLA_DATA"
    )


def checked(name: str, path: Path, digest: str | None) -> bytes:
    """The file's content. Refuses an absent file, and one with another MD5 digest."""
    if not path.is_file():
        raise FileNotFoundError(f"{name}: {path} is not there; {get_it(name)}")
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest is not None and found != digest:
        raise ValueError(
            f"{name}: {path} is damaged, truncated or another file: its MD5 is {found}, not "
            f"{digest}; {get_it(name)}"
        )
    return content


# The formats -------------------------------------------------------------------------------------


def read_mnist(official, part: str, content: Callable[[Path, str], bytes]) -> Images:
    """Two gzipped idx files; the extracted ones have no official digest and are not looked at."""
    images, labels = official.resources[:2] if part == "train" else official.resources[2:]
    raw = Path(official.__name__) / "raw"
    pixels = idx(gzip.decompress(content(raw / images[0], images[1])))
    return pixels[:, None], idx(gzip.decompress(content(raw / labels[0], labels[1])))


def idx(content: bytes) -> np.ndarray:
    """An idx file of bytes: 0, 0, 8, the number of axes, their lengths (big-endian), the bytes."""
    if content[:3] != b"\0\0\x08" or len(content) < 8:
        raise ValueError("no idx file of bytes")
    shape = np.frombuffer(content, ">u4", content[3], 4).astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if len(values) != np.prod(shape):
        raise ValueError(f"an idx file with {len(values)} values where {np.prod(shape)} should be")
    return values.reshape(shape)


def read_svhn(official, part: str, content: Callable[[Path, str], bytes]) -> Images:
    """A MATLAB file: X (height, width, channels, n), y (n, 1), where 10 stands for the digit 0."""
    from io import BytesIO

    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    _, file, digest = official.split_list[part]
    try:
        arrays = loadmat(BytesIO(content(Path(file), digest)), variable_names=("X", "y"))
    except MatReadError as error:
        raise ValueError(str(error)) from error
    return arrays["X"].transpose(3, 2, 0, 1), arrays["y"].reshape(-1) % 10


def read_cifar(official, part: str, content: Callable[[Path, str], bytes]) -> Images:
    """Batches of 3 x 32 x 32 pixels with a list of labels each."""
    key = "fine_labels" if "100" in official.base_folder else "labels"
    files = official.train_list if part == "train" else official.test_list
    batches = [operands(content(Path(official.base_folder) / f, md5), key) for f, md5 in files]
    pixels, labels = zip(*batches, strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def operands(content: bytes, key: str) -> Images:
    """Pixels and labels of a pickled CIFAR batch, taken from the operands of its instructions.

    The pixels are its one long string; the labels are the integers between the string `key` and the
    next string. No instruction is carried out, so nothing that the file says can run.
    """
    pixels, labels, within = None, [], False
    for instruction, operand, _ in pickletools.genops(content):
        if instruction.name in STRINGS:
            text = operand if isinstance(operand, str) else operand.decode("latin-1")
            within = text == key
            if len(text) >= 3072 and len(text) % 3072 == 0:
                pixels = np.frombuffer(text.encode("latin-1"), np.uint8).reshape(-1, 3, 32, 32)
        elif instruction.name in INTEGERS and within:
            labels.append(operand)
    if pixels is None or len(pixels) != len(labels):
        found = 0 if pixels is None else len(pixels)
        raise ValueError(f"a batch with {found} images and {len(labels)} labels")
    return pixels, np.array(labels)


# Samples -----------------------------------------------------------------------------------------


def choice(name: str, part: str, n: int, samples: int | None, generator: torch.Generator) -> Tensor:
    if samples is not None and not (isinstance(samples, int) and 1 <= samples <= n):
        raise ValueError(f"{name}: the {part} part has {n} samples, so {samples!r} cannot be drawn")
    return torch.randperm(n, generator=generator)[:samples]


def drawn(
    name: str, part: str, images: np.ndarray, labels: np.ndarray, samples, generator
) -> tuple[Tensor, Tensor]:
    """Some samples, pixels between 0 and 1."""
    chosen = choice(name, part, len(labels), samples, generator).numpy()
    return torch.from_numpy(images[chosen]).float() / 255, torch.from_numpy(labels[chosen]).long()


def datasets():
    return import_torchvision().datasets


def transforms_v2():
    import_torchvision()
    from torchvision.transforms import v2

    return v2
