"""Training: the same for the same seed, and an end to it when the loss is no number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers.data import load_digits
from lla_helpers.models import mlp
from lla_helpers.training import OPTIMIZERS, accuracy, train

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def net(dropout=0.0, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("optimizer", "dropout"), [*((name, 0.0) for name in OPTIMIZERS), ("momentum", 0.5)]
)
def test_one_seed_one_network(optimizer, dropout):
    """Whatever the state of the global generator is, which also draws dropout masks."""
    trained = []
    for seed, outside in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        model = net(dropout)
        options = {"lr": 0.01, "batch_size": 25, "optimizer": optimizer}
        history = train(model, X, Y, epochs=3, seed=seed, **options)
        assert torch.equal(state, torch.get_rng_state())
        assert len(history) == 3 and not model.training
        trained.append((weights(model), history))
    assert torch.equal(trained[0][0], trained[1][0]) and trained[0][1] == trained[1][1]
    assert not torch.equal(trained[0][0], trained[2][0])


def test_history_is_the_mean_loss_over_samples_and_falls():
    """With lr 0 the weights stay, so the mean over ragged minibatches is the loss itself."""
    model = net()
    assert train(model, X, Y, epochs=1, lr=0.0, batch_size=25) == pytest.approx(
        [F.cross_entropy(model(X), Y).item()], rel=1e-6
    )
    history = train(model, X, Y, epochs=30)
    assert history[-1] < 0.1 * history[0]


def test_digits_are_learnt():
    d = load_digits()
    model = mlp()
    train(model, d.x_train, d.y_train, epochs=5, lr=0.05)
    assert accuracy(model, d.x_test, d.y_test) > 0.85


def test_a_loss_that_is_no_number_ends_it_at_its_step():
    for lr in (1e30, 1e38):
        with pytest.raises(
            FloatingPointError, match=r"the loss is (nan|inf) at step [1-9]\d*: .*lr"
        ):
            train(nn.Linear(4, 2), X * 1e4, Y, lr=lr, epochs=50)
    with pytest.raises(FloatingPointError, match="at step 0"):
        train(net(), X * torch.nan, Y)


@pytest.mark.parametrize(
    ("name", "near"), [("adm", "'adam'"), ("SGD", "'sgd'"), ("Nesterow", "'nesterov'")]
)
def test_an_unknown_optimizer_suggests_a_near_one(name, near):
    with pytest.raises(ValueError, match=f"unknown optimizer {name!r}; did you mean {near}"):
        train(net(), X, Y, optimizer=name)
    with pytest.raises(ValueError, match="unknown optimizer 'zzz'; Known: sgd, momentum"):
        train(net(), X, Y, optimizer="zzz")


@pytest.mark.parametrize(("x", "y"), [(X[:0], Y[:0]), (X, Y[:-1])], ids=["empty", "lengths"])
def test_bad_data_are_refused_before_the_first_step(x, y):
    model = net()
    before = weights(model)
    with pytest.raises(ValueError, match="as many labels as samples"):
        train(model, x, y)
    assert torch.equal(before, weights(model))


def test_accuracy_is_taken_in_evaluation_mode_and_leaves_every_mode():
    model = net(dropout=0.9)
    model.train()
    model[1].eval()
    before = [m.training for m in model.modules()]
    model[3].weight.data.zero_()
    model[3].bias.data = torch.tensor([0.0, 1.0])
    assert accuracy(model, X, Y) == pytest.approx(Y.double().mean().item())
    assert [m.training for m in model.modules()] == before


def test_whoever_looks_on_changes_nothing():
    """Evaluating between epochs leaves dropout masks and mode as they would have been."""
    seen, alone, watched = [], net(0.5), net(0.5)

    def look(done):
        watched.eval()
        seen.append((done, torch.rand(3)))

    train(alone, X, Y, epochs=3, seed=1)
    train(watched, X, Y, epochs=3, seed=1, on_epoch=look)
    assert [done for done, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(weights(alone), weights(watched))


def test_a_schedule_gives_each_epoch_its_rate():
    asked, dropped = [], net()

    def rate(epoch):
        asked.append(epoch)
        return 0.1 if epoch == 0 else 0.0

    train(dropped, X, Y, epochs=3, lr=rate, momentum=0.0)
    once = net()
    train(once, X, Y, epochs=1, lr=0.1, momentum=0.0)
    assert set(asked) == {0, 1, 2} and torch.equal(weights(dropped), weights(once))


def test_weight_decay_shrinks_weights():
    plain, decayed = net(), net()
    train(plain, X, Y, epochs=1, lr=0.1, batch_size=60, momentum=0.0)
    train(decayed, X, Y, epochs=1, lr=0.1, batch_size=60, momentum=0.0, weight_decay=0.5)
    # One step: the two differ by lr * weight_decay * (the weights before it).
    assert torch.allclose(weights(plain) - weights(decayed), 0.05 * weights(net()), atol=1e-7)


def test_an_optimizer_is_pytorchs_own():
    """One full batch: the order of samples does not matter, and PyTorch's step is the reference."""
    adam, sgd = torch.optim.Adam, torch.optim.SGD
    for name, kind, options in (
        ("sgd", sgd, {}),
        ("momentum", sgd, {"momentum": 0.9}),
        ("nesterov", sgd, {"momentum": 0.9, "nesterov": True}),
        ("adam", adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("rmsprop", torch.optim.RMSprop, {}),
        ("adagrad", torch.optim.Adagrad, {}),
    ):
        model, reference = net(), net()
        train(
            model, X, Y, epochs=3, lr=0.05, batch_size=60, optimizer=name, weight_decay=0.1, seed=0
        )
        step = kind(reference.parameters(), lr=0.05, weight_decay=0.1, **options)
        for _ in range(3):
            step.zero_grad()
            F.cross_entropy(reference(X), Y).backward()
            step.step()
        # Sums over samples in another order.
        assert torch.allclose(weights(model), weights(reference), atol=1e-5), name
    assert not torch.equal(weights(model), weights(net()))


def test_the_optimizers_differ_and_all_learn():
    ends = []
    for name in OPTIMIZERS:
        model = net()
        lr = 0.02 if name in ("adam", "adamw", "rmsprop") else 0.1
        history = train(model, X, Y, epochs=20, lr=lr, optimizer=name, weight_decay=0.01)
        assert history[-1] < 0.8 * history[0], name
        ends.append(weights(model))
    assert all(not torch.equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


def test_manipulations_reach_the_step():
    """One step of plain SGD: the change of the weights shows the gradient that was used."""

    def change(*manipulate, **options):
        model = net()
        train(
            model, X, Y, epochs=1, lr=0.1, batch_size=60, optimizer="sgd", manipulate=manipulate,
            **options,
        )  # fmt: skip
        return weights(model) - weights(net())

    plain = change()
    close = lambda a, b: torch.allclose(a, b, atol=1e-7)  # noqa: E731
    assert close(change("reverse"), -plain)
    assert close(change("reverse", "reverse"), plain)
    assert close(change(("reverse", {"in_graph": True})), -plain)
    assert close(change(("scale", {"factor": 0.5})), plain / 2)
    part = change(("reverse", {"params": "3.*"}))
    assert close(part[:40], plain[:40]) and close(part[40:], -plain[40:])
    clipped = change(("clip_norm", {"max_norm": 1e-3}))
    assert clipped.norm().item() == pytest.approx(1e-4, rel=1e-2)
    for in_graph in (False, True):
        limited = change(("clip_value", {"limit": 1e-3, "in_graph": in_graph}))
        assert limited.abs().max().item() == pytest.approx(1e-4, rel=1e-2)
    assert torch.equal(change("noise", seed=4), change("noise", seed=4))
    assert not torch.equal(change("noise", seed=4), change("noise", seed=5))


def test_ascent_raises_the_loss():
    history = train(net(), X, Y, epochs=5, optimizer="sgd", manipulate="reverse")
    assert history == sorted(history) and history[-1] > history[0]


def test_unknown_manipulations_and_globs_stop_it_before_the_first_step():
    for options, message in (
        ({"manipulate": ["revers"]}, "did you mean 'reverse'"),
        ({"manipulate": [("reverse", {"params": "7.*"})]}, r"no parameter is named '7\.\*'"),
        ({"params": "head.*"}, r"no parameter is named 'head\.\*'"),
        ({"params": ["3.*", "9.*"]}, r"'9\.\*'"),
        ({"manipulate": [("reverse", {"params": "0.*"})], "params": "3.*"}, r"'0\.\*'"),
        ({"epochs": -1}, "epochs must be an integer, at least 0"),
        ({"epochs": 1.5}, "epochs must be an integer"),
        ({"batch_size": 0}, "batch_size must be an integer, at least 1"),
    ):
        model = net()
        with pytest.raises(ValueError, match=message):
            train(model, X, Y, **options)
        assert torch.equal(weights(model), weights(net()))
        assert all(p.requires_grad and not p._backward_hooks for p in model.parameters())
    with pytest.raises(ValueError, match="the model has no parameters"):
        train(nn.Flatten(), X, Y)


def test_fine_tuning_the_head_leaves_the_rest_and_its_statistics():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    model[0].weight.requires_grad_(False)

    def changed(params):
        before = {name: t.clone() for name, t in model.state_dict().items()}
        train(model, X, Y, epochs=2, params=params)
        return [name for name, t in model.state_dict().items() if not torch.equal(t, before[name])]

    assert changed("3.*") == ["3.weight", "3.bias"]
    flags = [p.requires_grad for p in model.parameters()]
    assert flags == [False, True, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    statistics = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert changed(["1.*"]) == ["1.weight", "1.bias", *statistics]
    assert changed("0.weight") == ["0.weight"], "a glob reaches frozen parameters, too"
    seen = []
    look = lambda done: seen.append([p.requires_grad for p in model.parameters()])  # noqa: E731
    train(model, X, Y, epochs=1, params="3.*", on_epoch=look)
    assert seen == [flags, flags]


def test_augmentation_sees_every_minibatch_and_leaves_their_order():
    seen, orders = [], []

    def note(x, y, generator):
        seen.append(len(x))
        orders.append(x.clone())
        return x + 0.0 * torch.randn(x.shape, generator=generator), y

    plain, noted = net(), net()
    train(plain, X, Y, epochs=2, batch_size=25, seed=3)
    train(noted, X, Y, epochs=2, batch_size=25, seed=3, augment=note)
    assert seen == [25, 25, 10] * 2 and torch.equal(weights(plain), weights(noted))

    def mixup(x, y, generator):
        other = torch.randperm(len(x), generator=generator)
        return (x + x[other]) / 2, (F.one_hot(y, 2) + F.one_hot(y[other], 2)) / 2

    first, second, third = net(), net(), net()
    for model, seed in ((first, 0), (second, 0), (third, 1)):
        train(model, X, Y, epochs=2, seed=seed, augment=mixup)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(third))
    with pytest.raises(TypeError, match="augment must return a pair"):
        train(net(), X, Y, augment=lambda x, y, generator: x)
    with pytest.raises(ValueError, match="augment returned 0 samples"):
        train(net(), X, Y, augment=lambda x, y, generator: (x[:0], y[:0]))


def test_nan_that_comes_on_the_way_is_told_with_its_step():
    def poison(x, y, generator):
        calls.append(1)
        return (x * torch.nan if len(calls) == 4 else x), y

    calls = []
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3"):
        train(net(), X, Y, epochs=5, batch_size=30, augment=poison)
    with pytest.raises(FloatingPointError, match="no longer finite after the last step, 0"):
        train(nn.Linear(4, 2), X * 1e4, Y, epochs=1, lr=1e38, batch_size=60)


def test_an_interruption_leaves_flags_and_hooks_as_they_were():
    def stop(x, y, generator):
        raise KeyboardInterrupt

    model = net()
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        train(model, X, Y, params="3.*", augment=stop, manipulate=[("sign", {"in_graph": True})])
    assert all(p.requires_grad and not p._backward_hooks for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_progress_waits_two_seconds(capsys):
    train(net(), X, Y, epochs=1, progress=True)
    assert capsys.readouterr().err.strip() == ""
