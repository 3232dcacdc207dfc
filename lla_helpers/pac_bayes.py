"""PAC-Bayes bounds for networks with random weights, w ~ Q = N(mean, R diag(s) R^T).

With probability at least 1 - delta over m independent samples, for every Q at once,

    kl( training error of Q || true error of Q ) <= ( KL(Q || P) + ln(m / delta) ) / (m - 1),

where the prior P = N(initial weights, lambda I) has not seen the samples (Langford and Seeger 2001;
Maurer 2004 has a sharper constant). Computed along the lines of Dziugaite and Roy (2017); R is the
identity, or the Kronecker eigenbasis of Wu et al. (2020).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers.data import DATA, Split, read_npz
from lla_helpers.kronecker import kronecker_factors
from lla_helpers.models import ACTIVATIONS

BASES = ("parameters", "kronecker")
GRID = 100.0  # b: steps of the prior's variance for each factor e
LARGEST = 0.1  # c: the prior's largest variance
DELTA = 0.025  # probability that the bound fails for the sample
DELTA_DRAWS = 0.01  # probability that the training error of Q is underestimated


# The kl of two coins ------------------------------------------------------------------------------


def kl_bernoulli(q: float, p: float) -> float:
    """kl(q || p) = q ln(q/p) + (1-q) ln((1-q)/(1-p)), with 0 ln 0 = 0; inf where p excludes q."""
    for name, share in (("q", q), ("p", p)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is an error rate between 0 and 1, not {share!r}")

    def term(a: float, b: float) -> float:
        return 0.0 if a == 0 else math.inf if b == 0 else a * math.log(a / b)

    return term(q, p) + term(1 - q, 1 - p)


def kl_inverse(q: float, c: float) -> float:
    """The largest p in [q, 1] with kl(q || p) <= c, by bisection, rounded upwards.

    Raises ValueError for q outside [0, 1], or a c that is negative or nan; c = inf gives 1.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q is an error rate between 0 and 1, not {q!r}")
    if not c >= 0:
        raise ValueError(f"the bound diverges: kl(q || p) <= c needs c >= 0, not {c!r}")
    low, high = q, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if kl_bernoulli(q, middle) <= c else (low, middle)
    return q if c == 0 else high


def grid_variance(j, b: float = GRID, c: float = LARGEST):
    """lambda_j = c exp(-j / b), j = 1, 2, ...: the variances that the prior may have."""
    return c * np.exp(-np.asarray(j, dtype=float) / b)


def excess(kl: float, m: int, j, delta: float = DELTA):
    """2 B^2 = ( KL + 2 ln j + ln(pi^2 m / (6 delta)) ) / (m - 1): Langford and Seeger's bound.

    Prior number j may fail with probability 6 delta / (pi^2 j^2); these add up to delta. With
    j = b ln(c / lambda) it is the published form.
    """
    return (kl + 2 * np.log(j) + math.log(math.pi**2 * m / (6 * delta))) / (m - 1)


def digits_for_bounds(seed: int = 0, m: int = 1437) -> Split:
    """The digits as a bound wants them: nothing about the samples enters before the optimisation.

    m images drawn at random train, the others test. Pixels, 0 to 16, are scaled by constants,
    (x - 8) / 8: a mean and a standard deviation of the training images would make the prior, a
    distribution over functions of the pixels, depend on them. Raises ValueError unless m leaves
    both parts a sample.
    """
    arrays = read_npz("digits.npz", DATA)
    x = (torch.from_numpy(arrays["images"]).float().unsqueeze(1) - 8) / 8
    y = torch.from_numpy(arrays["labels"]).long()
    if not 0 < m < len(y):
        raise ValueError(f"m, the number of training images, lies in 1..{len(y) - 1}, not {m!r}")
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    train, test = shuffled[:m], shuffled[m:]
    return Split(x[train], y[train], x[test], y[test])


# The posterior ------------------------------------------------------------------------------------


