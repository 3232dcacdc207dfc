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
        history = train(model, X, Y, epochs=3, lr=0.01, optimizer=optimizer, seed=seed)
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
