"""The vectors that Lanczos has found so far: in memory, or on disk when they would not fit.

Eighty vectors of a network with 11 million parameters take 3.6 GB. What does not fit is read from
disk at every step, in pieces; the numbers are the same, only slower.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

PIECE = 2**26  # bytes read at a time


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norms of the rows of (k, P), float64, shape (k,).

    The squares of a float32 vanish below 1e-23 and overflow above 1e19; a float64 copy of one row
    at a time holds them.
    """
    return torch.stack([torch.linalg.vector_norm(row, dtype=torch.float64) for row in rows])


def divided(rows: Tensor, numbers: Tensor) -> Tensor:
    """Each row of (k, P) over its number of (k,), in the dtype of the rows."""
    # float16 ends at 65504, so the numbers may not fit the dtype of the rows.
    least_single = torch.promote_types(rows.dtype, torch.float32)
    return (rows / numbers.to(least_single)[:, None]).to(rows.dtype)


class Basis:
    """k sets of orthonormal vectors of length `size`, growing together, up to `steps` of them.

    room: bytes that they may take in memory, None for no limit; those beyond it lie on disk.
    """

    def __init__(self, k: int, steps: int, size: int, like: Tensor, room: float | None = None):
        self.shape, self.like, self.filled = (k, size), like, 0
        self.bytes = k * size * like.element_size()
        fit = steps
        if room is not None and steps * self.bytes > room:
            # While one piece is read the last one is still at work, and so are copies of w.
            fit = max(0, int((room - 4 * max(PIECE, self.bytes)) / self.bytes))
        self.rows = like.new_zeros(fit, k, size)
        self.file = tempfile.TemporaryFile() if fit < steps else None

    def append(self, q: Tensor) -> None:
        """q (k, size): the next vector of every set."""
        if self.filled < len(self.rows):
            self.rows[self.filled] = q
        else:
            self.file.seek(0, 2)
            # As bytes, since NumPy knows no bfloat16.
            q.detach().cpu().contiguous().view(torch.uint8).numpy().tofile(self.file)
        self.filled += 1

    def pieces(self) -> Iterator[Tensor]:
        """All vectors so far, as tensors (k, some, size)."""
        in_memory = min(self.filled, len(self.rows))
        if in_memory:
            yield self.rows[:in_memory].transpose(0, 1)
        left = self.filled - in_memory
        if left:
            self.file.flush()
            self.file.seek(0)
        while left:
            count = min(left, max(1, PIECE // self.bytes))
            piece = torch.from_numpy(np.fromfile(self.file, np.uint8, count * self.bytes))
            piece = piece.view(self.like.dtype).reshape(count, *self.shape)
            yield piece.to(self.like.device).transpose(0, 1)
            left -= count

    def orthogonalised(self, w: Tensor) -> Tensor:
        """w (k, size) less its components along the vectors, by classical Gram-Schmidt.

        Once is enough unless a vector shrinks below 1/sqrt(2) of its norm, then twice is (Parlett).
        """
        for _ in range(2):
            before = row_norms(w)
            components = torch.zeros_like(w)
            for piece in self.pieces():
                along = torch.bmm(piece, w.unsqueeze(2))
                components += torch.bmm(along.transpose(1, 2), piece).squeeze(1)
            w = w - components
            if (row_norms(w) > 0.7071 * before).all():
                break
        return w
