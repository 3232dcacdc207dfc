"""The cache: found again when nothing changed, made anew when anything did or a file is damaged."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers import cache
from lla_helpers.cache import fingerprint, load_weights, remember, save_weights, train_cached
from lla_helpers.manipulate import GradientReversal
from lla_helpers.models import mlp
from lla_helpers.training import train

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
RUN = {"epochs": 2, "lr": 0.05, "seed": 1}


def net(act="tanh", seed=0, batch_norm=True):
    return mlp((4, 5, 2), act, seed=seed, batch_norm=batch_norm)


def same(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture
def counted(monkeypatch):
    """How often training really runs."""
    calls = []
    real = cache.training.train

    @functools.wraps(real)
    def counting(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(cache.training, "train", counting)
    return calls


def test_the_second_time_it_is_found(tmp_path, counted):
    straight, first, second = net(), net(), net()
    wanted = train(straight, X, Y, **RUN)
    first.train()
    assert train_cached(first, X, Y, folder=tmp_path, **RUN) == wanted and len(counted) == 1
    state = torch.get_rng_state()
    again = train_cached(second, X, Y, folder=tmp_path, batch_size=64, progress=True, **RUN)
    assert again == wanted and len(counted) == 1, "spelling out a default is the same run"
    assert same(straight, first) and same(straight, second) and not second.training
    assert torch.equal(state, torch.get_rng_state())


def test_whatever_made_the_result_is_in_the_key(tmp_path, counted, monkeypatch):
    def lowered(epoch):
        return 0.05 / (1 + epoch)

    def softer(x, y, generator):
        return 0.9 * x, y

    for number, (model, x, y, options) in enumerate(
        [
            (net(), X, Y, {}),
            (net(seed=1), X, Y, {}),
            (net("relu"), X, Y, {}),
            (net(batch_norm=False), X, Y, {}),
            (net(), X + 1e-7, Y, {}),
            (net(), X, 1 - Y, {}),
            (net(), X, Y, {"seed": 2}),
            (net(), X, Y, {"lr": 0.06}),
            (net(), X, Y, {"lr": lowered}),
            (net(), X, Y, {"optimizer": "adam"}),
            (net(), X, Y, {"weight_decay": 1e-6}),
            (net(), X, Y, {"manipulate": ["reverse"]}),
            (net(), X, Y, {"manipulate": [("reverse", {"params": "1.*"})]}),
            (net(), X, Y, {"params": "1.*"}),
            (net(), X, Y, {"augment": softer}),
            (net(), X, Y, {"loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1)}),
            (net(), X, Y, {"loss_fn": lambda z, y: 2 * F.cross_entropy(z, y)}),
            (net(), X, Y, {"loss_fn": lambda z, y: 3 * F.cross_entropy(z, y)}),
        ],
        1,
    ):
        train_cached(model, x, y, folder=tmp_path, **{**RUN, **options})
        assert len(counted) == number, options
    monkeypatch.setattr(torch, "__version__", "0.0")
    train_cached(net(), X, Y, folder=tmp_path, **RUN)
    assert len(counted) == number + 1
    assert len(list(tmp_path.iterdir())) == number + 1


def test_the_source_of_the_training_modules_is_in_the_key(tmp_path, counted, monkeypatch):
    train_cached(net(), X, Y, folder=tmp_path, **RUN)
    changed = tmp_path / "other.py"
    changed.write_bytes(Path(cache.manipulate.__file__).read_bytes() + b"\n# changed\n")
    monkeypatch.setattr(cache.manipulate, "__file__", str(changed))
    train_cached(net(), X, Y, folder=tmp_path, **RUN)
    assert len(counted) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other"])
def test_a_damaged_file_is_made_anew(tmp_path, counted, damage):
    first, second = net(), net()
    wanted = train_cached(first, X, Y, folder=tmp_path, **RUN)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in (0, 40, len(whole) // 2, len(whole) - 1):
        bad = {
            "flipped": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
            "cut": whole[:place],
            "empty": b"",
            "other": b"no such file at all" * 10,
        }[damage]
        file.write_bytes(bad)
        counted.clear()
        second = net()
        assert train_cached(second, X, Y, folder=tmp_path, **RUN) == wanted
        assert len(counted) == 1 and same(first, second) and file.read_bytes() == whole


def test_what_cannot_be_fingerprinted_or_kept_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a Generator has no fingerprint"):
        own = torch.Generator()
        train_cached(
            net(), X, Y, folder=tmp_path, augment=lambda x, y, _: (x + own.initial_seed(), y)
        )
    with pytest.raises(ValueError, match="on_epoch looks on"):
        train_cached(net(), X, Y, folder=tmp_path, on_epoch=print)
    with pytest.raises(TypeError, match="learning_rate"):
        train_cached(net(), X, Y, folder=tmp_path, learning_rate=0.1)
    with pytest.raises(FloatingPointError, match="at step 0"):
        train_cached(net(), X * torch.nan, Y, folder=tmp_path)
    assert not list(tmp_path.iterdir()), "a failed run leaves nothing"


SCRIPT = """
import sys, torch
from lla_helpers.cache import train_cached
from lla_helpers.models import mlp
torch.set_num_threads(1)
x = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
y = torch.arange(200) % 10
for seed in range(4):
    model = mlp((64, 10, 10), seed=seed)
    history = train_cached(model, x, y, folder=sys.argv[1], epochs=60, seed=seed)
    print(seed, sum(p.double().sum().item() for p in model.parameters()), history[-1], flush=True)
