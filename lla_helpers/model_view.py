"""A model seen as a function of chosen parameters, f(x; theta), without touching the model.

The view takes a snapshot of the weights and buffers. Training the model further does not change an
operator that was built before, and nothing that the operator does reaches the model: not its mode,
`.grad`, buffers, `requires_grad`, nor the state of the random number generators.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lla_helpers.second_derivatives import ShortestWay

MODES = ("eval", "train")


class ModelView:
    """f(x; theta) for the parameters that `params` chooses, in `named_parameters` order.

    `params` is None (all that require grad), a glob, or a list of globs over parameter names; a
    glob also reaches frozen parameters. `theta` is the snapshot, a dict of leaf tensors that
    require grad. `size` is P, the number of entries of theta. `own_layers` makes layers take
    the second derivatives of this package, for vectors that go `one_by_one` or several in a walk.
    `recomputes` says that layers are called again in backward passes.
    `arranged` holds what stood in for operations without a second derivative, one sentence each,
    once the view has been evaluated.

    Raises ValueError when no parameter is chosen or the chosen are empty, or the mode is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        params: str | Sequence[str] | None = None,
        mode: str = "eval",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        if mode not in MODES:
            raise ValueError(f"mode must be 'eval' or 'train', not {mode!r}")
        everything = dict(model.named_parameters())
        chosen = choose(everything, params)
        some = everything[chosen[0]]
        self.model, self.mode = model, mode
        self.dtype = some.dtype if dtype is None else dtype
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, not {self.dtype}")
        self.device = some.device if device is None else torch.device(device)
        self.theta = {name: self.snapshot(everything[name]).requires_grad_() for name in chosen}
        self.fixed = {
            name: self.snapshot(p) for name, p in everything.items() if name not in self.theta
        }
        self.buffers = {name: self.snapshot(b) for name, b in model.named_buffers()}
        self.size = sum(p.numel() for p in self.theta.values())
        if self.size == 0:
            raise ValueError(f"the chosen parameters have no entries: {', '.join(chosen)}")
        self.own_layers, self.one_by_one, self.recomputes = False, True, False
        self.spares_inputs: bool | None = None  # known after the first evaluation
        self.arranged: set[str] = set()

    def restricted(self, params: str | Sequence[str]) -> ModelView:
        """The same snapshot, seen as a function of fewer parameters."""
        view = copy.copy(self)
        chosen = choose(self.theta, params)
        view.theta = {name: self.theta[name] for name in chosen}
        held = {name: p.detach() for name, p in self.theta.items() if name not in chosen}
        view.fixed = {**self.fixed, **held}
        view.size = sum(p.numel() for p in view.theta.values())
        return view

    def converted(self, dtype: torch.dtype) -> ModelView:
        """The same snapshot in another floating-point type."""
        view = copy.copy(self)
        view.dtype = dtype
        view.theta = {n: view.snapshot(p).requires_grad_() for n, p in self.theta.items()}
        view.fixed = {n: view.snapshot(p) for n, p in self.fixed.items()}
        view.buffers = {n: view.snapshot(b) for n, b in self.buffers.items()}
        return view

    def snapshot(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else None
        return tensor.detach().to(self.device, dtype, copy=True)

    def __call__(self, theta: dict[str, Tensor], x: Tensor) -> Tensor:
        """f(x; theta). Raises TypeError when the model returns anything but one tensor."""
        given = x if self.spares_inputs else x.clone()
        ours = self.own_layers and torch.is_grad_enabled()
        shortest = ShortestWay(self.one_by_one) if ours else nullcontext()
        with in_mode(self.model, self.mode), twice_differentiable(self.arranged), shortest:
            outputs = functional_call(
                self.model, (theta, self.fixed, self.fresh_buffers()), (given,)
            )
        if self.spares_inputs is None:
            self.spares_inputs = given.is_inference() or given._version == 0
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the model returns {type(outputs).__name__}, not one tensor: wrap it in a module "
                f"that returns the output that the loss is taken of"
            )
        return outputs

    def fresh_buffers(self) -> dict[str, Tensor]:
        """For every pass: batch norm in train mode writes into its running statistics."""
        return {name: b.clone() for name, b in self.buffers.items()}

    def in_place_of_the_model(self, walk: Callable[[], object]):
        """walk(), where layers may be evaluated again (`recomputes`): then with these weights.

        Activation checkpoints call the model's modules in the backward pass, when the model has
        its own weights and mode again.
        """
        if not self.recomputes:
            return walk()
        everything = {**self.theta, **self.fixed, **self.fresh_buffers()}
        ours = {f"model.{name}": t for name, t in everything.items()}
        with in_mode(self.model, self.mode), twice_differentiable(self.arranged):
            return functional_call(Around(self.model), ours, (walk,))

    def flatten(self, tensors: Iterable[Tensor], lead: tuple[int, ...] = ()) -> Tensor:
        """Tensors in the order of theta, as one vector of length P.

        Tensors with dimensions `lead` before theta's give vectors of shape (*lead, P).
        """
        return torch.cat([t.reshape(*lead, -1) for t in tensors], dim=-1)

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """A vector (..., P) as tensors of theta's shapes, in its order, after the first (...)."""
        parts = vector.split([p.numel() for p in self.theta.values()], dim=-1)
        lead = vector.shape[:-1]
        return [
            part.reshape(lead + p.shape) for part, p in zip(parts, self.theta.values(), strict=True)
        ]