class Posterior(nn.Module):
    """Q: independent Gaussian coordinates, in each layer's own basis U (x) V.

    A layer is the (a, b) matrix [W, bias] = mean + U (sqrt(s) * noise) V^T. basis="parameters": U
    and V are identities, every weight has its own variance. basis="kronecker": `rebase` turns them
    to the eigenvectors of E[M] and E[x x^T] at the present mean.

    Raises ValueError, in one sentence, for a network that is not a chain of dense layers and
    elementwise activations, an initial network of other shapes, or an unknown basis.
    """

    def __init__(
        self, model: nn.Sequential, initial: nn.Sequential, basis: str = "parameters",
        variance: float = 1e-3,
    ):  # fmt: skip
        super().__init__()
        if basis not in BASES:
            raise ValueError(f"basis must be 'parameters' or 'kronecker', not {basis!r}")
        refuse_if_not_dense(model)
        centres, weights = layer_matrices(initial), layer_matrices(model)
        if [w.shape for w in weights] != [w.shape for w in centres]:
            raise ValueError("the initial network must have the shapes of the trained one")
        if not variance > 0:
            raise ValueError(f"variance must be positive, not {variance!r}")
        self.basis = basis
        self.chain = [copy.deepcopy(model)]  # in a list: its parameters are no part of Q's
        self.centres = centres
        self.means = nn.ParameterList([nn.Parameter(w) for w in weights])
        self.log_s = nn.ParameterList(
            [nn.Parameter(torch.full_like(w, math.log(variance))) for w in weights]
        )
        self.axes = [
            (torch.eye(len(w), dtype=w.dtype), torch.eye(w.shape[1], dtype=w.dtype))
            for w in weights
        ]

    @property
    def size(self) -> int:
        return sum(w.numel() for w in self.means)

    @torch.no_grad()
    def mean_network(self) -> nn.Sequential:
        """The network with the mean weights."""
        model = copy.deepcopy(self.chain[0])
        for layer, mean in zip(linear_layers(model), self.means, strict=True):
            with_bias = layer.bias is not None
            layer.weight.copy_(mean[:, :-1] if with_bias else mean)
            if with_bias:
                layer.bias.copy_(mean[:, -1])
        return model.eval()

    @torch.no_grad()
    def rebase(self, x: Tensor, y: Tensor) -> None:
        """Turn to the Kronecker eigenbasis at the present mean; nothing for basis="parameters".

        The new variances are those that the old Gaussian has along the new axes,
        s'_i = sum_k (r'_i . r_k)^2 s_k, so that the trace stays as it is.
        """
        if self.basis == "parameters":
            return
        model = self.mean_network()
        names = [n for n, module in model.named_modules() if isinstance(module, nn.Linear)]
        for i, name in enumerate(names):
            factors = kronecker_factors(model, name, (x, y), dtype=torch.float64)
            u, v = (
                torch.linalg.eigh(f).eigenvectors.to(self.means[i])
                for f in (factors.left, factors.right)
            )
            old_u, old_v = self.axes[i]
            s = (u.T @ old_u).square() @ self.log_s[i].exp() @ (v.T @ old_v).square().T
            self.log_s[i].copy_(s.log())
            self.axes[i] = (u, v)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits with fresh weights for *every sample*: exact, without drawing one weight.

        Given its input, the pre-activation of a layer is Gaussian: in the rotated coordinates
        y = V^T x its entries are independent with variances sum_j s_ij y_j^2 (the local
        reparametrisation of Kingma et al. 2015).
        """
        layers = iter(zip(self.means, self.log_s, self.axes, strict=True))
        for module in self.chain[0]:
            if not isinstance(module, nn.Linear):
                x = module(x)
                continue
            mean, log_s, (u, v) = next(layers)
            x = with_ones(x, module)
            spread = ((x @ v).square() @ log_s.exp().T).sqrt()
            noise = torch.empty_like(spread).normal_(generator=generator)
            x = x @ mean.T + (spread * noise) @ u.T
        return x

    @torch.no_grad()
    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits with one draw of the weights for all samples: the definition of Q."""
        layers = iter(zip(self.means, self.log_s, self.axes, strict=True))
        for module in self.chain[0]:
            if not isinstance(module, nn.Linear):
                x = module(x)
                continue
            mean, log_s, (u, v) = next(layers)
            noise = torch.empty_like(mean).normal_(generator=generator)
            x = with_ones(x, module) @ (mean + u @ ((log_s / 2).exp() * noise) @ v.T).T
        return x

    def kl(self, variance):
        """KL( Q || N(initial, variance I) ), the same in every orthonormal basis.

        ( (sum s + |mean - initial|^2) / lambda + P ln lambda - sum ln s - P ) / 2.
        """
        squares, logs = 0.0, 0.0
        for mean, centre, log_s in zip(self.means, self.centres, self.log_s, strict=True):
            squares = squares + log_s.exp().sum() + (mean - centre).square().sum()
            logs = logs + log_s.sum()
        log = torch.log if isinstance(variance, Tensor) else np.log
        if not isinstance(variance, Tensor):
            squares, logs = squares.item(), logs.item()
        return (squares / variance + self.size * (log(variance) - 1) - logs) / 2


