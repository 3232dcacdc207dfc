"""Kronecker factors of layer Hessians beside those of curvlinops' KFAC, in float64.

Needs curvlinops, which the book itself does not; it is among benchmarks/requirements.txt.
"""

from __future__ import annotations

from importlib.metadata import version

import click
import torch
from torch import nn

from lla_helpers.data import load_digits
from lla_helpers.kronecker import kronecker_factors, layer_block, layer_named, order
from lla_helpers.models import cnn, mlp
from lla_helpers.training import train

NETS = {
    "dense, ReLU": lambda: mlp((64, 12, 10, 10), "relu"),
    "dense, tanh": lambda: mlp((64, 12, 10, 10), "tanh"),
    "dense, batch norm": lambda: mlp((64, 12, 10, 10), "relu", batch_norm=True),
    "convolutional": lambda: cnn((3, 4), 8, "relu"),
}


def items() -> dict[str, dict]:
    """Every network with every layer's factors, both ways of sharing where there are positions."""
    return {
        f"{net}, {sharing}": {"net": net, "sharing": sharing}
        for net in NETS
        for sharing in ("expand", "reduce")
    }


def measure(net: str, sharing: str) -> dict:
    """For each layer: P, the largest difference over the largest entry, and both distances to G.

    Distances to the exact block G are in the Frobenius norm, over that of G.
    """
    try:
        from curvlinops import KFACLinearOperator
    except ImportError as error:
        raise click.ClickException(
            "curvlinops is not installed, and this study compares with it: "
            "pip install --no-deps -r benchmarks/requirements.txt"
        ) from error
    model = NETS[net]().double()
    digits = load_digits(0, dtype=torch.float64)
    train(model, digits.x_train, digits.y_train, epochs=5)
    data = (digits.x_train[:200], digits.y_train[:200])
    layers = []
    for name in (n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))):
        layer = layer_named(model, name)
        peer = KFACLinearOperator(
            model, nn.CrossEntropyLoss(), list(layer.parameters()), [data],
            fisher_type="type-2", kfac_approx=sharing, separate_weight_and_bias=False,
        )  # fmt: skip
        index = order(layer)
        theirs = (peer @ torch.eye(len(index), dtype=torch.float64))[index][:, index]
        ours = kronecker_factors(model, name, data, sharing=sharing).dense()
        exact = layer_block(model, name, data)
        layers.append(
            {
                "layer": name,
                "P": len(index),
                "difference": float((ours - theirs).abs().max() / ours.abs().max()),
                "ours to G": float((ours - exact).norm() / exact.norm()),
                "theirs to G": float((theirs - exact).norm() / exact.norm()),
            }
        )
    return {"layers": layers, "curvlinops": version("curvlinops-for-pytorch")}