class Around(nn.Module):
    """Calls what it is given, while functional_call has the model's weights replaced."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, walk: Callable[[], object]):
        return walk()


def shared(model: nn.Module) -> list[str]:
    """One sentence for every parameter that is another one under a second name (tied weights)."""
    first: dict[nn.Parameter, str] = {}
    return [
        f"{name} is {first[p]}: one parameter, counted once"
        for name, p in model.named_parameters(remove_duplicate=False)
        if first.setdefault(p, name) != name
    ]


def choose(everything: dict[str, Tensor], params: str | Sequence[str] | None) -> list[str]:
    """Names of the chosen parameters. Raises ValueError, naming what is near, if there are none."""
    if params is None:
        names = [name for name, p in everything.items() if p.requires_grad]
        if not names:
            raise ValueError(
                "the model has no parameter that requires grad"
                if everything
                else "the model has no parameters"
            )
        return names
    globs = [params] if isinstance(params, str) else params
    if not isinstance(globs, Sequence) or not all(isinstance(glob, str) for glob in globs):
        raise TypeError(f"params is a glob over parameter names or a list of them, not {params!r}")
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in everything):
            near = difflib.get_close_matches(glob, everything, n=3, cutoff=0.3)
            raise ValueError(
                f"no parameter is named {glob!r}; "
                + (f"near: {', '.join(near)}" if near else f"there are: {', '.join(everything)}")
            )
    names = [name for name in everything if any(fnmatchcase(name, glob) for glob in globs)]
    if not names:
        raise ValueError("params is an empty list: name at least one parameter")
    return names


@contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """Put the model into `mode`, and put every module back as it was.

    Also the plain attributes that hold tensors: pruning and the older weight norm leave a weight
    there that was put together from other parameters.
    """
    before = {module: module.training for module in model.modules()}
    tensors = [
        (module, {name: t for name, t in vars(module).items() if isinstance(t, Tensor)})
        for module in before
    ]
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
        for module, attributes in tensors:
            vars(module).update(attributes)


@contextmanager
def twice_differentiable(arranged: set[str] | None = None) -> Iterator[None]:
    """Choose, among equal kernels, those that have a second derivative; `arranged` collects which.

    PyTorch's fused attention has none, nor have cuDNN's recurrent layers; the plain kernels compute
    the same function.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(Arranging(set() if arranged is None else arranged))
        yield


ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class Arranging(torch.overrides.TorchFunctionMode):
    """hardsigmoid and hardswish from parts that can be differentiated twice: relu6(x + 3) / 6.

    Weight norm from its parts, too: the derivative of PyTorch's own kernel counts the norm as a
    constant when it is differentiated again, and the Hessian comes out asymmetric, without a word.
    Attention, whose kernel is chosen outside, is only written down; on a GPU recurrent layers run
    without cuDNN.
    """

    def __init__(self, arranged: set[str]):
        super().__init__()
        self.arranged = arranged

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if name in ("hardsigmoid", "hardswish") and args:
            factor = "x " if name == "hardswish" else ""
            self.arranged.add(f"{name} is computed as {factor}relu6(x + 3) / 6, the same function")
            gate = nn.functional.relu6(args[0] + 3) / 6
            return gate if name == "hardsigmoid" else args[0] * gate
        if name == "_weight_norm":
            self.arranged.add("weight norm is computed as v (g / |v|), the same function")
            return weight_norm(*args, **kwargs)
        if name in ATTENTION:
            self.arranged.add("attention runs on the plain kernel, not on a fused one")
        if name in RECURRENT and args and args[0].is_cuda:
            self.arranged.add("recurrent layers run without cuDNN")
            with torch.backends.cudnn.flags(enabled=False):
                return function(*args, **kwargs)
        return function(*args, **kwargs)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


@contextmanager
def plain_autograd(device: torch.device) -> Iterator[None]:
    """Derivatives in full precision, whatever context the caller is in (no_grad, autocast, ...)."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


@contextmanager
def same_random_state(device: torch.device) -> Iterator[None]:
    """Leave the random number generators as they were found."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield
