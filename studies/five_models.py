"""Five networks that nobody tuned the book for, each through `run your_model`, and checked.

ResNet-18, MobileNetV3-small and two blocks of ViT-B/16 from torchvision, on the colour patches at
32 x 32; and from `examples/own_networks.py`, outside the package, a causal transformer with tied
weights and an LSTM. Each is trained by one rule that was fixed before the first run (Adam at 1e-3,
batches of 32, 256 samples and 6 epochs for the three large ones, 512 and 30 for the two small), its
weights are saved, and the command of `command` makes the page. Kept are the report's main fields.

Two checks. The two small ones, whose matrix can be had: the page's density against all eigenvalues
of a dense float64 Hessian that does not come from the operator. All five, in float64 on 8 samples:
H v against curvlinops' for one random v, as curvlinops comes, and inside the context that arranges
second derivatives here. What it raises is kept as the first line of its message. curvlinops is
among benchmarks/requirements.txt; without it the second check says so.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch import Tensor, nn

from lla_helpers import Hessian, slq
from lla_helpers.bring import Part, bring_data, bring_model
from lla_helpers.exact import exact_hessian
from lla_helpers.model_view import twice_differentiable
from lla_helpers.training import train
from lla_helpers.well_defined import one_line

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = Path("_build") / "studies" / "five_models"
VIT = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 12, "hidden_dim": 768}
VIT |= {"mlp_dim": 3072, "num_classes": 10}
PATCHES = {"data": "patches", "side": 32}
LARGE = {"samples": 16, "steps": 16, "probes": 2, "top": 1, "layers": 1, "grid": 3}
SMALL = {"samples": 64, "layers": 4, "grid": 5}

# What each is called in the command; whatever is not named stays at the chapter's default.
MODELS = {
    "ResNet-18": {"model": "resnet18", "model_args": '{"num_classes": 10}', **PATCHES, **LARGE},
    "MobileNetV3-small": {
        "model": "mobilenet_v3_small", "model_args": '{"num_classes": 10}', **PATCHES, **LARGE,
    },
    "ViT-B/16, two blocks": {
        "model": "torchvision.models.vision_transformer:VisionTransformer",
        "model_args": json.dumps(VIT), **PATCHES, **LARGE,
    },
    "own transformer": {
        "model": "examples.own_networks:transformer",
        "data": "examples.own_networks:next_tokens", **SMALL,
    },
    "own LSTM": {
        "model": "examples.own_networks:lstm", "data": "examples.own_networks:strides", **SMALL,
    },
}  # fmt: skip
DENSE = {"own transformer": {"steps": 60, "probes": 4}, "own LSTM": {"steps": 60, "probes": 4}}
WITHOUT = (
    "curvlinops is not installed, so its products were not compared: "
    "pip install --no-deps -r benchmarks/requirements.txt"
)


def items() -> dict[str, dict]:
    return {name: {"name": name} for name in MODELS}


def measure(name: str) -> dict:
    given = MODELS[name]
    path = WEIGHTS / f"{name.split('/')[0].replace(' ', '-').replace(',', '')}.safetensors"
    model = trained(given, ROOT / path)
    report, words, seconds = page({"weights": str(path), **given})
    part = brought(given, given["samples"])
    found = {**main_fields(report), "command": words, "cpu_seconds": seconds}
    if name in DENSE:
        found["dense"] = against_dense(model, part, **DENSE[name])
    return {**found, "curvlinops": against_curvlinops(model, part)}


def brought(given: dict, samples: int) -> Part:
    return bring_data(given["data"], samples=samples, side=given.get("side", 0))[0]


def trained(given: dict, path: Path) -> nn.Module:
    """The network after the rule's training, its weights at `path`."""
    small = "side" not in given
    model = bring_model(given["model"], given.get("model_args", "{}"))
    part = brought(given, 512 if small else 256)
    options = {"lr": 1e-3, "batch_size": 32, "optimizer": "adam"}
    train(model, part.x, part.y, epochs=30 if small else 6, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))
    return model.eval()


def page(given: dict) -> tuple[dict, str, float]:
    """The report of `run your_model` with these values, the command, and its CPU seconds."""
    words = ["-m", "lla_helpers", "run", "your_model"]
    for key, value in given.items():
        words += ["-p", key, str(value)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, **threads},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode:
        raise click.ClickException(f"{shlex.join(['python', *words])} ended with an error")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = ROOT / Path(done.stdout.split()[0]).with_suffix(".json")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(report.read_text()), shlex.join(["python", *words]), rounded(seconds, 3)


