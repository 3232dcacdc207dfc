"""Shards of the data over processes: the operator is that of all samples."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.ranks_job import SAMPLES, operator, report

ROOT = Path(__file__).resolve().parents[1]


def torchrun(ranks: int, out: Path, what: str = "ok") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", "-m", "tests.ranks_job", str(out), what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def alone() -> dict[str, np.ndarray]:
    return report(operator(0, SAMPLES))


@pytest.mark.parametrize("ranks", [2, 3])
def test_unequal_shards_give_the_operator_of_all_samples(ranks, alone, tmp_path):
    job = torchrun(ranks, tmp_path / "found.npz")
    assert job.returncode == 0, job.stderr[-2000:]
    with np.load(tmp_path / "found.npz") as found:
        for name, expected in alone.items():
            # float64 sums in another order; Lanczos multiplies their 1e-16 by a few hundred.
            np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_rank_that_dies_ends_the_job(tmp_path):
    job = torchrun(2, tmp_path / "found.npz", "death")
    assert job.returncode != 0
    assert not (tmp_path / "found.npz").exists()


def test_ranks_with_different_weights_are_refused(tmp_path):
    job = torchrun(2, tmp_path / "found.npz", "weights")
    assert job.returncode != 0
    assert "the ranks hold different weights" in job.stderr
