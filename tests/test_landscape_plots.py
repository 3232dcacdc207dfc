"""Pictures of landscapes: one scale for compared panels, nothing bad drawn as good."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from lla_helpers.landscape import Surface
from lla_helpers.landscape_plots import (
    colour_bar,
    plot_bundle,
    plot_contour,
    plot_surface,
    plot_trajectory,
    shared_levels,
)


def bowl(scale=1.0, holes=()):
    a = np.linspace(-1, 1, 9)
    loss = scale * (0.1 + a**2 + a[:, None] ** 2)
    for at, value in holes:
        loss[at] = value
    return Surface(a, a, loss)


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_levels_cover_all_panels_and_ignore_what_is_not_finite():
    levels = shared_levels([bowl(), bowl(10, [((0, 0), np.inf), ((1, 1), np.nan)])], 7)
    assert len(levels) == 7 and np.allclose(np.diff(np.log(levels)), np.log(levels[1] / levels[0]))
    assert levels[0] == pytest.approx(0.1)
    assert levels[-1] == pytest.approx(10 * 2.1)  # the corners that are left
    straight = shared_levels([bowl()], log=False)
    assert np.allclose(np.diff(straight), straight[1] - straight[0])
    assert shared_levels([Surface(np.arange(2.0), None, np.ones(2))])[0] < 1
    with pytest.raises(ValueError, match="no finite loss"):
        shared_levels([Surface(np.arange(2.0), None, np.array([np.nan, np.inf]))])


@pytest.mark.parametrize("filled", [True, False])
def test_two_panels_share_colours(filled):
    fig, axes = plt.subplots(1, 2)
    levels = shared_levels([bowl(), bowl(10)])
    drawn = [
        plot_contour(ax, s, levels, filled=filled)
        for ax, s in zip(axes, (bowl(), bowl(10)), strict=True)
    ]
    assert {(d.norm.vmin, d.norm.vmax) for d in drawn} == {(levels[0], levels[-1])}
    colour_bar(fig, drawn[0], axes, levels)
    fig.canvas.draw()
    plt.close(fig)


def test_points_that_are_not_finite_are_crossed_out_and_counted(ax):
    holes = [((0, 0), np.inf), ((3, 5), np.nan), ((8, 1), 0.0)]
    ax.set_title("bowl")
    plot_contour(ax, bowl(holes=holes), shared_levels([bowl(holes=holes)]))
    assert ax.get_title() == "bowl (3 of 81 not finite)"
    crosses = next(line for line in ax.lines if line.get_marker() == "x")
    a = np.linspace(-1, 1, 9)
    marked = {tuple(point) for point in np.round(crosses.get_xydata(), 6)}
    assert marked == {tuple(np.round(p, 6)) for p in ((a[0], a[0]), (a[5], a[3]), (a[1], a[8]))}


def test_a_bundle_shows_median_and_spread_and_interrupts_bad_lines(ax):
    a = np.linspace(-1, 1, 5)
    loss = np.arange(1, 12)[:, None] * (1 + a**2)
    loss[0, 0] = np.inf
    plot_bundle(ax, Surface(a, None, loss), color="b", label="lines")
    assert len(ax.lines) == 12 and len(ax.collections) == 1
    assert np.allclose(ax.lines[-1].get_ydata()[1:], 6 * (1 + a[1:] ** 2))
    assert np.isnan(ax.lines[0].get_ydata()[0])


def test_a_surface_and_a_trajectory_can_be_drawn(ax):
    fig = plt.figure()
    solid = fig.add_subplot(projection="3d")
    plot_surface(solid, bowl(holes=[((0, 0), np.inf)]), shared_levels([bowl()]))
    fig.canvas.draw()
    plt.close(fig)
    path = np.array([[1.0, 1.0], [0.5, 0.2], [0.0, 0.0]])
    plot_trajectory(ax, path, label="training")
    assert np.array_equal(ax.lines[0].get_xydata(), path)
    assert np.array_equal(ax.lines[2].get_xydata(), path[-1:])
