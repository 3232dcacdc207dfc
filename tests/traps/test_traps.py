"""The fourteen traps: this package stays out of each, and a broken copy of the step falls in."""

from __future__ import annotations

import pytest

from tests.traps import broken
from tests.traps.adapter import Adapter, Ours
from tests.traps.traps import TRAPS

# PyTorch warns of the very leak that trap 11 is about.
pytestmark = pytest.mark.filterwarnings("ignore:Using backward:UserWarning")


def stays_out(number: int) -> None:
    _, trap = TRAPS[number]
    outcome = trap(Ours())
    assert not outcome.falls, outcome.number


def catches(number: int, adapter: Adapter) -> None:
    title, trap = TRAPS[number]
    outcome = trap(adapter)
    assert outcome.falls, f"{title}: {type(adapter).__name__} was not caught: {outcome.number}"


def test_trap_01_small_loss_scale():
    stays_out(1)
    catches(1, broken.EpsilonInNormalisation())


def test_trap_02_k_hn_and_steps():
    stays_out(2)
    catches(2, broken.NoReorthogonalisation())
    catches(2, broken.StepsNotTold())


def test_trap_03_ghosts():
    stays_out(3)
    catches(3, broken.NoReorthogonalisation())


def test_trap_04_ragged_batches():
    stays_out(4)
    catches(4, broken.MeanOfBatchMeans())


def test_trap_05_second_object():
    stays_out(5)
    catches(5, broken.GradientLeftBehind())


def test_trap_06_relative_width():
    stays_out(6)
    catches(6, broken.AbsoluteWidth())


def test_trap_07_negative_trace():
    stays_out(7)
    catches(7, broken.RelativeChangeOfTheTrace())


def test_trap_08_batch_norm_mode():
    stays_out(8)
    catches(8, broken.Rebuilt())
    catches(8, broken.GradientLeftBehind())


def test_trap_09_dropout():
    stays_out(9)
    catches(9, broken.Rebuilt())


def test_trap_10_finite_differences():
    stays_out(10)
    catches(10, broken.FiniteDifferences())


def test_trap_11_state_and_memory():
    stays_out(11)
    catches(11, broken.GradientLeftBehind())


def test_trap_11_memory_alone():
    """Trap 11 has two halves: an operator that is kept alive is caught by its memory alone."""
    kept = []

    class KeptAlive(Ours):
        def operator(self, problem, method=None):
            kept.append(super().operator(problem, method))
            return kept[-1]

    catches(11, KeptAlive())


def test_trap_12_plain_nodes():
    stays_out(12)
    catches(12, broken.GeneralEigenvalues())
    catches(12, broken.PaddedWithNan())


def test_trap_13_frozen_and_unused():
    stays_out(13)
    catches(13, broken.Rebuilt())


def test_trap_14_grid_covers_all():
    stays_out(14)
    catches(14, broken.GridOfTheFirstProbe())


def test_fourteen_traps():
    assert list(TRAPS) == list(range(1, 15))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_plain_lanczos_without_flaws_stays_out(number):
    """The broken copies are caught for their flaw, not for being another implementation."""
    _, trap = TRAPS[number]
    outcome = trap(broken.PlainLanczos())
    assert not outcome.falls, outcome.number
