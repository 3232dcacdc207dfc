"""torchvision beside whatever PyTorch is here, and one of its models through the operator."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from lla_helpers import Hessian
from lla_helpers._torchvision import compiled_library_loads, declared, import_torchvision
from tests.reference import Flat


def test_it_imports_and_declares_only_what_is_missing():
    torchvision = import_torchvision()
    assert torchvision is import_torchvision() is sys.modules["torchvision"]
    assert bool(declared) != compiled_library_loads() and len(declared) <= 1
    assert torchvision.transforms.functional.hflip(torch.arange(3.0)[None])[0, 0] == 2.0
    assert torchvision.datasets.MNIST.__name__ == "MNIST"


def test_an_import_that_failed_before_does_not_spoil_it():
    """In a fresh process: whoever tried `import torchvision` first gets no second surprise."""
    program = (
        "try:\n    import torchvision\nexcept RuntimeError:\n    pass\n"
        "from lla_helpers._torchvision import import_torchvision\n"
        "print(import_torchvision().models.resnet18.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "resnet18\n", done.stderr


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr("lla_helpers._torchvision.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="torchvision is not installed"):
        compiled_library_loads()


@pytest.mark.parametrize(
    ("name", "block", "arranged"),
    [
        ("resnet18", "layer4.1.bn2.*", []),
        ("mobilenet_v3_small", "features.12.1.*", ["hardsigmoid", "hardswish"]),
    ],
)
def test_a_model_trains_one_step_and_has_a_hessian(name, block, arranged):
    """MobileNetV3 is built of the hard activations that PyTorch cannot differentiate twice."""
    torch.manual_seed(0)
    model = getattr(import_torchvision().models, name)(num_classes=3)
    x, y = torch.randn(6, 3, 64, 64), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    before.backward()
    optimizer.step()
    with torch.no_grad():
        assert F.cross_entropy(model(x), y) < before

    H = Hessian(model, F.cross_entropy, (x, y), params=block, chunk_size=4)
    v = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(0))
    product = H @ v
    assert torch.isfinite(product).all() and product.norm() > 0
    assert model.training and H.check().faults() == ()
    assert [said.split()[0] for said in H.arranged] == arranged

    # The block's gradient a little further along v, in float64: smooth enough for 1e-3.
    flat = Flat(model, F.cross_entropy, [(x, y)], names=H.names)
    step = 1e-6 * flat.start.norm() / v.double().norm()

    def gradient(at):
        at = at.requires_grad_()
        return torch.autograd.grad(flat.loss(at), at)[0]

    ends = [gradient(flat.start + s * step * v.double()) for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert (product.double() - slope).norm() < 1e-3 * slope.norm()
