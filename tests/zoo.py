"""Tiny networks, one of every kind that the operator must be right on, and data that fit them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lla_helpers.models import cnn, mlp

N = 23  # 7, 7, 7, 2 in sevens; 11, 11, 1 in elevens: ragged both ways


class Tied(nn.Module):
    """One matrix used twice, as an embedding and its transpose are."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)
        self.outer.weight = self.inner.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.outer(torch.tanh(self.inner(x)))))


class Unused(nn.Module):
    """A parameter that no output depends on, and a frozen one that they all do."""

    def __init__(self):
        super().__init__()
        self.frozen, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.frozen.requires_grad_(False)
        self.idle = nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return self.head(torch.tanh(self.frozen(x)))


class Attention(nn.Module):
    """nn.MultiheadAttention, whose evaluation mode takes PyTorch's fused kernels."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class DotProduct(nn.Module):
    """scaled_dot_product_attention called directly, with a causal mask."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.head(F.scaled_dot_product_attention(q, k, v, is_causal=True).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class PerToken(nn.Module):
    """Outputs (N, classes, T), as `cross_entropy` wants them for sequences."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embed(tokens))).transpose(1, 2)


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3))


def hard(activation):
    return nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3))


# name: (network, shape of one input)
ZOO = {
    "mlp-tanh": (lambda: mlp((4, 5, 4, 3), "tanh"), (4,)),
    "mlp-relu": (lambda: mlp((4, 8, 3), "relu"), (4,)),
    "mlp-bn": (lambda: mlp((4, 5, 3), "gelu", batch_norm=True), (4,)),
    "cnn-max": (lambda: cnn((2, 3), 4, side=4, classes=3), (1, 4, 4)),
    "cnn-avg": (lambda: cnn((2, 3), 4, "softplus", pool="avg", side=4, classes=3), (1, 4, 4)),
    "cnn-bn": (lambda: cnn((2, 3), 4, side=4, classes=3, batch_norm=True), (1, 4, 4)),
    "tied": (Tied, (4,)),
    "unused": (Unused, (4,)),
    "attention": (Attention, (3, 4)),
    "sdpa": (DotProduct, (3, 4)),
    "transformer": (transformer, (3, 4)),
    "lstm": (Recurrent, (3, 4)),
    "hardswish": (lambda: hard(nn.Hardswish()), (4,)),
    "hardswish-inplace": (lambda: hard(nn.Hardswish(inplace=True)), (4,)),
    "hardsigmoid": (lambda: hard(nn.Hardsigmoid()), (4,)),
    "tokens": (PerToken, None),
}


def made(name: str, seed: int = 0):
    """(model, x, y): weights and data drawn from `seed`, labels from three classes."""
    network, shape = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network().eval()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        if name == "tokens":
            return model, torch.randint(0, 5, (N, 6)), torch.randint(0, 3, (N, 6))
        return model, 1.5 * torch.randn(N, *shape), torch.randint(0, 3, (N,))


def batches(x, y, size: int):
    return list(zip(x.split(size), y.split(size), strict=True))
