"""Ground truth for the tests, written without a line of the package: dense, float64, slow.

The loss is a plain function of one flat parameter vector; PyTorch's own `torch.autograd.functional`
differentiates it. Lanczos is NumPy on a dense matrix.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.func import functional_call


class Flat:
    """A model and its batches as functions of one flat float64 vector."""

    def __init__(self, model, loss_fn, batches, *, names=None, mode="eval"):
        self.model = copy.deepcopy(model).double().train(mode == "train")
        self.loss_fn = loss_fn
        self.batches = [(x.double() if x.is_floating_point() else x, y) for x, y in batches]
        self.batches = [(x, y.double() if y.is_floating_point() else y) for x, y in self.batches]
        self.total = sum(len(x) for x, _ in self.batches)
        everything = dict(self.model.named_parameters())
        self.names = [n for n in everything if (n in names if names else True)]
        self.shapes = [everything[n].shape for n in self.names]
        self.start = torch.cat([everything[n].detach().reshape(-1) for n in self.names])

    def parameters(self, vector):
        pieces, at = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            pieces[name] = vector[at : at + shape.numel()].view(shape)
            at += shape.numel()
        return pieces

    def outputs(self, vector, x):
        return functional_call(self.model, self.parameters(vector), (x,))

    def loss(self, vector):
        return sum(
            len(x) / self.total * self.loss_fn(self.outputs(vector, x), y) for x, y in self.batches
        )

    def gradient(self):
        return torch.autograd.functional.jacobian(self.loss, self.start)

    def hessian(self):
        return torch.autograd.functional.hessian(self.loss, self.start)

    def ggn(self):
        """sum over batches of J^T H_l J, each factor a dense matrix."""
        total = 0
        for x, y in self.batches:
            z = self.outputs(self.start, x).detach()
            j = torch.autograd.functional.jacobian(lambda v, x=x: self.outputs(v, x), self.start)
            h = torch.autograd.functional.hessian(lambda z, y=y: self.loss_fn(z, y), z)
            j, h = j.reshape(z.numel(), -1), h.reshape(z.numel(), z.numel())
            total = total + len(x) / self.total * j.T @ h @ j
        return total


def symmetric(eigenvalues, seed: int = 0) -> np.ndarray:
    """A dense matrix with these eigenvalues in a random orthonormal basis."""
    eigenvalues = np.asarray(eigenvalues, dtype=np.float64)
    noise = np.random.default_rng(seed).normal(size=(eigenvalues.size, eigenvalues.size))
    q, _ = np.linalg.qr(noise)
    return (q * eigenvalues) @ q.T


def lanczos(matrix: np.ndarray, start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of one float64 Lanczos run; Gram-Schmidt twice against all vectors.

    A vector for `matrix` is its diagonal, as in the basis of its eigenvectors.
    """
    q = start / np.linalg.norm(start)
    alpha, beta, basis = [], [], np.zeros((steps, len(start)))
    for j in range(steps):
        basis[j] = q
        w = matrix * q if matrix.ndim == 1 else matrix @ q
        alpha.append(q @ w)
        for _ in range(2):
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        beta.append(np.linalg.norm(w))
        if beta[-1] <= 1e-13 * max(np.abs(alpha).max(), np.max(beta)):
            break
        q = w / beta[-1]
    t = np.diag(alpha) + np.diag(beta[: len(alpha) - 1], 1) + np.diag(beta[: len(alpha) - 1], -1)
    values, vectors = np.linalg.eigh(t)
    return values, vectors[0] ** 2


def wasserstein(nodes: np.ndarray, weights: np.ndarray, eigenvalues: np.ndarray) -> float:
    """W1 = int |F(t) - G(t)| dt, by summing the rectangles between all jumps of both."""
    points = np.concatenate([nodes, eigenvalues])
    jumps = np.concatenate([weights, np.full(len(eigenvalues), -1 / len(eigenvalues))])
    order = np.argsort(points)
    height = np.cumsum(jumps[order])[:-1]
    return float(np.sum(np.abs(height) * np.diff(points[order])))
