"""Minibatch training, the same for the same seed, and whatever is done to its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lla_helpers.adahessian import AdaHessian
from lla_helpers.manipulate import Spec, in_graph, manipulations, unknown
from lla_helpers.model_view import choose, in_mode, same_random_state

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]

# What each takes beside parameters, lr and weight_decay; `momentum` where it has any.
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.0}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.0}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adahessian": (AdaHessian, {}),
}


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int = 20,
    lr: float | Callable[[int], float] = 0.1,
    batch_size: int = 64,
    optimizer: str = "momentum",
    momentum: float | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    loss_fn=F.cross_entropy,
    params: str | Sequence[str] | None = None,
    manipulate: Spec | Sequence[Spec] = (),
    augment: Augment | None = None,
    on_epoch: Callable[[int], None] | None = None,
    progress: bool = False,
) -> list[float]:
    """Train in place; the mean training loss of each epoch. `seed` orders the minibatches
    and draws what the model (dropout), the manipulations and the augmentation draw.

    lr: the learning rate, or a function of the epoch (0, 1, ...) that gives it.
    optimizer: "sgd", "momentum" (SGD with 0.9), "nesterov", "adam", "adamw", "rmsprop", "adagrad",
        "adahessian". weight_decay is added to the gradient, but for "adamw" and "adahessian", which
        shrink the weights themselves; without it "adamw" is "adam".
    momentum: another momentum than the optimizer's own, for the four that have one; Adam and its
        kin, which have none, leave it aside.
    params: None (all that require grad) or globs over names: only these are trained. The others
        are frozen meanwhile, and so are the statistics of modules without a trained parameter of
        their own. Which parameters require grad is afterwards as it was.
    manipulate: what is done to each gradient before the step, in this order; see `manipulate`.
    augment: (x, y, generator) -> (x, y), applied to every minibatch.
    on_epoch: called with the number of epochs done, 0 before the first; it finds
        every parameter's `requires_grad` as it was before training, and what it does to the mode of
        the model or to the random state is undone.
    progress: count steps on stderr once training has taken two seconds.

    Raises ValueError for an unknown optimizer or manipulation, a glob that matches nothing or empty
    data, all before the first step; FloatingPointError, naming the step, when the loss or the
    weights are no longer finite.
    """
    unknown("optimizer", optimizer, OPTIMIZERS)
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"training needs as many labels as samples, not {len(x)} and {len(y)}")
    for name, number, least in (("epochs", epochs, 0), ("batch_size", batch_size, 1)):
        if not isinstance(number, Integral) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} must be an integer, at least {least}, not {number!r}")
    steps = manipulations(manipulate)
    order, of_manipulations, of_augment, of_signs = generators(seed)
    rate = lr if callable(lr) else lambda epoch: lr

    kind, options = OPTIMIZERS[optimizer]
    if momentum is not None and "momentum" in options:
        options = {**options, "momentum": momentum}
    if kind is AdaHessian:
        options = {**options, "generator": of_signs}
    hooks = [(s.name, {**s.options, "params": s.params}) for s in steps if s.in_graph]
    after = [s for s in steps if not s.in_graph]

    history, step = [], 0
    with (
        frozen_but(model, params) as (trained, thawed),
        in_graph(model, hooks, of_manipulations),
        same_random_state(x.device),
        progress_bar(progress, epochs * math.ceil(len(x) / batch_size)) as tick,
    ):
        names, weights = list(trained), list(trained.values())
        for s in after:
            s({name: torch.zeros_like(p) for name, p in trained.items()}, torch.Generator())
        descent = kind(weights, lr=rate(0), weight_decay=weight_decay, **options)
        torch.manual_seed(seed)  # dropout masks come from `seed`, too

        def tell(done: int) -> None:
            if on_epoch is not None:
                with same_random_state(x.device), thawed():
                    on_epoch(done)
                to_train(model, params, trained)

        to_train(model, params, trained)
        tell(0)
        for epoch in range(epochs):
            total = 0.0
            for group in descent.param_groups:
                group["lr"] = rate(epoch)
            for batch in torch.randperm(len(x), generator=order).split(batch_size):
                inputs, targets = x[batch], y[batch]
                if augment is not None:
                    inputs, targets = augmented(augment, inputs, targets, of_augment)
                loss = loss_fn(model(inputs), targets)
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss.item()} at step {step}: "
                        f"try a smaller lr than {rate(epoch):g}"
                    )
                graph = kind is AdaHessian
                gradients = torch.autograd.grad(
                    loss, weights, create_graph=graph, allow_unused=True
                )
                found = dict(zip(names, gradients, strict=True))
                used = {name: g.detach() for name, g in found.items() if g is not None}
                for s in after:
                    used = s(used, of_manipulations)
                for name, p in trained.items():
                    p.grad = used.get(name)
                descent.step(gradients) if graph else descent.step()
                total += loss.item() * len(batch)
                step += 1
                tick()
            history.append(total / len(x))
            tell(epoch + 1)
        if not all(torch.isfinite(p).all() for p in weights):
            raise FloatingPointError(
                f"a weight is no longer finite after the last step, {step - 1}"
            )
        model.eval()
    return history


def generators(seed: int) -> list[torch.Generator]:
    """Of the order of samples, which is the seed's own, and three streams that leave it alone."""
    spawned = np.random.SeedSequence(seed).spawn(3)
    seeds = [seed, *(int(s.generate_state(1, np.uint64)[0] >> 1) for s in spawned)]
    return [torch.Generator().manual_seed(s) for s in seeds]


