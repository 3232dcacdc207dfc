"""Networks from outside the package, small: the operator arranges, says so, and is right.

Right means: symmetric, linear, and equal to the slope of the model's own gradient, taken by central
differences in float64 of the model as it is, with none of what was arranged. ResNet-18 and
MobileNetV3 are in `test_torchvision`.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from examples.own_networks import Transformer, lstm, next_tokens, transformer, walks
from lla_helpers import Hessian
from lla_helpers.bring import Part, bring_data, bring_model, suits
from lla_helpers.exact import exact_hessian
from studies.five_models import central_difference

VIT = (
    '{"image_size": 16, "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 12,'
    ' "mlp_dim": 16, "num_classes": 10}'
)
OWN = "examples.own_networks"
PLAIN = "attention runs on the plain kernel"
# name, arguments, data, what was arranged
CASES = {
    "vit": ("torchvision.models.vision_transformer:VisionTransformer", VIT, "patches", [PLAIN]),
    "transformer": (
        f"{OWN}:transformer",
        "{}",
        f"{OWN}:next_tokens",
        [PLAIN, "head.weight is embed.weight"],
    ),
    "lstm": (f"{OWN}:lstm", "{}", f"{OWN}:strides", []),
}


@pytest.mark.parametrize("case", CASES)
def test_the_operator_arranges_says_so_and_is_right(case):
    name, arguments, data, arranged = CASES[case]
    model = bring_model(name, arguments).double()
    part = bring_data(data, samples=2, side=16 if data == "patches" else 0)[0]
    x = part.x.double() if part.x.is_floating_point() else part.x
    suits(model, F.cross_entropy, Part(part.name, x, part.y))

    H = Hessian(model, F.cross_entropy, (x, part.y))
    v = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = central_difference(model, (x, part.y), v)
    # A step of 1e-8 leaves seven digits of a gradient; cancellation may take two of them.
    assert (H @ v - slope).norm() < 1e-5 * slope.norm()

    found = H.check()
    assert found.faults() == () and found.asymmetry < 1e-12, found
    assert len(H.arranged) == len(arranged), H.arranged
    assert all(map(str.startswith, H.arranged, arranged)), H.arranged


@pytest.mark.parametrize(
    "model", [transformer(width=4, hidden=4), lstm(width=2, hidden=2)], ids=["transformer", "lstm"]
)
def test_all_columns_at_once_are_the_columns_one_by_one(model):
    """Layer norm and attention sent through many at a time, as the study's exact spectra are."""
    model = model.double().eval()
    x, y, *_ = next_tokens(samples=2)
    y = y if isinstance(model, Transformer) else torch.tensor([0, 2])
    one_by_one = Hessian(model, F.cross_entropy, (x, y), block_size=1).dense()
    exact = exact_hessian(model, F.cross_entropy, (x, y))
    assert (one_by_one - exact).abs().max() < 1e-12 * exact.abs().max()


def test_the_walks_are_what_they_say():
    tokens, stride = walks(50, 0.0, 3)
    steps = (tokens[:, 1:] - tokens[:, :-1]) % 12
    assert (steps == torch.tensor([1, 2, 5])[stride, None]).all()
    x, y, _, _ = next_tokens(20)
    assert torch.equal(x[:, 1:], y[:, :-1])
    noisy, _ = walks(400, 0.2, 3)
    clean, _ = walks(400, 0.0, 3)
    # A replaced token is the same by chance once in twelve: 0.2 x 11/12, +- 4 s.e. of 5200 draws.
    assert abs((noisy != clean).double().mean() - 0.2 * 11 / 12) < 0.022
