"""Pictures of loss landscapes. Panels that are compared share one colour scale, made beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lla_helpers.landscape import Surface
from lla_helpers.plots import COLORS

# One hue that grows darker: loss has a direction, and print and colour blindness keep lightness.
COLOUR_MAP = "viridis_r"


def shared_levels(surfaces: Sequence[Surface], count: int = 13, log: bool = True) -> np.ndarray:
    """Contour levels that cover the finite losses of all surfaces, evenly spaced (in the log).

    Raises ValueError when there is no finite loss, or with `log` no positive one.
    """
    values = np.concatenate([s.loss[np.isfinite(s.loss)].reshape(-1) for s in surfaces])
    values = values[values > 0] if log else values
    if len(values) == 0:
        raise ValueError("no finite loss to draw" + (" on a logarithmic scale" if log else ""))
    low, high = values.min(), values.max()
    if low == high:
        low, high = (0.9 * low, 1.1 * low) if log else (low - 0.5, low + 0.5)
    return np.geomspace(low, high, count) if log else np.linspace(low, high, count)


def plot_contour(
    ax, surface: Surface, levels: np.ndarray, *, log: bool = True, filled: bool = True, **lines
):
    """Contours of a plane at `levels` (see `shared_levels`); returns what a colour bar needs.

    filled: colours between the levels, with thin lines on them; else lines alone, for which `lines`
    are matplotlib's (colors, linewidths). Points without a finite loss are crossed out and counted
    in the axes, never interpolated over.
    """
    from matplotlib.colors import LogNorm, Normalize

    norm = (LogNorm if log else Normalize)(levels[0], levels[-1])
    bad = surface.bad | (surface.loss <= 0 if log else False)
    values = np.ma.masked_where(bad, surface.loss)
    if filled:
        drawn = ax.contourf(
            surface.a, surface.b, values, levels, norm=norm, cmap=COLOUR_MAP, extend="both"
        )
        lines = {"colors": "white", "linewidths": 0.4, "alpha": 0.6} | lines
        ax.contour(surface.a, surface.b, values, levels, norm=norm, **lines)
    else:
        lines = lines if "colors" in lines else {"cmap": COLOUR_MAP, "norm": norm} | lines
        drawn = ax.contour(surface.a, surface.b, values, levels, **lines)
    if bad.any():
        rows, columns = np.nonzero(bad)
        ax.plot(
            surface.a[columns], surface.b[rows], "x", ms=4, color=COLORS["contrast"], clip_on=False
        )
        ax.set_title(f"{ax.get_title()} ({bad.sum()} of {bad.size} not finite)".strip(), fontsize=9)
    ax.plot(0, 0, "+", color="white" if filled else COLORS["exact"], ms=8, mew=1.5)
    ax.grid(False)
    return drawn


def colour_bar(fig, drawn, axes, levels: np.ndarray, label: str = "loss") -> None:
    """One colour bar for all panels that share these levels, with ticks at some of them."""
    from matplotlib.ticker import NullFormatter, NullLocator

    bar = fig.colorbar(drawn, ax=axes, label=label, fraction=0.05, pad=0.02)
    ticks = levels[:: max(1, len(levels) // 6)]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def plot_bundle(ax, bundle: Surface, *, color: str, label: str, log: bool = False) -> None:
    """Many lines through one point: each thin, their median thick, their middle 80 % as a band.

    Where a line is not finite it is interrupted, and the band is that of the finite ones.
    """
    lines = np.atleast_2d(np.where(np.isfinite(bundle.loss), bundle.loss, np.nan))
    ax.plot(bundle.a, lines.T, color=color, lw=0.4, alpha=0.5)
    low, middle, high = np.nanquantile(lines, (0.1, 0.5, 0.9), axis=0)
    ax.fill_between(bundle.a, low, high, color=color, alpha=0.2, lw=0)
    ax.plot(bundle.a, middle, color=color, lw=2, label=label)
    if log:
        ax.set_yscale("log")


def plot_surface(ax, surface: Surface, levels: np.ndarray, *, log: bool = True) -> None:
    """A plane as a surface in three dimensions, coloured by `levels`; height is log10 of the loss.

    Points without a finite loss are holes. A surface hides what lies behind a hill: use it for the
    shape, a contour plot for reading.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    bad = surface.bad | (surface.loss <= 0 if log else False)
    values = np.where(bad, np.nan, surface.loss)
    height = np.log10(values) if log else values
    a, b = np.meshgrid(surface.a, surface.b)
    norm = (LogNorm if log else Normalize)(levels[0], levels[-1])
    colours = colormaps[COLOUR_MAP](norm(np.ma.masked_invalid(values)))
    ax.plot_surface(a, b, height, facecolors=colours, rstride=1, cstride=1, lw=0, shade=False)
    ax.set_zlabel(r"$\log_{10}$ loss" if log else "loss")


def plot_trajectory(
    ax, coordinates: np.ndarray, *, color: str = "white", label: str | None = None
) -> None:
    """A path over a contour plot: dots for its points, a circle at its start, a star at its end."""
    ax.plot(*coordinates[:, :2].T, ".-", color=color, lw=1, ms=4, label=label)
    ax.plot(*coordinates[0, :2], "o", color=color, ms=7, mfc="none", mew=1.5)
    ax.plot(*coordinates[-1, :2], "*", color=color, ms=11)
