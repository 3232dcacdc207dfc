"""Axes for a loss landscape: directions in parameter space, as flat vectors.

A direction has shape (P,), several are the columns of (P, k); entries are those of the chosen
parameters (`params`, globs), in `named_parameters` order, like the vectors of `Hessian`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lla_helpers.lanczos import top_eigenpairs
from lla_helpers.model_view import ModelView, choose

KINDS = ("gaussian", "uniform")


def flat(model: nn.Module, params: str | Sequence[str] | None = None) -> Tensor:
    """The chosen parameters as one vector of length P, a copy."""
    view = ModelView(model, params)
    return view.flatten(p.detach() for p in view.theta.values())


def random_directions(
    model: nn.Module,
    k: int = 2,
    *,
    kind: str = "gaussian",
    seed: int = 0,
    params: str | Sequence[str] | None = None,
) -> Tensor:
    """k random directions, (P, k). Column i depends on `seed` and i alone.

    kind: "gaussian", entries N(0, 1); or "uniform", entries U[0, 1], as the LLA code of Gabdullin
        (2024) draws them: all entries positive, so that any two of them have a cosine of about
        E[u]^2 / E[u^2] = 3/4, while two Gaussian ones have about 0.

    Raises ValueError for an unknown kind or k < 1.
    """
    if kind not in KINDS:
        raise ValueError(unknown("kind of direction", kind, KINDS))
    if k < 1:
        raise ValueError(f"k is the number of directions, at least 1, not {k}")
    view = ModelView(model, params)
    draw = torch.randn if kind == "gaussian" else torch.rand
    columns = []
    for i in range(k):
        state = np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> 1))
        columns.append(draw(view.size, generator=generator, dtype=torch.float64))
    return torch.stack(columns, dim=1).to(view.device, view.dtype)


def adam_directions(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    params: str | Sequence[str] | None = None,
) -> Tensor:
    """Adam's moment buffers as two directions, (P, 2): exp_avg and exp_avg_sq.

    The first is the smoothed gradient, m; the second, v, the smoothed squares: it has no negative
    entry and points nowhere in particular (Kingma and Ba 2015; axes of LLA, Gabdullin 2024).

    Raises ValueError when the optimizer keeps no such buffers, or holds none for a chosen
    parameter, because it has not taken a step yet or has another model's parameters.
    """
    view = ModelView(model, params)
    parameters = dict(model.named_parameters())
    columns = []
    for buffer in ("exp_avg", "exp_avg_sq"):
        parts = []
        for name in view.theta:
            state = optimizer.state.get(parameters[name], {})
            if buffer not in state:
                raise ValueError(
                    f"{type(optimizer).__name__} holds no {buffer} for {name}: adam axes need an "
                    f"Adam-like optimizer of this model that has taken at least one step"
                )
            parts.append(state[buffer].detach())
        columns.append(view.flatten(parts).to(view.device, view.dtype))
    return torch.stack(columns, dim=1)


def hessian_directions(
    H, which: str | tuple[int, int] = "LM", k: int = 2, *, seed: int = 0, tol: float | None = None
) -> tuple[np.ndarray, Tensor]:
    """Eigenvalues (k,) and unit eigenvectors (P, k) of a Hessian, as axes.

    which: "LM", of largest modulus (as LLA does); "LA", the largest; "SA", the most negative;
        "ends", one of each; or a pair of ranks, counted from the largest eigenvalue, 1, or from
        the smallest, -1: (1, 2) is "LA", (1, -1) is "ends".

    The sign of an eigenvector is arbitrary; here its largest entry in modulus is positive.
    Raises ValueError for another `which`, or a rank that is 0 or beyond P.
    """
    names = ("LM", "LA", "SA", "ends")
    if isinstance(which, str):
        if which not in names:
            raise ValueError(unknown("choice of eigenvectors", which, names))
        if which != "ends":
            values, vectors = top_eigenpairs(H, k, which, seed=seed, tol=tol)
            return values, with_sign(vectors)
        which = (1, -1)
    if any(not isinstance(i, int) or i == 0 or abs(i) > H.shape[0] for i in which):
        raise ValueError(
            f"ranks are counted from the largest eigenvalue, 1, 2, ..., or from the smallest, -1, "
            f"-2, ..., up to {H.shape[0]}; not {which!r}"
        )
    found = {}
    for end, ranks in (("LA", [i for i in which if i > 0]), ("SA", [-i for i in which if i < 0])):
        if ranks:
            values, vectors = top_eigenpairs(H, max(ranks), end, seed=seed, tol=tol)
            sign = 1 if end == "LA" else -1
            found |= {sign * i: (values[i - 1], vectors[:, i - 1]) for i in ranks}
    values = np.array([found[i][0] for i in which])
    return values, with_sign(torch.stack([found[i][1] for i in which], dim=1))


def with_sign(vectors: Tensor) -> Tensor:
    """Columns with their largest entry in modulus positive."""
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors)


def trajectory_directions(
    weights: Sequence[Tensor] | Tensor, k: int = 2
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Principal directions of a training trajectory, seen from its last point.

    weights: flat vectors theta_0, ..., theta_T. The right singular vectors of the matrix with rows
    theta_t - theta_T (Li et al. 2018). Returns axes (P, k), unit vectors; the trajectory's
    coordinates (T + 1, k), zero at its end; and the share of the sum of squares that each axis
    holds, (k,). A random walk in many dimensions gives large shares too, 8 / pi^2 = 0.81 and
    8 / (9 pi^2) = 0.09 (about its mean, 0.61 and 0.15: Antognini and Sohl-Dickstein 2018), so they
    say little about training.

    Raises ValueError with fewer than k + 1 points, or when all points are one.
    """
    path = weights if isinstance(weights, Tensor) else torch.stack(list(weights))
    if path.ndim != 2 or len(path) < k + 1:
        raise ValueError(
            f"a trajectory of at least {k + 1} flat vectors gives {k} axes, "
            f"not one of shape {tuple(path.shape)}"
        )
    steps = (path - path[-1]).double()
    if not torch.isfinite(steps).all() or not steps.any():
        raise ValueError("the trajectory does not move, or its weights are not finite")
    # Singular vectors from the small Gram matrix: T is far smaller than P.
    squares, left = torch.linalg.eigh(steps @ steps.T)
    squares, left = squares.flip(0)[:k], left.flip(1)[:, :k]
    shares = (squares.clamp(min=0) / steps.square().sum()).numpy()
    if squares[-1] <= 1e-12 * squares[0]:
        raise ValueError(f"the trajectory lies in fewer than {k} dimensions: ask for fewer axes")
    axes = with_sign(steps.T @ left / squares.sqrt())
    return axes.to(path.dtype), (steps @ axes).numpy(), shares


