"""The networks of the published experiments, for data sets that do not ship with the book."""

from __future__ import annotations

import torch
from torch import nn

from lla_helpers._torchvision import import_torchvision
from lla_helpers.data import Split
from lla_helpers.model_view import same_random_state


def resnet18_for(data: Split, seed: int = 0) -> nn.Module:
    """torchvision's ResNet-18 for small images, from random weights.

    As is usual for images of 28 or 32 pixels (He et al. 2016, section 4.2), the first convolution
    is 3 x 3 with stride 1, and there is no pooling after it. Channels and classes are the data's.
    """
    channels, classes = data.x_train.shape[1], int(data.y_train.max()) + 1
    with same_random_state(torch.device("cpu")):
        torch.manual_seed(seed)
        model = import_torchvision().models.resnet18(num_classes=classes)
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model
