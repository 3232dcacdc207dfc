"""The spectral density of one model over all processes of a job, probe by probe, into a file.

    python -m lla_helpers.spectrum --model resnet18 --data cifar10 --out density.npz
    torchrun --nproc-per-node 4 -m lla_helpers.spectrum ... --out density.npz

Under torchrun rank r of R holds the samples r, r + R, r + 2R, ..., and every product is summed over
the ranks: the operator is that of all samples. After each block of probes the first rank writes
what there is to OUT.part, and the same command, called again after a kill, goes on from there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lla_helpers import Hessian, SpectralDensity, criteria
from lla_helpers.book.errors import BadInput
from lla_helpers.book.files import write_whole
from lla_helpers.bring import bring_data, bring_device, bring_loss, bring_model, found, named, suits
from lla_helpers.density import Row, assembled, progress_bar, ritz_of_probes
from lla_helpers.ranks import over_ranks
from lla_helpers.validity import check_operator

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
PARTS = ("training", "test")
DEVICES = ("auto", "cpu", "cuda")


class InBfloat16:
    """H whose products are computed in bfloat16; vectors, sums of Lanczos and losses are not.

    `error` is |H_16 v - H v| / |H v| for one random v, with H in float32. Raises ValueError when
    that is no small number: the products then say nothing.
    """

    def __init__(self, full: Hessian, rounded: Hessian):
        self.rounded, self.shape, self.device = rounded, full.shape, full.device
        self.dtype, self.block_size, self.room = torch.float32, 1, full.room
        v = torch.randn(full.shape[0], generator=torch.Generator().manual_seed(0)).to(full.device)
        exact, ours = (full @ v).double(), (rounded @ v).double()
        self.error = float((ours - exact).norm() / exact.norm())
        if not self.error < 0.5:
            raise ValueError(
                f"products in bfloat16 are off by {100 * self.error:.0f} % of their norm on this "
                "model: use float32"
            )

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.rounded @ v


@click.command()
@click.option("--model", required=True, help="A torchvision model, or package.module:callable.")
@click.option("--model-args", default="{}", help="A JSON object of its arguments.")
@click.option("--weights", default="", help="A state dict or .safetensors; none: initialisation.")
@click.option("--data", required=True, help="A set by name, an .npz, or package.module:callable.")
@click.option("--data-args", default="{}", help="A JSON object of its arguments.")
@click.option("--part", type=click.Choice(PARTS), default="training", show_default=True)
@click.option("--loss", default="cross_entropy", show_default=True)
@click.option("--samples", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--side", type=click.IntRange(0), default=0, help="Scale images to this side.")
@click.option("--params", default=None, help="A glob of the parameters; all by default.")
@click.option("--steps", type=click.IntRange(1), default=80, show_default=True)
@click.option("--probes", type=click.IntRange(1), default=4, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--memory", type=click.FloatRange(0.1), default=4.0, help="GiB a process. [4]")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="float32", show_default=True)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--out", type=Path, required=True, help="The .npz for SpectralDensity.load.")
def spectrum(out: Path, device: str, steps: int, probes: int, seed: int, **what) -> None:
    """Write the spectral density of a model to OUT; what an earlier call finished is kept."""
    try:
        place = start(device)
        net, loss_fn, part = brought(seed=seed, **what)
    except (ValueError, TypeError, OSError) as error:
        raise BadInput(str(error)) from None
    first, ranks = rank() == 0, dist.get_world_size() if dist.is_initialized() else 1
    if len(part.x) < ranks:
        raise BadInput(f"{len(part.x)} samples leave some of {ranks} ranks without any")
    shard = part.x[rank() :: ranks], part.y[rank() :: ranks]
    try:
        op = operator(net.to(place), loss_fn, shard, what, place)
    except (ValueError, TypeError) as error:
        raise BadInput(str(error)) from None
    validity = op.check() if isinstance(op, Hessian) else check_operator(op)
    kept = out.with_name(f"{out.name}.part")
    settings = {**what, "steps": steps, "seed": seed, "memory": None}
    code = fingerprint(settings, [*net.state_dict().values(), part.x, part.y])
    rows = read_rows(kept, code)[:probes] if first else []
    done = int(over_ranks(torch.tensor(len(rows)), "max"))
    if first and done:
        click.echo(f"{done} of {probes} probes are there already", err=True)
    started, block = time.perf_counter(), op.block_size or 1
    with progress_bar(first) as tick:
        for number in range(done, probes, block):
            group = range(number, min(number + block, probes))
            rows += ritz_of_probes(op, steps, seed, group, tick)
            if first:
                write_rows(kept, code, rows)
    if first:
        density = assembled(rows, np.empty(0), op.shape[0], steps, validity)
        store(density, out)
        kept.unlink()
        click.echo(in_words(density, op, len(part.x), ranks, time.perf_counter() - started))
        click.echo(out)


def start(device: str) -> torch.device:
    """This process's device; under torchrun it joins the job first (gloo, and nccl for CUDA)."""
    place = bring_device(device)
    if place.type == "cuda" and "LOCAL_RANK" in os.environ:
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
    return place


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def brought(*, model, model_args, weights, data, data_args, part, loss, samples, side, seed, **_):
    """The model, its loss and one part of the data, as `your_model` brings them."""
    model, model_args, weights = named(model, model_args, weights)
    net = bring_model(model, model_args, found(weights), seed)
    loss_fn = bring_loss(loss)
    chosen = bring_data(found(data), data_args, samples, seed, side)[PARTS.index(part)]
    suits(net, loss_fn, chosen)
    return net, loss_fn, chosen