def orthogonalised(directions: Tensor) -> Tensor:
    """Columns made orthogonal one after the other (Gram and Schmidt), each at its old length.

    The first column stays. Raises ValueError when a column depends on those before it.
    """
    if directions.ndim != 2:
        raise ValueError(f"directions are the columns of (P, k), not {tuple(directions.shape)}")
    done: list[Tensor] = []
    for column in directions.T:
        rest = column.double()
        for q in done + done:
            rest = rest - (q @ rest) / (q @ q) * q
        length, left = column.double().norm(), rest.norm()
        if not left > 1e-6 * length:
            raise ValueError("a direction is a combination of those before it, or vanishes")
        done.append(rest * length / left)
    return torch.stack(done, dim=1).to(directions)


def frozen(
    model: nn.Module,
    directions: Tensor,
    still: str | Sequence[str],
    params: str | Sequence[str] | None = None,
) -> Tensor:
    """The directions with zeros at every parameter that a glob of `still` names: it does not move.

    Raises ValueError, naming what is near, when a glob names no chosen parameter.
    """
    view = ModelView(model, params)
    check_directions(view, directions)
    names = set(choose(view.theta, still))
    moves = view.flatten(
        torch.full_like(p.detach(), float(name not in names)) for name, p in view.theta.items()
    )
    return directions * (moves if directions.ndim == 1 else moves[:, None])


def check_directions(view: ModelView, directions: Tensor) -> None:
    """Raise ValueError or TypeError unless these are finite directions for this view."""
    if not isinstance(directions, Tensor) or not directions.is_floating_point():
        raise TypeError("a direction is a floating-point tensor of shape (P,) or (P, k)")
    if directions.ndim not in (1, 2) or len(directions) != view.size:
        raise ValueError(
            f"the chosen parameters have {view.size} entries: a direction has shape "
            f"({view.size},), several ({view.size}, k), not {tuple(directions.shape)}"
        )
    if not torch.isfinite(directions).all():
        raise ValueError("a direction must be finite, and holds nan or inf")


def unknown(what: str, name, known: Sequence[str]) -> str:
    """The sentence for an unknown name, with the nearest known one."""
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(known)}"
