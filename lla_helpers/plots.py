"""One figure style for the whole book, and the plots that more than one chapter draws."""

from __future__ import annotations

import math

import numpy as np

# Okabe and Ito's palette: distinguishable with every common form of colour blindness.
COLORS = {
    "exact": "#000000",
    "estimate": "#0072B2",
    "contrast": "#D55E00",
    "third": "#009E73",
    "fourth": "#CC79A7",
    "fifth": "#E69F00",
    "sixth": "#56B4E9",
}


def use_style() -> None:
    """Set matplotlib's defaults for the book: sizes that stay legible at phone width, white ground.

    The ground is opaque white so that a figure reads the same on a dark page.
    """
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(
        {
            "figure.figsize": (7.0, 3.8),
            "figure.dpi": 144,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "font.size": 11,
            "axes.labelsize": 11,
            "axes.titlesize": 11,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "lines.linewidth": 1.6,
            "axes.prop_cycle": cycler(color=list(COLORS.values())[1:]),
        }
    )


def plot_density(ax, density, *, width: float | None = None, points: int = 2000, **line):
    """Draw P sigma sqrt(2 pi) phi_sigma(t) on a logarithmic axis; returns the line.

    In these units an eigenvalue that stands alone has height 1, whatever P, the kernel width and
    the scale of the loss. `width` is relative to the range, as in `SpectralDensity.pdf`; the grid
    covers every node. `line`: color, label and the like.
    """
    t = density.grid(points, width)
    height = density.dim * density.sigma(width) * math.sqrt(2 * math.pi) * density.pdf(t, width)
    # Far tails would stretch the logarithmic axis to numbers that mean nothing.
    (drawn,) = ax.semilogy(t, np.maximum(height, 1e-3), **line)
    ax.set_ylim(bottom=0.05)
    ax.set(xlabel=r"eigenvalue $\lambda$", ylabel="eigenvalues per kernel width")
    return drawn