def main_fields(report: dict) -> dict:
    part = report["parts"][0]
    names = ("r_e", "negative_share", "k_hn", "trace", "lambda_max", "effective_rank")
    return {
        "parameters": report["model"]["parameters"],
        "samples": part["samples"],
        "loss": rounded(part["loss"]),
        "accuracy": rounded(part["accuracy"]),
        "test_loss": rounded(report["parts"][1]["loss"]),
        "test_accuracy": rounded(report["parts"][1]["accuracy"]),
        "type": part["type"],
        "test_type": report["parts"][1]["type"],
        "quasi_singular": part["quasi_singular"],
        "applicable": part["applicable"],
        "criteria": {
            n: {k: rounded(v) for k, v in part["criteria"][n].items()} for n in names
        },
        "arranged": report["arranged"],
        "notes": report["notes"],
        "products": report["cost"]["products"],
    }  # fmt: skip


def against_dense(model: nn.Module, part: Part, steps: int, probes: int) -> dict:
    """W1 of the page's density to every eigenvalue, over their range, and what it expected."""
    exact = torch.linalg.eigvalsh(exact_hessian(model, F.cross_entropy, (part.x, part.y))).numpy()
    density = slq(Hessian(model, F.cross_entropy, (part.x, part.y)), steps, probes)
    spread = float(np.ptp(exact))
    return {
        "w1": rounded(density.wasserstein(exact) / spread),
        "expected": rounded(density.accuracy()),
        "range": rounded(spread),
        "lambda_max": rounded(exact[-1]),
        "lambda_max_error": rounded(abs(density.support[1] - exact[-1]) / spread),
        "negative_share": rounded(abs(exact[exact < 0]).sum() / abs(exact).sum()),
        "trace": rounded(exact.sum()),
    }


def against_curvlinops(model: nn.Module, part: Part, samples: int = 8) -> dict:
    """Relative difference of H v, |ours - theirs| / |ours|, or what curvlinops raises.

    Where they differ a referee is needed: "ours to difference" is ours against the central
    difference of the gradient along v, of the model as it is.
    """
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        click.echo(WITHOUT, err=True)
        return {"version": None, "as it is": WITHOUT, "arranged": WITHOUT}
    model = model.double()
    x, y = part.x[:samples], part.y[:samples]
    x = x.double() if x.is_floating_point() else x
    H = Hessian(model, F.cross_entropy, (x, y))
    v = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, slope = H @ v, central_difference(model, (x, y), v)

    def theirs() -> Tensor:
        chosen = list(model.parameters())
        return HessianLinearOperator(model, nn.CrossEntropyLoss(), chosen, [(x, y)]) @ v

    return {
        "version": version("curvlinops-for-pytorch"),
        "ours to difference": rounded(float((ours - slope).norm() / slope.norm()), 2),
        "as it is": difference(ours, theirs, nullcontext),
        "arranged": difference(ours, theirs, twice_differentiable),
    }


def central_difference(
    model: nn.Module, data: tuple[Tensor, Tensor], v: Tensor, names: list[str] | None = None
) -> Tensor:
    """(g(theta + h v) - g(theta - h v)) / 2h of the model itself, for the parameters `names`.

    |h v| = 1e-8 |theta|: so short that hardly a ReLU of a hundred thousand changes sides, and in
    float64 seven digits are left.
    """
    x, y = data
    everything = dict(model.named_parameters())
    leaves = [everything[name] for name in names or everything]
    start = torch.nn.utils.parameters_to_vector(leaves).detach()
    h = 1e-8 * float(start.norm() / v.norm())

    def gradient(at: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(at, leaves)
        found = torch.autograd.grad(F.cross_entropy(model(x), y), leaves)
        return torch.cat([g.flatten() for g in found])

    slope = (gradient(start + h * v) - gradient(start - h * v)) / (2 * h)
    torch.nn.utils.vector_to_parameters(start, leaves)
    return slope


def difference(ours: Tensor, theirs: Callable[[], Tensor], inside) -> float | str:
    try:
        with inside():
            return rounded(float((theirs() - ours).norm() / ours.norm()), 2)
    except Exception as error:  # whatever it raises is the result
        return f"raises {type(error).__name__}: {one_line(error)[:160]}"


def rounded(x: float | None, digits: int = 5) -> float | None:
    return None if x is None or not np.isfinite(x) else float(f"{x:.{digits}g}")
