"""How `example.safetensors` was made: the small network that the chapter on your model opens with.

python data/make_example.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from lla_helpers.data import load_digits
from lla_helpers.models import cnn
from lla_helpers.training import accuracy, train


def main() -> None:
    torch.set_num_threads(1)
    digits = load_digits(seed=0)
    model = cnn((4, 8), 16, seed=0)
    train(model, digits.x_train, digits.y_train, epochs=15, lr=0.05, seed=0)
    print(f"accuracy on the test part: {accuracy(model, digits.x_test, digits.y_test):.3f}")
    save_file(model.state_dict(), Path(__file__).with_name("example.safetensors"))


if __name__ == "__main__":
    main()
