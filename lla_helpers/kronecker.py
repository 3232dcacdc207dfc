"""The Hessian of one layer as an expectation of Kronecker products, and as a single product.

Under softmax cross-entropy with outputs f and probabilities p, for a layer z = W x:

    G = E[ M (x) x x^T ],   M = U^T A U,   U = df/dz,   A = diag(p) - p p^T

is the layer's block of the Gauss-Newton matrix, and the block of the Hessian itself where f is
piecewise linear in W (ReLU, batch norm in evaluation mode). Wu et al. (2020) replace it by
E[M] (x) E[x x^T], the approximation of Martens and Grosse (2015) known as K-FAC.

Layer coordinates. A bias is a weight from a constant input of one, so the layer is the (a, b)
matrix [W, bias] with its rows joined; `order` leads there from the order of the parameters.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers.batches import Batches
from lla_helpers.model_view import ModelView, plain_autograd, same_random_state

KINDS = (nn.Linear, nn.Conv2d)
SHARING = ("expand", "reduce")


@dataclass(frozen=True)
class LayerTerms:
    """What a layer's block is made of, for n samples and T positions (1 in a dense layer).

    x: inputs (n, T, b), a last entry of one for the bias; a position's patch in a convolution.
    u: d outputs / d pre-activations (n, T, C, a).   p: softmax probabilities (n, C).
    """

    x: Tensor
    u: Tensor
    p: Tensor

    def root(self) -> Tensor:
        """r (n, T, C, a) with M = sum_c r_c r_c^T, r_c = sqrt(p_c) (u_c - sum_k p_k u_k).

        For A = B B^T with B = diag(sqrt p) - p sqrt(p)^T, and r = B^T U: M is the covariance of
        the rows of U when c is drawn from p.
        """
        mean = torch.einsum("nc,ntca->nta", self.p, self.u)
        return self.p.sqrt()[:, None, :, None] * (self.u - mean[:, :, None])

    def m(self) -> Tensor:
        """M (n, a, a) of a dense layer, by its definition U^T (diag(p) - p p^T) U."""
        if self.x.shape[1] != 1:
            raise ValueError(f"one M a sample needs one position a sample, not {self.x.shape[1]}")
        a = torch.diag_embed(self.p) - self.p[:, :, None] * self.p[:, None]
        u = self.u[:, 0]
        return u.transpose(1, 2) @ a @ u


@dataclass(frozen=True)
class Kronecker:
    """left (x) right, for symmetric positive semi-definite left (a, a) and right (b, b)."""

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        size = len(self.left) * len(self.right)
        return (size, size)

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    def __matmul__(self, v: Tensor) -> Tensor:
        """(left (x) right) vec(V) = vec(left V right), for v of shape (ab,) or (ab, k)."""
        a, b = len(self.left), len(self.right)
        if v.ndim not in (1, 2) or len(v) != a * b:
            raise ValueError(f"v must be ({a * b},) or ({a * b}, k), not {tuple(v.shape)}")
        moved = torch.einsum("ij,jlk,lm->imk", self.left, v.reshape(a, b, -1), self.right)
        return moved.reshape(v.shape)

    def dense(self) -> Tensor:
        return torch.kron(self.left, self.right)

    def trace(self) -> float:
        """tr(left) tr(right)."""
        return float(self.left.trace() * self.right.trace())

    def eigenpairs(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues mu_i nu_j (k,), and eigenvectors u_i (x) v_j (ab, k).

        Raises ValueError for more eigenvectors than dimensions.
        """
        refuse_if_beyond(k, self.shape[0])
        (mu, u), (nu, v) = torch.linalg.eigh(self.left), torch.linalg.eigh(self.right)
        values, place = torch.outer(mu, nu).flatten().topk(k)
        i, j = place // len(nu), place % len(nu)
        return values, torch.einsum("ik,jk->ijk", u[:, i], v[:, j]).reshape(-1, k)


