"""Lanczos vectors on disk: the same numbers as in memory."""

import numpy as np
import torch

import lla_helpers.basis
from lla_helpers import Hessian, slq
from lla_helpers.lanczos import lanczos
from lla_helpers.models import mlp


def test_disk_and_memory_give_the_same_tridiagonal(monkeypatch):
    monkeypatch.setattr(lla_helpers.basis, "PIECE", 5000)  # several pieces, the last one shorter
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 300, generator=generator)
    a, start = a + a.T, torch.randn(300, 2, generator=generator)
    memory, disk = lanczos(a, start, 60), lanczos(a, start, 60, room=0)
    assert disk.vectors.on_disk and not memory.vectors.on_disk
    # float32 sums in pieces round differently; Lanczos in 60 steps keeps that below 1e-4.
    np.testing.assert_allclose(disk.ritz()[0], memory.ritz()[0], atol=1e-4 * 50)
    gram = disk.basis[0] @ disk.basis[0].T
    assert (gram - torch.eye(60)).abs().max() < 1e-5


def test_a_small_cap_sends_the_vectors_of_slq_to_disk(monkeypatch):
    seen = []
    keep = lla_helpers.basis.Basis.__init__

    def spy(self, *args, **options):
        keep(self, *args, **options)
        seen.append(self.on_disk)

    monkeypatch.setattr(lla_helpers.basis.Basis, "__init__", spy)
    x, y = torch.randn(20, 64), torch.randint(0, 10, (20,))
    for cap in (1.0, 1e-4):
        h = Hessian(mlp((64, 30, 10)), torch.nn.functional.cross_entropy, (x, y), memory_cap=cap)
        slq(h, steps=20, probes=1)
    # 20 vectors of 2260 float32 numbers are 181 kB; half of 1e-4 GiB is 54 kB.
    assert seen == [False, True]
