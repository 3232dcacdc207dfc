"""The published networks fit the data that they are made for."""

import torch

from lla_helpers import Hessian
from lla_helpers.data import Split
from lla_helpers.published import resnet18_for


def gray(n: int, size: int = 8) -> Split:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 1, size, size, generator=generator), torch.arange(n) % 4
    return Split(x, y, x, y)


def test_a_resnet_takes_the_channels_and_classes_of_its_data():
    data = gray(4)
    state = torch.get_rng_state()
    model = resnet18_for(data, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.eval()(data.x_train).shape == (4, 4)
    # 11,173,962 for 3 channels and 10 classes; 576 weights a channel, 513 a class.
    assert sum(p.numel() for p in model.parameters()) == 11_173_962 - 2 * 576 - 6 * 513
    same = resnet18_for(data, seed=3)
    assert all(map(torch.equal, model.state_dict().values(), same.state_dict().values()))


def test_its_spectrum_can_be_taken():
    data = gray(2)
    model = resnet18_for(data)
    H = Hessian(model, torch.nn.functional.cross_entropy, (data.x_train, data.y_train))
    v = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(H @ v).all()
