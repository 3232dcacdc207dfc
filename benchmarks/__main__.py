"""python -m benchmarks run | traps | memory: this package beside its peers."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

import click
import torch

from benchmarks import about, accuracy, memory, report, speed, timing, traps
from benchmarks.nets import MAKERS
from benchmarks.peers import installed
from tests.traps.adapter import Ours

PARTS = ("products", "loaders", "slq", "accuracy")
QUICK = Path(__file__).resolve().parents[1] / "_build" / "benchmarks"


def tell(text: str) -> None:
    click.echo(text, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Ours and the installed peers, interleaved, a process each. Progress goes to stderr."""
    # Peers warn at every step; what they print goes to stderr, and stdout is for the results.
    warnings.simplefilter("ignore")


threads_option = click.option(
    "--threads", default=2, show_default=True, type=click.IntRange(1), help="Threads of PyTorch."
)


def out_option(name: str):
    return click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"Where to write [default: data/results/{name}; with --quick, _build/benchmarks].",
    )


@main.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part.")
@click.option("--net", "names", multiple=True, type=click.Choice(list(MAKERS)), help="Only this.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of timing [default: 9, of SLQ 3].")
@click.option("--peer", "peers", multiple=True, help="Only this one; no imitations.")
@click.option("--steps", default=80, show_default=True, type=click.IntRange(2), help="Of SLQ.")
@click.option("--probes", default=4, show_default=True, type=click.IntRange(1), help="Of SLQ.")
@click.option("--quick", is_flag=True, help="Minutes instead of an hour, numbers to match.")
@click.option(
    "--clock",
    type=click.Choice(list(timing.CLOCKS)),
    default="wall",
    show_default=True,
    help="'cpu' is for a machine that does other work, with --threads 1.",
)
@threads_option
@out_option("benchmark.json")
def run(parts, names, rounds, peers, steps, probes, quick, clock, threads, out) -> None:
    """Time per vector, with loaders, of a whole SLQ, and until the spectrum is known."""
    if clock == "cpu" and threads > 1:
        raise click.UsageError("--clock cpu adds up all threads: use it with --threads 1")
    timing.use_clock(clock)
    torch.set_num_threads(threads)
    adapters, versions = installed(tell)
    if peers:
        adapters = [a for a in adapters if isinstance(a, Ours) or a.name.startswith(peers)]
    names = names or tuple(MAKERS)
    rounds, whole = rounds or (3 if quick else 9), rounds or (1 if quick else 3)
    least = 0.1 if quick else 0.5
    out = out or (QUICK if quick else about.RESULTS) / "benchmark.json"
    how = {
        "products": lambda: speed.products(adapters, names, rounds, least, tell, bool(peers)),
        "loaders": lambda: speed.loaders(adapters, names, rounds, least, tell),
        "slq": lambda: speed.whole(
            adapters, names, whole, *((20, 2) if quick else (steps, probes)), tell=tell
        ),
        "accuracy": lambda: accuracy.time_to_accuracy(
            adapters,
            seeds=5 if quick else 20,
            most=3 if quick else 6,
            tuned=[40] if quick else [20, 30, 40, 60],
            rounds=2 if quick else 9,
            tell=tell,
        ),
    }
    for part in parts or PARTS:
        with contextlib.redirect_stdout(sys.stderr):
            results = how[part]()
        stamp = about.about(versions, clock=clock, quick=quick)
        if part != "accuracy":  # nets that were not asked for keep what is stored of them
            results = about.stored(out).get(part, {}).get("results", {}) | results
        about.store(out, {part: {"about": stamp, "results": results}})
        click.echo(report.TEXT[part](results))
    tell(f"written: {out}")


@main.command("traps")
@threads_option
@out_option("traps.json")
def traps_command(threads, out) -> None:
    """Which of the fourteen traps each library falls into."""
    torch.set_num_threads(threads)
    adapters, versions = installed(tell)
    with contextlib.redirect_stdout(sys.stderr):
        table = traps.run_traps(adapters, tell)
    out = out or about.RESULTS / "traps.json"
    about.store(out, {"about": about.about(versions), "traps": table})
    click.echo(traps.as_text(table))
    tell(f"written: {out}")


@main.command("memory")
@click.option("--cap", "caps", multiple=True, type=float, help="GiB; once for each [6 and 1.5].")
@click.option("--steps", default=80, show_default=True, type=click.IntRange(2))
@click.option("--samples", default=16, show_default=True, type=click.IntRange(1))
@threads_option
@out_option("memory.json")
def memory_command(caps, steps, samples, threads, out) -> None:
    """Peak memory of SLQ on a ResNet-18, each cap in a process of its own."""
    rows = memory.at_caps(list(caps) or [6.0, 1.5], steps, samples, threads, tell)
    out = out or about.RESULTS / "memory.json"
    stamp = about.about({"torch": torch.__version__}, steps=steps, samples=samples)
    stamp["threads"] = threads
    about.store(out, {"about": stamp, "runs": rows})
    click.echo(report.memory(rows))
    tell(f"written: {out}")


if __name__ == "__main__":
    try:
        main(prog_name="python -m benchmarks")
    except KeyboardInterrupt:
        sys.exit("stopped; parts that were finished are stored")