def refuse_if_not_dense(model: nn.Module) -> None:
    known = (nn.Flatten, nn.Linear, nn.Identity, *ACTIVATIONS.values())
    strange = (
        [type(model).__name__]
        if not isinstance(model, nn.Sequential)
        else [type(m).__name__ for m in model if not isinstance(m, known)]
    )
    if strange:
        raise ValueError(
            f"the posterior is made for an nn.Sequential of dense layers and activations, "
            f"and {strange[0]} is none of these"
        )
    if not linear_layers(model):
        raise ValueError("the network has no dense layer, so there are no weights to make random")


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def layer_matrices(model: nn.Module) -> list[Tensor]:
    """[W, bias] of every dense layer."""
    return [
        torch.cat([layer.weight, layer.bias[:, None]], 1).detach().clone()
        if layer.bias is not None
        else layer.weight.detach().clone()
        for layer in linear_layers(model)
    ]


def with_ones(x: Tensor, layer: nn.Linear) -> Tensor:
    return x if layer.bias is None else torch.cat([x, torch.ones_like(x[:, :1])], 1)


OPTIMISING, SAMPLING = 1, 2


def own_generator(seed: int, purpose: int) -> torch.Generator:
    """A stream that no one has who seeds torch with `seed`: noise equal to the data is no noise.

    Nor may the coins that judge Q be those that Q was fitted to: each purpose has its own stream.
    """
    state = np.random.SeedSequence([seed, purpose, 0xBA7E5]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


# Making the bound small ---------------------------------------------------------------------------


def optimise(
    posterior: Posterior,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 1000,
    lr: float = 0.01,
    rebase_every: int = 0,
    seed: int = 0,
    on_step: Callable[[int, float, float], None] | None = None,
) -> None:
    """Adam on mean, s and lambda for  E_Q[cross-entropy] / ln 2 + B,  all samples in every step.

    Base-2 cross-entropy is at least the error: a wrong answer has p <= 1/2. B is the square root of
    `excess` / 2; kl(q || p) >= 2 (p - q)^2, so training error + B bounds the error (Dziugaite and
    Roy 2017). The learning rate falls linearly to a tenth. rebase_every: steps between two turns
    of the basis, 0 for never. on_step(step, objective, lambda) is called before every step.

    Raises ValueError for samples of a single class, FloatingPointError, naming the step, when the
    objective is no longer finite.
    """
    refuse_if_one_class(x, y)
    generator = own_generator(seed, OPTIMISING)
    log_variance = nn.Parameter(torch.tensor(-6.0, dtype=posterior.means[0].dtype))
    adam = torch.optim.Adam([*posterior.parameters(), log_variance], lr=lr)
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.1, max(steps, 1))
    # lambda < c exp(-1/b), the first of the grid.
    ceiling = math.log(LARGEST) - 1 / GRID
    for step in range(steps):
        if rebase_every and step and step % rebase_every == 0:
            posterior.rebase(x, y)
        log_lambda = log_variance.clamp(max=ceiling)
        j = GRID * (math.log(LARGEST) - log_lambda)
        complexity = posterior.kl(log_lambda.exp()) + 2 * j.log()
        complexity = complexity + math.log(math.pi**2 * len(x) / (6 * DELTA))
        surrogate = F.cross_entropy(posterior(x, generator), y) / math.log(2)
        objective = surrogate + (complexity / (2 * (len(x) - 1))).sqrt()
        if not torch.isfinite(objective):
            raise FloatingPointError(
                f"the bound diverges at step {step} (objective {objective.item()}): "
                f"try a smaller lr than {lr:g}"
            )
        if on_step is not None:
            on_step(step, objective.item(), log_lambda.exp().item())
        adam.zero_grad()
        objective.backward()
        adam.step()
        falling.step()


