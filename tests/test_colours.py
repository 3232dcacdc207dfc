"""The figures' colours as seen with each form of colour blindness, and without colour at all."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lla_helpers.landscape_plots import COLOUR_MAP
from lla_helpers.plots import COLORS

# Machado, Oliveira and Fernandes (2009), table 1, severity 1: they act on linear RGB.
SEEN = {
    "by all": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# sRGB to CIE XYZ, white point D65.
XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)


def lab(rgb: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of sRGB colours (n, 3) in 0..1, as seen through a matrix on linear RGB."""
    rgb = np.asarray(rgb, float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ seen.T, 0, 1) @ XYZ.T / XYZ.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


# In L*a*b*, half of all viewers tell marks a third of a degree wide apart (a line or a marker at
# reading distance) from a difference of 7 in L*, 10 in a* and 14 in b*: Stone, Szafir and Setlur
# (2014), ND = (10.16 + 1.50/s, 10.68 + 3.08/s, 10.70 + 5.74/s) / 2. 15 is more than the worst.
APART = 15


@pytest.mark.parametrize("kind", SEEN)
def test_any_two_colours_of_the_palette_are_told_apart(kind):
    seen = lab([to_rgb(colour) for colour in COLORS.values()], SEEN[kind])
    distances = {
        (a, b): np.linalg.norm(seen[i] - seen[j])
        for (i, a), (j, b) in combinations(enumerate(COLORS), 2)
    }
    assert {pair: d for pair, d in distances.items() if d < APART} == {}


@pytest.mark.parametrize("kind", SEEN)
def test_every_colour_stands_out_from_the_white_ground(kind):
    seen = lab([to_rgb(colour) for colour in COLORS.values()], SEEN[kind])
    white = lab([(1, 1, 1)], SEEN[kind])
    assert np.linalg.norm(seen - white, axis=1).min() > 2 * APART


def test_the_simulation_confuses_red_and_green():
    """A control: a red and a green of like lightness, nearly one colour without the L cones."""
    pair = [(0.84, 0.19, 0.15), (0.40, 0.47, 0.13)]
    kinds = ("by all", "protanopia")
    by_all, confused = (np.linalg.norm(np.diff(lab(pair, SEEN[k]), axis=0)) for k in kinds)
    assert confused < by_all / 3


def maps_of_the_chapters() -> set[str]:
    """The names of the colour maps that chapters and helpers pass to matplotlib."""
    root = Path(__file__).parents[1]
    found = {COLOUR_MAP}
    for path in root.glob("chapters/*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                found |= set(NAMED.findall("".join(cell["source"])))
    return found


NAMED = re.compile(r"(?:cmap=|get_cmap\(|colormaps\[)[\"'](\w+)[\"']")
DIVERGING = {"PuOr", "PuOr_r", "RdBu", "RdBu_r"}


@pytest.mark.parametrize("kind", SEEN)
@pytest.mark.parametrize("name", sorted(maps_of_the_chapters()))
def test_a_colour_map_is_read_by_its_lightness(name, kind):
    """A scale of values rises or falls in L* throughout; a scale of signs does so on each side."""
    colours = matplotlib.colormaps[name](np.linspace(0, 1, 65))[:, :3]
    light = lab(colours, SEEN[kind])[:, 0]
    for part in (light[:33], light[32:]) if name in DIVERGING else (light,):
        steps = np.diff(part) * np.sign(part[-1] - part[0])
        assert steps.min() > -0.5, "half a unit of L*: what no eye sees"
        assert abs(part[-1] - part[0]) > 40
