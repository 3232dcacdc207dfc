"""Samples in chunks: the same samples, each once, however the data arrive."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lla_helpers import batches
from lla_helpers.batches import Batches, cut, fingerprint, same_samples

X = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(23)


def pairs(*sizes):
    return list(zip(X.split(sizes), Y.split(sizes), strict=True))


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 11, 22, 23, 512])
@pytest.mark.parametrize(
    "sizes", [(23,), (7, 7, 7, 2), (11, 11, 1), (1,) * 23, (0, 20, 0, 3, 0)], ids=str
)
def test_batches_are_merged_and_cut(sizes, chunk_size):
    data = Batches(pairs(*sizes), chunk_size)
    chunks = list(data)
    assert data.size == 23 and data.count == len(chunks) == -(-23 // chunk_size)
    assert data.longest == max(len(x) for x, _ in chunks)
    assert all(len(x) == chunk_size for x, _ in chunks[:-1])
    assert torch.equal(torch.cat([x for x, _ in chunks]), X)
    assert torch.equal(torch.cat([y for _, y in chunks]), Y)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(chunks, data, strict=True))


def test_train_mode_keeps_the_batches():
    data = Batches(pairs(11, 11, 1), chunk_size=4, mode="train")
    assert [len(x) for x, _ in data] == [11, 11, 1] and data.count == 3
    assert [len(x) for x, _ in Batches((X, Y), chunk_size=4, mode="train")] == [23]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 5, 40])
def test_cutting_anew(monkeypatch, chunk_size, kept):
    """Kept in memory or read again each time; samples of another shape start a new chunk."""
    monkeypatch.setattr(batches, "KEEP_BYTES", 2**30 if kept else 0)
    data = [(torch.ones(n, length), torch.ones(n)) for n, length in ((4, 5), (4, 5), (3, 7))]
    samples = Batches(data, chunk_size=512)
    assert (samples.kept is None) != kept
    samples.rechunk(chunk_size)
    lengths = [len(x) for x, _ in samples]
    assert sum(lengths) == 11 and max(lengths) <= chunk_size
    assert samples.count == len(lengths) == -(-8 // chunk_size) + -(-3 // chunk_size)


def test_types_are_converted_where_they_are_real():
    (x, y), *_ = Batches((X.double(), Y), dtype=torch.float32)
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    (x, y), *_ = Batches((Y, X), dtype=torch.float64)
    assert x.dtype == torch.int64 and y.dtype == torch.float64


class Augmented(Dataset):
    def __init__(self, change):
        self.change = change

    def __len__(self):
        return 23

    def __getitem__(self, i):
        return self.change(X[i]), Y[i]


CHANGES = {
    "noise": lambda x: x + 0.01 * torch.randn(3),
    "flip": lambda x: x.flip(0) if torch.rand(()) < 0.5 else x,
    "roll": lambda x: x.roll(int(torch.randint(0, 3, ()))),
    "sign": lambda x: x * (2 * torch.randint(0, 2, ()) - 1),
    "tiny": lambda x: 1e-12 * (x + 0.01 * torch.randn(3)),
    "huge": lambda x: 1e12 * (x + 0.01 * torch.randn(3)),
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("how", CHANGES)
def test_samples_that_change_are_refused_and_the_random_state_stays(how, mode):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="second pass"):
        Batches(DataLoader(Augmented(CHANGES[how]), batch_size=5), mode=mode)
    assert torch.equal(state, torch.get_rng_state())


def test_an_order_that_changes_matters_in_train_mode_and_where_data_are_read_again(monkeypatch):
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True)
    state = torch.get_rng_state()
    data = Batches(loader, 4)
    assert sorted(torch.cat([y for _, y in data]).tolist()) == Y.tolist()
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match=r"other batches.*shuffled"):
        Batches(loader, mode="train")
    monkeypatch.setattr(batches, "KEEP_BYTES", 0)
    with pytest.raises(ValueError, match=r"other chunks.*shuffled"):
        Batches(loader, 4)
    orderly = Batches(DataLoader(TensorDataset(X, Y), batch_size=5), 4)
    state = torch.get_rng_state()
    assert torch.equal(torch.cat([x for x, _ in orderly]), X)
    assert torch.equal(state, torch.get_rng_state())


def test_standardised_data_may_be_shuffled():
    """Sums of standardised data nearly vanish: rounding must be measured against what was added."""
    x = torch.randn(4000, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = 1e6 * (x - x.mean(0))
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(2))
    y = torch.zeros(4000)

    def whole(x, size):
        return sum(fingerprint(a, b) for a, b in zip(x.split(size), y.split(size), strict=True))

    assert same_samples(whole(x, 512), whole(x[order], 7))
    changed = x.clone()
    changed[7] = changed[7].flip(0)
    assert not same_samples(whole(x, 512), whole(changed[order], 512))


def test_a_nan_is_no_change():
    """It is reported where the loss is taken, as what it is."""
    x = X.clone()
    x[3, 1] = torch.nan
    assert Batches(DataLoader(TensorDataset(x, Y), batch_size=5)).size == 23


@pytest.mark.parametrize(
    ("data", "kind", "match"),
    [
        ((X[:0], Y[:0]), ValueError, "empty"),
        ([], ValueError, "empty"),
        ([(X[:0], Y[:0])] * 2, ValueError, "empty"),
        (iter([(X, Y)]), ValueError, "exhausted after one pass"),
        ((pair for pair in pairs(11, 12)), ValueError, "not a generator"),
        ([(X, Y, Y)], TypeError, r"pair of tensors.*tuple of 3"),
        ([X, Y, Y], TypeError, "pair of tensors.*Tensor"),
        ([{"x": X}], TypeError, "dict"),
        ((X.numpy(), Y.numpy()), TypeError, "ndarray"),
        (3, TypeError, "int"),
        (None, TypeError, "NoneType"),
        ((X, Y[:-1]), ValueError, r"same number of samples.*\(23, 3\) and \(22,\)"),
        ((X[0, 0], Y[0]), ValueError, "same number of samples"),
    ],
    ids=[
        "empty pair", "empty list", "empty batches", "iterator", "generator", "three", "tensors",
        "dict", "arrays", "number", "none", "lengths", "scalars",
    ],
)  # fmt: skip
def test_bad_data_are_refused_in_one_line(data, kind, match):
    with pytest.raises(kind, match=match) as raised:
        Batches(data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("chunk_size", [0, -1, 2.0, "8", True])
def test_a_chunk_is_a_positive_number_of_samples(chunk_size):
    with pytest.raises(ValueError, match="chunk_size must be a positive integer"):
        Batches((X, Y), chunk_size)


def test_cutting_never_gives_an_empty_chunk():
    empty, full = (X[:0], Y[:0]), (X[:4], Y[:4])
    other = (torch.ones(2, 9), Y[:2])
    assert [len(x) for x, _ in cut([empty, full, empty, other, empty], 4)] == [4, 2]


class Refilled:
    """A loader that fills one buffer again and again, as those with pinned memory do."""

    def __iter__(self):
        x, y = torch.empty(4, 3), torch.empty(4, dtype=Y.dtype)
        for i in range(0, 20, 4):
            x.copy_(X[i : i + 4])
            y.copy_(Y[i : i + 4])
            yield x, y


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_loader_may_fill_one_buffer_every_time(mode):
    for _ in range(2):
        chunks = list(Batches(Refilled(), chunk_size=8, mode=mode))
        assert torch.equal(torch.cat([x for x, _ in chunks]), X[:20])
        assert torch.equal(torch.cat([y for _, y in chunks]), Y[:20])


@pytest.mark.parametrize("as_list", [False, True])
def test_data_that_are_written_to_afterwards_are_refused(as_list):
    x = X.clone()
    data = Batches([(x, Y)] if as_list else (x, Y), chunk_size=512)
    list(data)
    x[3] += 1
    with pytest.raises(ValueError, match="written to after the operator was built"):
        list(data)


def test_the_largest_samples_and_chunks_are_known_wherever_they_stand():
    data = [(torch.ones(n, length), torch.ones(n)) for n, length in ((2, 5), (40, 7), (3, 6))]
    x, _ = Batches(data).few_of_the_heaviest()
    assert x.shape == (32, 7)
    whole = Batches(data, mode="train")
    assert whole.few_of_the_heaviest()[0].shape == (40, 7) and whole.longest == 40
