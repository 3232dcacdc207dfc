"""The book's way of drawing a density: heights count eigenvalues, whatever the units."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lla_helpers.density import SpectralDensity
from lla_helpers.plots import plot_density

SPECTRUM = np.array([0.0] * 97 + [5.0, 5.0, 10.0])


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def exact(eigenvalues: np.ndarray) -> SpectralDensity:
    n = len(eigenvalues)
    return SpectralDensity(eigenvalues, np.full(n, 1 / n), n)


def height_near(line, t: float) -> float:
    x, y = line.get_data()
    return y[abs(x - t) < 0.02 * np.ptp(x)].max()


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
@pytest.mark.parametrize("width", [0.002, 0.01])
def test_a_peak_is_as_high_as_its_number_of_eigenvalues(ax, scale, width):
    line = plot_density(ax, exact(scale * SPECTRUM), width=width, points=20_000)
    for t, count in ((0.0, 97), (5.0, 2), (10.0, 1)):
        assert height_near(line, scale * t) == pytest.approx(count, rel=1e-2)


def test_the_axis_shows_single_eigenvalues_and_no_empty_decades(ax):
    plot_density(ax, exact(SPECTRUM), label="exact")
    bottom, top = ax.get_ylim()
    assert ax.get_yscale() == "log"
    assert 0.01 < bottom < 1 and 97 < top < 1e4
    low, high = ax.get_xlim()
    assert low < 0.0 and high > 10.0  # no node is cut off