def refuse_if_beyond(k: int, size: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= size:
        raise ValueError(f"asked for k = {k!r} eigenvectors of a layer of dimension {size}")


# A layer and what flows through it ---------------------------------------------------------------


def layer_named(model: nn.Module, name: str) -> nn.Module:
    """The layer called `name`. Raises ValueError for an unknown name or an unsuitable layer."""
    modules = {n: module for n, module in model.named_modules() if isinstance(module, KINDS)}
    layer = dict(model.named_modules()).get(name)
    if layer is None:
        near = difflib.get_close_matches(str(name), modules, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(modules) or '-'}"
        raise ValueError(f"the model has no layer {name!r}; {hint}")
    if not isinstance(layer, KINDS):
        raise ValueError(
            f"layer {name!r} is a {type(layer).__name__}, which has no Kronecker factors here: "
            f"choose a Linear or Conv2d layer ({', '.join(modules) or 'the model has none'})"
        )
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise ValueError(
            f"layer {name!r} is a convolution in {layer.groups} groups, whose block is no single "
            f"Kronecker product: choose one with groups=1"
        )
    owners = [
        n
        for n, m in model.named_modules()
        if any(p is layer.weight for p in m._parameters.values())
    ]
    if len(owners) > 1:
        raise ValueError(
            f"layers {', '.join(map(repr, owners))} share one weight: the block is no expectation "
            f"over the inputs of one layer; choose another"
        )
    return layer


def inputs_by_position(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs (n, T, b) of a layer: patches of a convolution, a last entry of one for a bias."""
    if isinstance(layer, nn.Conv2d):
        pad = layer._reversed_padding_repeated_twice  # also resolves padding="same"
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        patches = F.unfold(F.pad(x, pad, mode), layer.kernel_size, layer.dilation, 0, layer.stride)
        x = patches.transpose(1, 2)
    else:
        x = x.reshape(len(x), -1, x.shape[-1])
    return x if layer.bias is None else torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def order(layer: nn.Module) -> Tensor:
    """Indices that take a flat (weight, bias) vector to layer coordinates: v[order(layer)]."""
    a = len(layer.weight)
    weights = torch.arange(layer.weight.numel()).reshape(a, -1)
    if layer.bias is None:
        return weights.flatten()
    return torch.cat([weights, layer.weight.numel() + torch.arange(a)[:, None]], 1).flatten()


def layer_terms(
    model: nn.Module, name: str, data, *, chunk_size: int = 512, dtype: torch.dtype | None = None
) -> Iterator[LayerTerms]:
    """Inputs, derivatives and probabilities of the layer `name`, chunk by chunk, in eval mode.

    Evaluation mode, because in train mode batch norm couples the samples of a batch, and the block
    is no expectation over single samples. Nothing of the model changes.

    Raises ValueError for a layer that is unknown, of another kind, or used twice; for outputs that
    are not (n, C) with C at least 2.
    """
    layer = layer_named(model, name)
    view = ModelView(model, f"{name}.*", "eval", dtype)
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module, inputs, z):
        seen.append((inputs[0].detach(), z))
        return z.clone()  # an activation that works in place must not overwrite z

    def chunks() -> Iterator[LayerTerms]:
        for x, _ in Batches(data, chunk_size, "eval", view.dtype, view.device):
            seen.clear()
            with plain_autograd(view.device), same_random_state(view.device):
                handle = layer.register_forward_hook(keep)
                try:
                    outputs = view(view.theta, x)
                finally:
                    handle.remove()
                refuse_if_unfit(outputs, name, len(seen))
                inputs, z = seen[0]
                rows = [
                    torch.autograd.grad(outputs[:, c].sum(), z, retain_graph=True)[0]
                    for c in range(outputs.shape[1])
                ]
                u = torch.stack(rows, dim=1)  # (n, C, a, height, width) or (n, C, ..., a)
                u = u.flatten(3) if isinstance(layer, nn.Conv2d) else channels_before(u)
                by_position = inputs_by_position(layer, inputs)
            p = outputs.detach().softmax(1)
            yield LayerTerms(by_position, u.permute(0, 3, 1, 2), p)

    return chunks()


def channels_before(u: Tensor) -> Tensor:
    """(n, C, ..., a) as (n, C, a, T)."""
    return u.reshape(*u.shape[:2], -1, u.shape[-1]).transpose(2, 3)


def refuse_if_unfit(outputs: Tensor, name: str, runs: int) -> None:
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            f"the factors are those of softmax cross-entropy over (n, C) outputs with at least two "
            f"classes, not of shape {tuple(outputs.shape)}: one class has no curvature"
        )
    if runs != 1:
        raise ValueError(
            f"layer {name!r} runs {runs} times in one pass: its block is no expectation over one "
            f"input a sample; choose a layer that runs once"
        )


# Exact block and factors -------------------------------------------------------------------------


def layer_block(model: nn.Module, name: str, data, **options) -> Tensor:
    """The exact Gauss-Newton block of a layer (ab, ab), in layer coordinates.

    G = E[ sum_{t,s} (u_t^T A u_s) (x) (x_t x_s^T) ], a double sum over positions; one term, and
    E[M (x) x x^T], in a dense layer. `options` are those of `layer_terms`.
    """
    total, count = 0.0, 0
    for terms in layer_terms(model, name, data, **options):
        if terms.x.shape[1] == 1:
            m, x = terms.m(), terms.x[:, 0]
            xx = x[:, :, None] * x[:, None]
            block = (m.flatten(1).T @ xx.flatten(1)).reshape(*m.shape[1:], *xx.shape[1:])
            block = block.transpose(1, 2).reshape(m.shape[1] * x.shape[1], -1)
        else:
            j = torch.einsum("ntca,ntb->ncab", terms.root(), terms.x)
            j = j.reshape(-1, j.shape[2] * j.shape[3])
            block = j.T @ j
        total, count = total + block, count + len(terms.x)
    return total / count


def kronecker_factors(
    model: nn.Module, name: str, data, *, sharing: str = "expand", **options
) -> Kronecker:
    """E[M] (x) E[x x^T] of a layer, in layer coordinates.

    Two things are dropped: that M and x x^T vary together from sample to sample; and, where a layer
    is applied at T > 1 positions, what couples them. sharing="expand" drops all pairs of different
    positions, E[sum_t M_tt] (x) E[mean_t x_t x_t^T] (Grosse and Martens 2016); "reduce" keeps them
    but puts every position's input at their mean, E[(sum_t u_t)^T A (sum_t u_t)] (x) E[x x^T] with
    x = mean_t x_t (Eschenhagen et al. 2023). With one position both are the same.

    `options` are those of `layer_terms`. Raises ValueError as it does, or for another `sharing`.
    """
    if sharing not in SHARING:
        raise ValueError(f"sharing must be 'expand' or 'reduce', not {sharing!r}")
    left, right, count = 0.0, 0.0, 0
    for terms in layer_terms(model, name, data, **options):
        r, x = terms.root(), terms.x
        if sharing == "reduce":
            r, x = r.sum(1, keepdim=True), x.mean(1, keepdim=True)
        r, flat = r.reshape(-1, r.shape[-1]), x.reshape(-1, x.shape[-1])
        left, right = left + r.T @ r, right + flat.T @ flat / x.shape[1]
        count += len(x)
    return Kronecker(left / count, right / count)


# Comparing directions ----------------------------------------------------------------------------


def subspace_overlap(v: Tensor, w: Tensor) -> float:
    """Tr(P_v P_w) / k, with P the projections onto two k-dimensional subspaces (Wu et al. 2020).

    v, w: (P, k), orthonormal columns. 1 for equal subspaces, 0 for orthogonal ones, k / P on
    average for random ones. Raises ValueError for other shapes or columns.
    """
    if v.ndim != 2 or v.shape != w.shape:
        raise ValueError(
            f"two subspaces are compared by bases of one shape (P, k), not "
            f"{tuple(v.shape)} and {tuple(w.shape)}"
        )
    refuse_if_beyond(v.shape[1], len(v))
    for basis in (v, w):
        error = basis.T @ basis - torch.eye(basis.shape[1], dtype=basis.dtype)
        if not error.abs().max() < 1e-3:
            raise ValueError("the columns of a basis must be orthonormal: take torch.linalg.qr")
    return float((v.T @ w).square().sum() / v.shape[1])


def first_singular_share(v: Tensor, shape: tuple[int, int]) -> float:
    """sigma_1^2 / sum_i sigma_i^2 of a vector v (ab,) reshaped to a matrix (a, b).

    The squared cosine between v and the nearest Kronecker product of two vectors (Eckart and
    Young): 1 for a matrix of rank one. Raises ValueError when v does not fill the shape, or is 0.
    """
    if v.ndim != 1 or v.numel() != shape[0] * shape[1]:
        raise ValueError(f"a vector of shape {tuple(v.shape)} does not fill a matrix {shape}")
    squares = torch.linalg.svdvals(v.reshape(shape)).square()
    if not squares.sum() > 0:
        raise ValueError("a zero vector has no first singular value")
    return float(squares[0] / squares.sum())
