"""The density of one model from one process, from two, and after a kill: the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from lla_helpers import SpectralDensity, spectrum
from lla_helpers.models import mlp

ROOT = Path(__file__).resolve().parents[1]
# 101 samples: the two ranks have 51 and 50.
JOB = ["--model", "lla_helpers.models:mlp", "--model-args", '{"widths": [64, 6, 10]}']
JOB += ["--data", "digits", "--samples", "101", "--steps", "12"]
ALONE, TWO = ["-m"], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]


def start(how: list[str], *args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *how, "lla_helpers.spectrum", *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_ranks_give_the_density_of_one(tmp_path, capfd):
    assert spectrum.main([*JOB, "--probes", "3", "--out", str(tmp_path / "one.npz")]) == 0
    assert "101 samples, 1 process(es)" in capfd.readouterr().out
    job = start(TWO, *JOB, "--probes", "3", "--out", str(tmp_path / "two.npz"))
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err[-2000:]
    assert "101 samples, 2 process(es)" in out and out.count("largest eigenvalue") == 1
    one, two = (SpectralDensity.load(tmp_path / f"{n}.npz") for n in ("one", "two"))
    assert one.nodes.shape == (3, 12) and one.steps == two.steps == 12
    # float32 sums in another order: 1e-7, times a few dozen through twelve Lanczos steps.
    np.testing.assert_allclose(two.nodes, one.nodes, atol=1e-5 * abs(one.nodes).max(), rtol=0)
    np.testing.assert_allclose(two.weights, one.weights, atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def dies_on_the_second_rank() -> nn.Module:
    if os.environ.get("RANK") == "1":
        os._exit(9)
    return mlp((64, 6, 10))


def test_a_rank_that_dies_ends_the_job_without_a_file(tmp_path):
    model = ["--model", "tests.test_spectrum:dies_on_the_second_rank", "--model-args", "{}"]
    job = start(TWO, *JOB, *model, "--out", str(tmp_path / "two.npz"))
    job.communicate(timeout=120)
    assert job.returncode != 0
    assert not list(tmp_path.iterdir())


def test_a_killed_run_goes_on_with_the_next_probe(tmp_path, capfd):
    """Blocks of 16 probes: with 400 of them the first lies on disk long before the last."""
    long = [*JOB, "--probes", "400", "--out", str(tmp_path / "d.npz")]
    job = start(ALONE, *long)
    kept = tmp_path / "d.npz.part"
    while not kept.exists():
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert not (tmp_path / "d.npz").exists()
    with np.load(kept) as arrays:
        done = len(arrays["nodes"])
    assert 0 < done < 400
    few = str(done + 2)
    assert spectrum.main([*JOB, "--probes", few, "--out", str(tmp_path / "d.npz")]) == 0
    assert f"{done} of {few} probes are there already" in capfd.readouterr().err
    assert not kept.exists()
    assert spectrum.main([*JOB, "--probes", few, "--out", str(tmp_path / "e.npz")]) == 0
    resumed, whole = (SpectralDensity.load(tmp_path / f"{n}.npz") for n in "de")
    # Probes in other blocks are batched differently: float32 rounding again.
    np.testing.assert_allclose(resumed.nodes, whole.nodes, atol=1e-5 * abs(whole.nodes).max())


@pytest.mark.parametrize("change", [["--steps", "11"], ["--seed", "1"], ["--samples", "100"]])
def test_probes_of_another_spectrum_are_not_taken_over(tmp_path, capfd, change):
    out = tmp_path / "d.npz"
    kept = tmp_path / "d.npz.part"
    code = "0" * 64
    spectrum.write_rows(kept, code, [(np.ones(12), np.full(12, 1 / 12))])
    assert len(spectrum.read_rows(kept, code)) == 1
    assert spectrum.main([*JOB, *change, "--probes", "2", "--out", str(out)]) == 0
    assert "already" not in capfd.readouterr().err
    assert SpectralDensity.load(out).nodes.max() != 1


def test_a_damaged_file_is_made_anew(tmp_path, capfd):
    (tmp_path / "d.npz.part").write_bytes(b"PK\3\4 no archive")
    assert spectrum.main([*JOB, "--probes", "2", "--out", str(tmp_path / "d.npz")]) == 0
    assert "is damaged and made anew" in capfd.readouterr().err


def test_bfloat16_states_its_error(tmp_path, capfd):
    found = {}
    for dtype in ("float64", "bfloat16"):
        job = [*JOB, "--probes", "2", "--dtype", dtype, "--out", str(tmp_path / f"{dtype}.npz")]
        assert spectrum.main(job) == 0
        found[dtype] = SpectralDensity.load(tmp_path / f"{dtype}.npz")
    said = capfd.readouterr().out
    percent = float(said.split("from float32's by ")[1].split(" %")[0])
    # Eight bits of mantissa: 2^-9 a rounding, some of them one after the other.
    assert 0.1 < percent < 10
    exact, ours = found["float64"].support[1], found["bfloat16"].support[1]
    assert 0 < abs(ours - exact) / exact < percent / 100
    assert found["bfloat16"].validity.faults(), "a type may not be read from such products"
    assert not found["float64"].validity.faults()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--model", "resnet81"], "torchvision has no model 'resnet81'"),
        (["--data", "digit"], "unknown data set 'digit'"),
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--weights", "nowhere.pt"], "no weights at "),
        (["--device", "gpu"], "Invalid value for '--device'"),
        (["--params", "nothing*"], "no parameter is named 'nothing*'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capfd, change, complaint):
    arguments = ["--model-args", "{}"] if "--model" in change else []
    code = spectrum.main([*JOB, *arguments, *change, "--out", str(tmp_path / "d.npz")])
    said = capfd.readouterr()
    assert (code, said.out) == (2, "")
    assert said.err.startswith(f"error: {complaint}") and said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
