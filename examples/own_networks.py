"""Two networks and a data set from outside the package, for `run your_model`.

    python -m lla_helpers run your_model --build \\
        -p model examples.own_networks:transformer -p data examples.own_networks:next_tokens

A model is any callable that returns a `torch.nn.Module` with one tensor as output; a data set is
any callable that returns x_train, y_train, x_test, y_test.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY, LENGTH = 12, 12
STRIDES = (1, 2, 5)


class Transformer(nn.Module):
    """A causal language model of one block; the embedding's weights are the output's, too.

    Tokens (n, length) -> scores (n, vocabulary, length), as `cross_entropy` wants them.
    """

    def __init__(self, width: int = 16, heads: int = 2, hidden: int = 32, dropout: float = 0.1):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.place = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        self.block = nn.TransformerEncoderLayer(
            width, heads, hidden, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(n, tokens.device, self.place.dtype)
        x = self.embed(tokens) + self.place[:n]
        return self.head(self.block(x, src_mask=causal, is_causal=True)).transpose(1, 2)


class Recurrent(nn.Module):
    """An LSTM that reads a sequence and names the stride that made it: (n, length) -> (n, 3)."""

    def __init__(self, width: int = 8, hidden: int = 16):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(STRIDES))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0][:, -1])


def transformer(**options) -> nn.Module:
    return Transformer(**options)


def lstm(**options) -> nn.Module:
    return Recurrent(**options)


def walks(samples: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens that go round the vocabulary by one stride, some replaced at random; the stride."""
    generator = torch.Generator().manual_seed(seed)
    stride = torch.randint(0, len(STRIDES), (samples,), generator=generator)
    start = torch.randint(0, VOCABULARY, (samples, 1), generator=generator)
    walk = start + torch.tensor(STRIDES)[stride, None] * torch.arange(LENGTH + 1)
    other = torch.randint(0, VOCABULARY, walk.shape, generator=generator)
    replaced = torch.rand(walk.shape, generator=generator) < noise
    return torch.where(replaced, other, walk % VOCABULARY), stride


def next_tokens(samples: int = 512, noise: float = 0.1, seed: int = 0):
    """x_train, y_train, x_test, y_test: tokens, and for each the one that follows it."""
    (train, _), (test, _) = walks(samples, noise, seed), walks(samples, noise, seed + 1)
    return train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:]


def strides(samples: int = 512, noise: float = 0.2, seed: int = 0):
    """x_train, y_train, x_test, y_test: tokens, and the number of the stride that made them."""
    (train, y_train), (test, y_test) = walks(samples, noise, seed), walks(samples, noise, seed + 1)
    return train[:, :-1], y_train, test[:, :-1], y_test