def refuse_if_one_class(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y) or len(y) < 2:
        raise ValueError(
            f"a bound needs two labelled samples or more, not {len(x)} and {len(y)} labels"
        )
    if (y == y[0]).all():
        raise ValueError(
            f"all {len(y)} samples are of class {int(y[0])}: a constant answer is never wrong, "
            f"and there is nothing to bound; give samples of two classes or more"
        )


# The bound ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A bound that holds with probability `confidence`, and what it was made of.

    bound = kl_inverse(error_bound, excess): on the true error of Q. sampled_error: training error
    of Q over `trials` coins; error_bound = kl_inverse(sampled_error, ln(2 / delta') / trials).
    """

    bound: float
    error_bound: float
    sampled_error: float
    kl: float
    variance: float
    excess: float
    trials: int
    confidence: float


def sampled_error(posterior: Posterior, x: Tensor, y: Tensor, draws: int, seed: int = 0) -> float:
    """Share of wrong answers over `draws` passes with fresh weights for every sample."""
    generator = own_generator(seed, SAMPLING)
    with torch.no_grad():
        wrong = sum(int((posterior(x, generator).argmax(1) != y).sum()) for _ in range(draws))
    return wrong / (draws * len(y))


def certify(
    posterior: Posterior,
    x: Tensor,
    y: Tensor,
    *,
    draws: int = 100,
    seed: int = 0,
    delta: float = DELTA,
    delta_draws: float = DELTA_DRAWS,
) -> Certificate:
    """The bound on the error of Q, from the m samples (x, y) that Q may depend on.

    Everything that was chosen is paid for. Q: the bound holds for all Q at once. lambda: all grid
    values at once, so the best is taken. The training error of Q is estimated from draws * m
    independent coins (weights are fresh for every sample), whose kl from their mean is at most
    ln(2 / delta') / trials with probability 1 - delta' (Chernoff). It holds with probability
    1 - delta - delta', provided that the samples are independent, from the distribution on which
    the error is taken, and that initial weights and preprocessing have not seen them.

    Raises ValueError for samples of a single class, a delta outside (0, 1), fewer than one draw, or
    a divergence that is not finite.
    """
    refuse_if_one_class(x, y)
    for name, value in (("delta", delta), ("delta_draws", delta_draws)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is a probability between 0 and 1, not {value!r}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws!r}")
    m, j = len(y), np.arange(1, 3001)
    kl = posterior.kl(grid_variance(j))
    if not np.isfinite(kl).all():
        raise ValueError(
            "the bound diverges: KL(Q || P) is not finite, because a mean or a variance of Q is "
            "not (has the optimisation gone astray?)"
        )
    over = excess(kl, m, j, delta)
    best = int(over.argmin())
    trials = draws * m
    error = sampled_error(posterior, x, y, draws, seed)
    error_bound = kl_inverse(error, math.log(2 / delta_draws) / trials)
    return Certificate(
        bound=kl_inverse(error_bound, float(over[best])),
        error_bound=error_bound,
        sampled_error=error,
        kl=float(kl[best]),
        variance=float(grid_variance(j[best])),
        excess=float(over[best]),
        trials=trials,
        confidence=1 - delta - delta_draws,
    )
