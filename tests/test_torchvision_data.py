"""Torchvision's sets from tiny files in their real formats, written here byte for byte.

The files' contents are ours, so their digests are too: they are read with verify=False, or under
digests put in place of the official ones.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from lla_helpers import torchvision_data
from lla_helpers.datasets import load
from lla_helpers.torchvision_data import (
    CLASS_NAMES,
    data_folder,
    datasets,
    download,
    load_torchvision,
    operands,
)

RNG = np.random.default_rng(0)


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_mnist(root, name):
    made = {}
    for part, prefix, n in (("train", "train", 30), ("test", "t10k", 12)):
        x = RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        y = (np.arange(n) % 10).astype(np.uint8)
        write_idx(root / name / "raw" / f"{prefix}-images-idx3-ubyte.gz", x)
        write_idx(root / name / "raw" / f"{prefix}-labels-idx1-ubyte.gz", y)
        made[part] = x[:, None], y
    return made


def write_svhn(root):
    made = {}
    for part, n in (("train", 30), ("test", 12)):
        x = RNG.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        y = np.arange(n) % 10
        stored = np.where(y == 0, 10, y).astype(np.uint8)[:, None]
        savemat(root / f"{part}_32x32.mat", {"X": x.transpose(2, 3, 1, 0), "y": stored})
        made[part] = x, y
    return made


def python2_pickle(**entries) -> bytes:
    """Protocol 2 as Python 2 wrote it: byte strings as BINSTRING, lists in runs of 1000."""

    def string(text: bytes) -> bytes:
        if len(text) < 256:
            return b"U" + bytes([len(text)]) + text
        return b"T" + struct.pack("<I", len(text)) + text

    def integer(i: int) -> bytes:
        return b"K" + bytes([i]) if i < 256 else b"M" + struct.pack("<H", i)

    def value(v) -> bytes:
        if isinstance(v, np.ndarray):
            minus = b"J\xff\xff\xff\xff"
            dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x01U\x01|NNN" + 2 * minus + b"K\x00tb"
            shape = integer(v.shape[0]) + integer(v.shape[1]) + b"\x86"
            return (
                b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
                b"(K\x01" + shape + dtype + b"\x89" + string(v.tobytes()) + b"tb"
            )
        if isinstance(v, list):
            runs = [v[i : i + 1000] for i in range(0, len(v), 1000)]
            item = integer if isinstance(v[0], int) else string
            return b"]q\x04" + b"".join(b"(" + b"".join(map(item, run)) + b"e" for run in runs)
        return string(v)

    body = b"".join(string(k.encode()) + b"q\x02" + value(v) for k, v in entries.items())
    return b"\x80\x02}q\x01(" + body + b"u."


def write_cifar(root, classes):
    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    folder.mkdir()
    key = "labels" if classes == 10 else "fine_labels"
    names = [f"data_batch_{i}" for i in range(1, 6)] if classes == 10 else ["train"]
    made = {"train": [], "test": []}
    for name in (*names, "test_batch" if classes == 10 else "test"):
        x = RNG.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
        y = RNG.integers(0, classes, 20).tolist()
        entries = {"batch_label": b"a batch", key: y, "data": x.reshape(20, -1)}
        if classes == 100:
            entries = {"data": x.reshape(20, -1), "coarse_labels": [7] * 20, key: y}
        entries["filenames"] = [b"photo_%d.png" % i for i in range(20)]
        (folder / name).write_bytes(python2_pickle(**entries))
        made["test" if "test" in name else "train"].append((x, np.array(y)))
    return {part: tuple(map(np.concatenate, zip(*b, strict=True))) for part, b in made.items()}


WRITERS = {
    "mnist": lambda root: write_mnist(root, "MNIST"),
    "fashion_mnist": lambda root: write_mnist(root, "FashionMNIST"),
    "svhn": write_svhn,
    "cifar10": lambda root: write_cifar(root, 10),
    "cifar100": lambda root: write_cifar(root, 100),
}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    return request.param, tmp_path, WRITERS[request.param](tmp_path)


def test_every_set_has_a_writer_here():
    assert set(WRITERS) == set(CLASS_NAMES)


def test_images_and_labels_come_out_as_they_went_in(written):
    name, root, made = written
    d = load(name, 5, folder=root, verify=False, pipeline="none")
    order = torch.Generator().manual_seed(5)
    for part, x, y in (("train", d.x_train, d.y_train), ("test", d.x_test, d.y_test)):
        images, labels = made[part]
        drawn = torch.randperm(len(labels), generator=order).numpy()
        assert x.shape == (len(labels), *images.shape[1:]) and x.dtype == torch.float32
        assert np.array_equal((x * 255).round().to(torch.uint8).numpy(), images[drawn])
        assert y.dtype == torch.int64 and y.tolist() == labels[drawn].tolist()


def test_a_pipeline_and_some_samples(written):
    name, root, _ = written
    d = load(name, folder=root, verify=False, train_samples=10, test_samples=3)
    assert len(d.x_train) == len(d.y_train) == 10 and len(d.x_test) == len(d.y_test) == 3
    assert abs(d.x_train.mean()) < 1e-5
    for wanted in (0, 10**6, 2.5):
        with pytest.raises(ValueError, match=rf"{name}: the test part has \d+ samples"):
            load(name, folder=root, verify=False, test_samples=wanted)


def test_other_contents_than_the_official_ones_are_refused(written):
    name, root, _ = written
    with pytest.raises(
        ValueError, match=rf"^{name}: .* is damaged, truncated or another file: its"
    ):
        load(name, folder=root)


def test_files_with_the_listed_digests_pass(tmp_path, monkeypatch):
    write_mnist(tmp_path, "MNIST")
    digests = [
        (file, hashlib.md5((tmp_path / "MNIST" / "raw" / file).read_bytes()).hexdigest())
        for file, _ in datasets().MNIST.resources
    ]
    monkeypatch.setattr(datasets().MNIST, "resources", digests)
    assert load("mnist", folder=tmp_path).x_train.shape == (30, 1, 28, 28)


def test_an_absent_file_is_told_with_its_path_and_how_to_get_it(written, monkeypatch):
    name, root, _ = written
    for file in root.rglob("*"):
        if file.is_file() and ("test" in file.name or file.name.startswith("t10k-l")):
            file.unlink()
    with pytest.raises(FileNotFoundError, match="is not there") as raised:
        load(name, folder=root, verify=False)
    said = str(raised.value)
    assert said.startswith(f"{name}: {root}") and "\n" not in said
    assert f"download('{name}')" in said and "LLA_DATA" in said
    monkeypatch.setenv("LLA_DATA", str(root / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        load(name)


def test_a_truncated_file_is_told(written):
    name, root, _ = written
    files = [f for f in root.rglob("*") if f.is_file()]
    for file in files:
        content = file.read_bytes()
        for length in (0, 3, len(content) // 2):
            file.write_bytes(content[:length])
            with pytest.raises(ValueError, match=rf"^{name}: .*(cannot be read|images and)") as e:
                load(name, folder=root, verify=False)
            assert "download" in str(e.value)
        file.write_bytes(content)


# Nothing is unpickled ----------------------------------------------------------------------------


def test_the_cifar_batches_of_these_tests_are_pickles_as_python_reads_them():
    x = RNG.integers(0, 256, (1200, 3072), dtype=np.uint8)
    y = (np.arange(1200) % 10).tolist()
    content = python2_pickle(batch_label=b"one", labels=y, data=x, filenames=[b"a.png"] * 3)
    entry = pickle.loads(content, encoding="latin1")
    assert np.array_equal(entry["data"], x) and entry["labels"] == y
    pixels, labels = operands(content, "labels")
    assert np.array_equal(pixels.reshape(1200, -1), x) and labels.tolist() == y


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_what_a_pickle_would_do_is_not_done(tmp_path):
    target = tmp_path / "made_by_the_pickle"
    evil = pickle.dumps({"labels": [1, 2], "data": Evil(target)}, protocol=2)
    with pytest.raises(ValueError, match="0 images and 2 labels"):
        operands(evil, "labels")
    assert not target.exists()
    pickle.loads(evil)["data"].close()
    assert target.exists(), "and it would have been done"


# Folders of images -------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    for part, n in (("train", 4), ("val", 2)):
        for i, name in enumerate(("ant", "bee")):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(n):
                pixels = np.full((20 + k, 30, 3), 40 + 100 * i + k, np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{k}.png")
    return tmp_path


def test_image_folder(images):
    d = load("image_folder", folder=images, side=16, pipeline="none")
    assert d.x_train.shape == (8, 3, 16, 16) and d.x_test.shape == (4, 3, 16, 16)
    assert sorted(d.y_train.tolist()) == [0] * 4 + [1] * 4
    levels = (d.x_train.mean((1, 2, 3)) * 255).round()
    assert torch.equal(levels > 100, d.y_train == 1)
    some = load("image_folder", 3, folder=images, side=8, train_samples=3)
    assert len(some.x_train) == 3 and len(some.x_test) == 4


def test_image_folder_says_what_is_wrong(images, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.train is not there.*FOLDER/train/CLASS"):
        load("image_folder", folder=tmp_path / "nowhere")
    broken = images / "train" / "bee" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"bee.1\.png cannot be opened"):
        load("image_folder", folder=images, side=16)
    broken.unlink()
    (images / "val" / "bee").rename(images / "val" / "wasp")
    with pytest.raises(ValueError, match="classes that are not in both parts: bee, wasp"):
        load("image_folder", folder=images, side=16)
    for file in (images / "val" / "wasp").glob("*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="wasp"):
        load("image_folder", folder=images, side=16)


# Folders and downloads ---------------------------------------------------------------------------


def test_the_folder_is_the_argument_or_the_variable_or_downloads(monkeypatch, tmp_path):
    monkeypatch.delenv("LLA_DATA", raising=False)
    assert data_folder().parts[-2:] == ("data", "downloads")
    monkeypatch.setenv("LLA_DATA", str(tmp_path))
    assert data_folder() == tmp_path and data_folder("here").name == "here"


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_downloads_are_checked_by_digest(name, tmp_path, monkeypatch):
    asked = []

    def fetch(url, root, filename=None, md5=None):
        asked.append((filename, md5))

    utils = datasets().utils
    monkeypatch.setattr(utils, "download_url", fetch)
    monkeypatch.setattr(utils, "download_and_extract_archive", fetch)
    assert download(name, tmp_path) == tmp_path
    assert len(asked) == {"svhn": 2, "cifar10": 1, "cifar100": 1}.get(name, 4)
    assert all(len(md5) == 32 for _, md5 in asked)


def test_a_dead_mirror_is_followed_by_the_next(tmp_path, monkeypatch):
    tried = []

    def fetch(url, root, filename=None, md5=None):
        tried.append(url)
        if "mnist/" not in url or len(tried) % 2:
            raise RuntimeError("no network")

    monkeypatch.setattr(datasets().utils, "download_url", fetch)
    download("mnist", tmp_path)
    assert len(tried) == 8
    with pytest.raises(RuntimeError, match="no network"):
        download("fashion_mnist", tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"unknown data set 'mnits'; did you mean 'mnist'\?"):
        load_torchvision("mnits")
    with pytest.raises(ValueError, match="unknown data set"):
        download("digits")
    assert torchvision_data.CLASS_NAMES.keys() == WRITERS.keys()
