"""Draw a sheet of the miniature world: pictures, spectrograms and captions.

python -m sonolume.preprocessors.miniworld.gallery OUT.png
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld.captions import captions
from sonolume.preprocessors.miniworld.pictures import picture
from sonolume.preprocessors.miniworld.scene import KINDS, Scene, scenes
from sonolume.preprocessors.miniworld.sounds import render
from sonolume.utils import cli
from sonolume.utils.files import atomic_path
from sonolume.utils.image import colours, draw_text

COLUMNS = 4
PAIRS = 2  # scenes of each relation
SIDE = 96  # of a picture, pixels
SPECTROGRAM = (160, SIDE)  # pixels
LABEL = 56  # height of three lines, pixels
GAP = 8  # pixels
DYNAMIC_RANGE = 6.0  # nepers; the world's noise floor stays dark
CELL = (SIDE + SPECTROGRAM[0] + 3 * GAP, LABEL + SIDE + GAP)  # pixels


def chosen() -> list[Scene]:
    """Select one scene of every kind, then `PAIRS` of each relation."""
    drawn = list(scenes("train", 400))
    loud = [scene for scene in drawn if not scene.relation and scene.events[0].loudness > 0.5]
    found = [next(scene for scene in loud if scene.events[0].kind == kind) for kind in KINDS]
    for relation in ("then", "over"):
        pairs = [scene for scene in drawn if scene.relation == relation]
        found += pairs[:: len(pairs) // PAIRS][:PAIRS]
    return found


def _spectrogram(scene: Scene) -> Image.Image:
    log_mel = MelSpectrogram()(torch.from_numpy(render(scene))[None])[0].numpy()  # (80, 160)
    plot = Image.fromarray(np.ascontiguousarray(colours(log_mel, DYNAMIC_RANGE)[::-1]))
    return plot.resize(SPECTROGRAM, Image.Resampling.NEAREST)


def main(argv: list[str]) -> None:
    """Write a PNG with the picture, spectrogram and a caption of every kind and of some pairs."""
    parser = cli.parser("gallery", "draw a sheet of pictures and spectrograms of the miniature world")
    parser.add_argument("path", type=Path, help="the PNG to write")
    path, found = parser.parse_args(argv).path, chosen()
    sheet = Image.new("RGB", (COLUMNS * CELL[0], -(-len(found) // COLUMNS) * CELL[1]), "white")
    for index, scene in enumerate(found):
        x, y = (index % COLUMNS) * CELL[0] + GAP, (index // COLUMNS) * CELL[1] + LABEL
        label = draw_text(captions(scene, 1, "train")[0], SIDE + GAP + SPECTROGRAM[0])
        sheet.paste(label, (x, y - label.height - 2))
        sheet.paste(Image.fromarray(picture(scene)).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        sheet.paste(_spectrogram(scene), (x + SIDE + GAP, y))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(cli.run(main))