@contextmanager
def frozen_but(model: nn.Module, params) -> Iterator[tuple[dict[str, nn.Parameter], Callable]]:
    """The chosen parameters; while it is open these and no others require grad.

    At the end the flags are what they were, and no gradient is left behind. Beside the parameters
    it gives a context in which the flags are, for a while, what they were.
    """
    everything = dict(model.named_parameters())
    trained = {name: everything[name] for name in choose(everything, params)}
    before = {name: p.requires_grad for name, p in everything.items()}

    def let(wanted) -> None:
        for name, p in everything.items():
            p.requires_grad_(wanted(name))

    @contextmanager
    def thawed() -> Iterator[None]:
        let(before.__getitem__)
        yield
        let(trained.__contains__)

    try:
        let(trained.__contains__)
        yield trained, thawed
    finally:
        let(before.__getitem__)
        for p in everything.values():
            p.grad = None


def to_train(model: nn.Module, params, trained: dict[str, nn.Parameter]) -> None:
    """Train mode, but for modules that `params` freezes: their statistics are part of them."""
    model.train()
    if params is None:
        return
    chosen = {id(p) for p in trained.values()}
    for module in model.modules():
        own = [id(p) for p in module.parameters(recurse=False)]
        if own and not chosen.intersection(own):
            module.training = False


def augmented(augment: Augment, x: Tensor, y: Tensor, generator) -> tuple[Tensor, Tensor]:
    changed = augment(x, y, generator)
    if not isinstance(changed, tuple) or len(changed) != 2:
        raise TypeError("augment must return a pair (x, y)")
    if len(changed[0]) != len(changed[1]) or len(changed[0]) == 0:
        raise ValueError(f"augment returned {len(changed[0])} samples and {len(changed[1])} labels")
    return changed


@contextmanager
def progress_bar(wanted: bool, steps: int) -> Iterator[Callable[[], object]]:
    """A count of steps on stderr, from the second second on; gives what advances it."""
    if not wanted:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(desc="training", total=steps, unit="step", delay=2) as bar:
        yield bar.update


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples whose largest output is their label, in eval mode."""
    with in_mode(model, "eval"):
        return (model(x).argmax(1) == y).double().mean().item()
