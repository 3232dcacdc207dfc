"""Lanczos vectors on disk: the same numbers as in memory."""

import numpy as np
import pytest
import torch

import lla_helpers.basis
from lla_helpers import Hessian, slq
from lla_helpers.lanczos import lanczos
from lla_helpers.models import mlp


@pytest.mark.parametrize("in_memory", [0, 17, 60])
def test_disk_and_memory_give_the_same_tridiagonal(monkeypatch, in_memory):
    monkeypatch.setattr(lla_helpers.basis, "PIECE", 12_000)  # five vectors, so the last has fewer
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 300, generator=generator)
    a, start = a + a.T, torch.randn(300, 2, generator=generator)
    room = in_memory * 2 * 300 * 4 + (4 * 12_000 if in_memory < 60 else 0)
    memory, disk = lanczos(a, start, 60), lanczos(a, start, 60, room=room)
    assert len(disk.vectors.rows) == in_memory and len(memory.vectors.rows) == 60
    # float32 sums in pieces round differently; the range is about 70.
    np.testing.assert_allclose(disk.ritz()[0], memory.ritz()[0], atol=1e-4 * 70)
    gram = disk.basis[0] @ disk.basis[0].T
    assert (gram - torch.eye(60)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_what_lies_on_disk_comes_back_in_its_dtype(monkeypatch, dtype):
    monkeypatch.setattr(lla_helpers.basis, "PIECE", 100)
    vectors = torch.randn(3, 2, 7).to(dtype)
    basis = lla_helpers.basis.Basis(2, 3, 7, like=vectors[0], room=0)
    for q in vectors:
        basis.append(q)
    found = torch.cat(list(basis.pieces()), dim=1)
    assert len(basis.rows) == 0 and found.dtype == dtype
    assert torch.equal(found, vectors.transpose(0, 1))


def test_a_small_cap_sends_some_vectors_of_slq_to_disk(monkeypatch):
    seen = []
    keep = lla_helpers.basis.Basis.__init__

    def spy(self, *args, **options):
        keep(self, *args, **options)
        seen.append(len(self.rows))

    monkeypatch.setattr(lla_helpers.basis.Basis, "__init__", spy)
    x, y = torch.randn(20, 64), torch.randint(0, 10, (20,))
    for cap in (1.0, 2e-4):
        h = Hessian(mlp((64, 30, 10)), torch.nn.functional.cross_entropy, (x, y), memory_cap=cap)
        slq(h, steps=20, probes=1)
    # 20 vectors of 2260 float32 numbers and ten at work take 271 kB, the smaller cap is 215 kB.
    assert seen[0] == 20 and 0 <= seen[1] < 20