def operator(net: nn.Module, loss_fn, shard, what, place: torch.device) -> Hessian | InBfloat16:
    options = {"params": what["params"], "device": place, "memory_cap": what["memory"]}
    if what["dtype"] != "bfloat16":
        return Hessian(net, loss_fn, shard, dtype=DTYPES[what["dtype"]], **options)
    full = Hessian(net, loss_fn, shard, dtype=torch.float32, **options)
    return InBfloat16(full, Hessian(net, loss_fn, shard, dtype=torch.bfloat16, **options))


def in_words(
    density: SpectralDensity, op: Hessian | InBfloat16, samples: int, ranks: int, seconds: float
) -> str:
    c = criteria(density)
    lines = [
        f"{density.dim:,} parameters, {samples:,} samples, {ranks} process(es), {seconds:.0f} s",
        f"largest eigenvalue {c.lambda_max}, smallest {c.lambda_min}, trace {c.trace}",
        f"expected W1 to the exact spectrum: {density.accuracy():.1e} of the range",
    ]
    if isinstance(op, InBfloat16):
        lines.append(
            f"bfloat16: a product differs from float32's by {100 * op.error:.2g} % of its norm; "
            f"what lies within {op.error * abs(c.lambda_max.value):.2g} of zero is not told from it"
        )
    return "\n".join(lines)


# The file of what is done ------------------------------------------------------------------------


def fingerprint(settings: dict, tensors: Iterable[Tensor]) -> str:
    """Of what decides the rows: another model, other samples or steps are another spectrum."""
    code = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tensor in tensors:
        code.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return code.hexdigest()


def write_rows(path: Path, code: str, rows: list[Row]) -> None:
    nodes, weights = (np.stack(arrays) for arrays in zip(*rows, strict=True))
    content = io.BytesIO()
    np.savez(content, code=code, nodes=nodes, weights=weights)
    write_whole(path, content.getvalue())


def read_rows(path: Path, code: str) -> list[Row]:
    """The probes that are done; none where the file is absent, damaged or of another spectrum."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            same = str(arrays["code"]) == code
            return list(zip(arrays["nodes"], arrays["weights"], strict=True)) if same else []
    except FileNotFoundError:
        return []
    except Exception as error:  # zipfile, zlib and NumPy each have errors of their own
        click.echo(f"{path} is damaged and made anew: {error}", err=True)
        return []


def store(density: SpectralDensity, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}-new")
    density.save(new)
    os.replace(new, out)


def main(args: list[str] | None = None) -> int:
    """Exit codes as those of the book's tool; an error is one line."""
    try:
        spectrum.main(args, prog_name="python -m lla_helpers.spectrum", standalone_mode=False)
        return 0
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: what is done is kept, and the same command goes on", err=True)
        return 130
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
