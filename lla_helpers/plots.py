"""One figure style for the whole book, and the plots that more than one chapter draws."""

from __future__ import annotations

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
