"""How `fonts.npz` and `patches.npz` were made, from fonts and photographs that others ship.

    python data/make.py fonts FOLDER      # FOLDER holds the font files named in FAMILIES
    python data/make.py patches FOLDER    # FOLDER holds the photographs named in PHOTOGRAPHS

The files go to the current directory. Rasterising depends on the versions of FreeType and Pillow to
the last bit, so a file made anew may differ slightly; the book reads the ones that ship.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# One typeface a line, with the files of its weights and slants. README.md names their licences.
FAMILIES = {
    "Andika": ("Andika-Regular.ttf", "Andika-Bold.ttf", "Andika-Italic.ttf"),
    "Breip": ("Breip.ttf",),
    "Cabin": ("Cabin-Regular.otf", "Cabin-Bold.otf", "Cabin-Italic.otf"),
    "Caladea": ("Caladea-Regular.ttf", "Caladea-Bold.ttf", "Caladea-Italic.ttf"),
    "Cantarell": ("Cantarell-Regular.otf", "Cantarell-ExtraBold.otf", "Cantarell-Thin.otf"),
    "Carlito": ("Carlito-Regular.ttf", "Carlito-Bold.ttf", "Carlito-Italic.ttf"),
    "Charis SIL": ("CharisSIL-Regular.ttf", "CharisSIL-Bold.ttf", "CharisSIL-Italic.ttf"),
    "Comfortaa": ("Comfortaa-Regular.ttf", "Comfortaa-Bold.ttf", "Comfortaa-Light.ttf"),
    "Cousine": ("Cousine-Regular.ttf", "Cousine-Bold.ttf", "Cousine-Italic.ttf"),
    "DejaVu Sans": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-ExtraLight.ttf"),
    "DejaVu Serif": ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf"),
    "dkg handwriting": ("dkg.ttf", "dkgBd.ttf", "dkgIt.ttf"),
    "EB Garamond": ("EBGaramond12-Regular.otf", "EBGaramond12-Bold.otf"),
    "FreeMono": ("FreeMono.ttf", "FreeMonoBold.ttf", "FreeMonoOblique.ttf"),
    "FreeSerif": ("FreeSerif.ttf", "FreeSerifBold.ttf", "FreeSerifItalic.ttf"),
    "Gentium Basic": ("GenBasR.ttf", "GenBasB.ttf", "GenBasI.ttf"),
    "Goudy Bookletter 1911": ("GoudyBookletter1911.otf",),
    "Hack": ("Hack-Regular.ttf", "Hack-Bold.ttf", "Hack-Italic.ttf"),
    "Humor Sans": ("Humor-Sans.ttf",),
    "Inconsolata": ("Inconsolata.otf",),
    "Junction": ("Junction.otf",),
    "Lato": ("Lato-Regular.ttf", "Lato-Black.ttf", "Lato-LightItalic.ttf"),
    "Liberation Sans": ("LiberationSans-Regular.ttf", "LiberationSans-BoldItalic.ttf"),
    "Linux Libertine": ("LinLibertine_R.otf", "LinLibertine_RB.otf", "LinLibertine_RI.otf"),
    "Noto Mono": ("NotoMono-Regular.ttf",),
    "Open Sans": ("OpenSans-Regular.ttf", "OpenSans-ExtraBold.ttf", "OpenSans-LightItalic.ttf"),
    "Play": ("Play-Regular.ttf", "Play-Bold.ttf"),
    "Quicksand": ("Quicksand-Regular.ttf", "Quicksand-Bold.ttf", "Quicksand-Light.ttf"),
    "Roboto": ("Roboto-Regular.ttf", "Roboto-Black.ttf", "Roboto-ThinItalic.ttf"),
    "Yanone Kaffeesatz": ("YanoneKaffeesatz-Regular.otf", "YanoneKaffeesatz-Bold.otf"),
}
RENDERINGS = 5  # of each digit in each typeface

# Class name, file, and the part that is used: left, top, right, bottom, as shares of the sides.
# README.md names sources and licences.
PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", (0, 0, 1, 1)),
    "cat": ("chelsea.png", (0, 0, 1, 1)),
    "coffee": ("coffee.png", (0, 0, 1, 1)),
    "flower": ("flower.jpg", (0, 0, 1, 1)),
    "galaxies": ("hubble_deep_field.jpg", (0, 0, 1, 1)),
    "officer": ("grace_hopper.jpg", (0, 0, 1, 1)),
    "pavilion": ("china.jpg", (0, 0, 1, 1)),
    "retina": ("retina.jpg", (0.16, 0.16, 0.84, 0.84)),  # the disc; around it there is black
    "rocket": ("rocket.jpg", (0, 0, 1, 1)),
    "tissue": ("ihc.png", (0, 0, 1, 1)),
}
SIDE = 12  # pixels of a patch
ACROSS = 3  # a region holds 3 x 3 patches ...
KEPT = 6  # ... of which the six with the most contrast are kept: a blank patch has no class
REGIONS = 5  # regions down and across a photograph
GAP = 3  # pixels, at least, between two regions


def rendered(digit: int, font: Path, rng: np.random.Generator) -> np.ndarray:
    """One digit as the UCI set has it: a 32 x 32 bitmap, then the ink of each 4 x 4 block.

    The typeface's digit fills the height, as the normalised handwritten ones do; what varies is the
    rotation, the slant, the width, the place and the weight of the stroke.
    """
    pen = ImageFont.truetype(str(font), 160)
    canvas = Image.new("L", (320, 320))
    ImageDraw.Draw(canvas).text((160, 160), str(digit), fill=255, font=pen, anchor="mm")
    canvas = canvas.rotate(rng.uniform(-10, 10), resample=Image.Resampling.BICUBIC)
    slant = rng.uniform(-0.15, 0.25)
    canvas = canvas.transform(
        canvas.size, Image.Transform.AFFINE, (1, slant, -160 * slant, 0, 1, 0),
        resample=Image.Resampling.BICUBIC,
    )  # fmt: skip
    box = canvas.point(lambda v: 255 * (v > 127)).getbbox()
    if box is None:
        raise ValueError(f"{font.name} has no digit {digit}")
    glyph = canvas.crop(box)
    height = int(rng.integers(29, 33))
    natural = height * glyph.width / glyph.height * rng.uniform(0.85, 1.15)
    glyph = glyph.resize((int(np.clip(natural, 4, 28)), height), Image.Resampling.LANCZOS)
    bitmap = np.zeros((32, 32))
    top = int(rng.integers(0, 33 - glyph.height))
    left = int(np.clip((32 - glyph.width) // 2 + rng.integers(-2, 3), 0, 32 - glyph.width))
    # The brightest pixels, as many as the stroke's area times a weight: thin strokes stay whole.
    gray = np.asarray(glyph)
    pixels = max(1, round(gray.sum() / 255 * rng.uniform(0.85, 1.4)))
    ink = (gray >= np.sort(gray, axis=None)[-min(pixels, gray.size)]) & (gray > 25)
    bitmap[top : top + glyph.height, left : left + glyph.width] = ink
    return bitmap.reshape(8, 4, 8, 4).sum((1, 3)).astype(np.uint8)


def make_fonts(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images, labels, groups = [], [], []
    for group, files in enumerate(FAMILIES.values()):
        for digit in range(10):
            for i in range(RENDERINGS):
                images.append(rendered(digit, find(folder, files[i % len(files)]), rng))
                labels.append(digit)
                groups.append(group)
    return {
        "images": np.stack(images),
        "labels": np.array(labels, np.uint8),
        "groups": np.array(groups, np.uint8),
        "group_names": np.array(list(FAMILIES)),
    }


def patches_of(photograph: Image.Image) -> Iterator[tuple[int, tuple[int, int], np.ndarray]]:
    """Region number, place and pixels of every patch: a grid of regions that do not touch.

    The photograph is shrunk until the grid just fits into it, so that the patches cover as much of
    it as they can. What is left over along the longer side widens the gaps.
    """
    region_side = SIDE * ACROSS
    least = REGIONS * region_side + (REGIONS - 1) * GAP
    scale = least / min(photograph.size)
    size = (round(photograph.width * scale), round(photograph.height * scale))
    pixels = np.asarray(photograph.resize(size, Image.Resampling.LANCZOS))
    tops, lefts = (
        np.linspace(0, length - region_side, REGIONS).round().astype(int)
        for length in pixels.shape[:2]
    )
    for region in range(REGIONS**2):
        top, left = tops[region // REGIONS], lefts[region % REGIONS]
        corners = [
            (int(top + SIDE * i), int(left + SIDE * j)) for i, j in np.ndindex(ACROSS, ACROSS)
        ]
        found = [(corner, pixels[corner[0] :, corner[1] :][:SIDE, :SIDE]) for corner in corners]
        found.sort(key=lambda pair: -pair[1].std((0, 1)).mean())
        for corner, patch in sorted(found[:KEPT], key=lambda pair: pair[0]):
            yield region, corner, patch


def make_patches(folder: Path) -> dict[str, np.ndarray]:
    images, labels, groups, corners = [], [], [], []
    for label, (file, part) in enumerate(PHOTOGRAPHS.values()):
        photograph = Image.open(find(folder, file)).convert("RGB")
        sides = np.array([*photograph.size, *photograph.size])
        photograph = photograph.crop(tuple((sides * part).round().astype(int).tolist()))
        for region, corner, pixels in patches_of(photograph):
            # 64 levels a channel: the eye sees no difference, and the file is a third smaller.
            images.append(pixels // 4)
            labels.append(label)
            groups.append(region)
            corners.append(corner)
    return {
        "images": np.stack(images).transpose(0, 3, 1, 2).copy(),
        "labels": np.array(labels, np.uint8),
        "groups": np.array(groups, np.uint8),
        "places": np.array(corners, np.uint16),
        "class_names": np.array(list(PHOTOGRAPHS)),
    }


def find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise SystemExit(f"{name} is not under {folder}: README.md says which package has it")
    return found[0]


if __name__ == "__main__":
    makers = {"fonts": make_fonts, "patches": make_patches}
    if len(sys.argv) != 3 or sys.argv[1] not in makers:
        raise SystemExit(__doc__)
    target = Path(f"{sys.argv[1]}.npz")
    np.savez_compressed(target, **makers[sys.argv[1]](Path(sys.argv[2])))
    print(target, f"{target.stat().st_size:,} bytes")