"""


def run_script(capsys, folder):
    with patch.object(sys, "argv", ["", str(folder)]):
        exec(SCRIPT, {})
    return capsys.readouterr().out


def test_a_sequence_that_is_killed_goes_on_with_the_same_results(tmp_path, capsys):
    """Killed without warning in the midst of its second run or later; then started again."""
    whole = run_script(capsys, tmp_path / "a")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path / "b"],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    first = process.stdout.readline()
    process.kill()
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("train-*.pt")}
    assert 1 <= len(kept) < 4 and whole.startswith(first)
    assert run_script(capsys, tmp_path / "b") == whole
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_a_checkpoint_goes_back_into_its_own_architecture_only(tmp_path):
    model, other, path = net(seed=1), net(seed=2), tmp_path / "net.pt"
    save_weights(model, path)
    load_weights(other, path)
    assert same(model, other)
    for wrong, message in (
        (mlp((4, 6, 2), batch_norm=True), r"1.weight has shape \(5, 4\) there and \(6, 4\)"),
        (net(batch_norm=False), "2.weight is not in the model, and"),
        (mlp((4, 5, 5, 2), batch_norm=True), "is missing in it"),
    ):
        before = {k: v.clone() for k, v in wrong.state_dict().items()}
        with pytest.raises(ValueError, match=f"another architecture: .*{message}"):
            load_weights(wrong, path)
        assert all(torch.equal(v, wrong.state_dict()[k]) for k, v in before.items())
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_weights(model, tmp_path / "none.pt")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="damaged"):
        load_weights(model, path)


def test_remember_keeps_any_result_of_plain_values(tmp_path):
    def stamps():
        return sorted(path.stat().st_mtime_ns for path in tmp_path.iterdir())

    first = remember(measure, net(), 2, folder=tmp_path, scale=2.0)
    once = stamps()
    second = remember(measure, net(), 2, folder=tmp_path, scale=2.0)
    assert stamps() == once and torch.equal(first["sum"], second["sum"])
    assert second["of"] == [1, "two", None, (0.5, True)]
    for model, power, scale in ((net(), 3, 2.0), (net(seed=1), 2, 2.0), (net(), 2, 3.0)):
        other = remember(measure, model, power, folder=tmp_path, scale=scale)
        assert other["sum"] != first["sum"]
    assert len(stamps()) == 4
    with pytest.raises(ZeroDivisionError):
        remember(measure, net(), 2, folder=tmp_path, scale=0)


def measure(model, power, *, scale=1.0):
    total = sum(p.detach().abs().pow(power).sum() for p in model.parameters())
    return {"sum": total * (1 / scale), "of": [1, "two", None, (0.5, True)]}


CONSTANT = 1.0


def uses_constant(x):
    return CONSTANT * x


def test_fingerprints_tell_alike_from_different(monkeypatch):
    """Values that differ in anything that counts, pairwise; and the same ones made twice."""

    def makers():
        return [
            lambda: 1,
            lambda: 1.0,
            lambda: True,
            lambda: "1",
            lambda: b"1",
            lambda: None,
            lambda: (1, 2),
            lambda: [1, 2],
            lambda: [12],
            lambda: {"a": 1},
            lambda: {"a": 1.0},
            lambda: {1, 2},
            lambda: torch.zeros(2),
            lambda: torch.zeros(2, dtype=torch.float64),
            lambda: torch.zeros(2, 1),
            lambda: torch.tensor([0.0, -0.0]),
            lambda: np.zeros(2),
            lambda: Path("a"),
            lambda: torch.float32,
            lambda: F.cross_entropy,
            lambda: F.mse_loss,
            lambda: functools.partial(F.cross_entropy, label_smoothing=0.1),
            lambda: nn.CrossEntropyLoss(),
            lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
            lambda: GradientReversal(1.0),
            lambda: GradientReversal(2.0),
            lambda: nn.Sequential(nn.ReLU()),
            lambda: nn.Sequential(nn.Tanh()),
            lambda: lambda x: x + 1,
            lambda: lambda x: x + 2,
            lambda: lambda x: x - 1,
            lambda: (lambda k: lambda x: x + k)(3),
            lambda: (lambda k: lambda x: x + k)(4),
            lambda: lambda x, k=1: x + k,
            lambda: lambda x, k=2: x + k,
        ]

    first, second = ([fingerprint(make()) for make in makers()] for _ in range(2))
    assert first == second and len(set(first)) == len(first)
    before = fingerprint(uses_constant)
    monkeypatch.setitem(globals(), "CONSTANT", 2.0)
    assert fingerprint(uses_constant) != before, "a global that a function names counts"


def test_hooks_count():
    plain, hooked = net(), net()
    hooked[1].register_forward_hook(lambda module, args, out: 2 * out)
    param_hooked = net()
    param_hooked[1].weight.register_hook(lambda g: -g)
    frozen = net()
    frozen[1].weight.requires_grad_(False)
    assert len({fingerprint(m) for m in (plain, hooked, param_hooked, frozen)}) == 4


def test_loops_of_references_end():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert fingerprint(even) == fingerprint(even)
