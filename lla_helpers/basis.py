"""The vectors that Lanczos has found so far: in memory, or on disk when they would not fit.

Eighty vectors of a network with 11 million parameters take 3.6 GB. On disk they are read once for
every step, in pieces; the numbers are the same, only slower.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

PIECE = 2**27  # bytes read at a time


class Basis:
    """k sets of orthonormal vectors of length `size`, growing together, up to `steps` of them.

    room: bytes that they may take in memory; None for no limit.
    """

    def __init__(self, k: int, steps: int, size: int, like: Tensor, room: float | None = None):
        self.shape, self.like, self.filled = (k, size), like, 0
        self.on_disk = room is not None and k * steps * size * like.element_size() > room
        self.file = tempfile.TemporaryFile() if self.on_disk else None
        self.rows = None if self.on_disk else like.new_zeros(steps, k, size)

    def append(self, q: Tensor) -> None:
        """q (k, size): the next vector of every set."""
        if self.on_disk:
            self.file.seek(0, 2)
            q.detach().cpu().contiguous().numpy().tofile(self.file)
        else:
            self.rows[self.filled] = q
        self.filled += 1

    def pieces(self) -> Iterator[Tensor]:
        """All vectors so far, as tensors (k, some, size)."""
        if not self.on_disk:
            yield self.rows[: self.filled].transpose(0, 1)
            return
        self.file.flush()
        self.file.seek(0)
        dtype = torch.empty(0, dtype=self.like.dtype).numpy().dtype
        entries = math.prod(self.shape)
        at_once = max(1, PIECE // (entries * dtype.itemsize))
        for start in range(0, self.filled, at_once):
            count = min(at_once, self.filled - start)
            piece = torch.from_numpy(np.fromfile(self.file, dtype, count * entries))
            yield piece.to(self.like.device).reshape(count, *self.shape).transpose(0, 1)

    def orthogonalised(self, w: Tensor) -> Tensor:
        """w (k, size) less its components along the vectors, by classical Gram-Schmidt.

        Once is enough unless a vector shrinks below 1/sqrt(2) of its norm, then twice is (Parlett).
        """
        for _ in range(2):
            before = w.norm(dim=1)
            components = torch.zeros_like(w)
            for piece in self.pieces():
                along = torch.bmm(piece, w.unsqueeze(2))
                components += torch.bmm(along.transpose(1, 2), piece).squeeze(1)
            w = w - components
            if (w.norm(dim=1) > 0.7071 * before).all():
                break
        return w
