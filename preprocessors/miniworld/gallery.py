"""Draw a sheet of the miniature world: pictures, spectrograms and captions.

python -m sonolume.preprocessors.miniworld.gallery OUT.png
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld.captions import captions
from sonolume.preprocessors.miniworld.pictures import SIZE, picture
from sonolume.preprocessors.miniworld.scene import KINDS, Scene, scenes
from sonolume.preprocessors.miniworld.sounds import render
from sonolume.utils import cli
from sonolume.utils.files import atomic_path
from sonolume.utils.image import colours

ZOOM = 2
COLUMNS = 3
PAIRS = 2  # scenes of each relation
SPECTROGRAM = (320, SIZE * ZOOM)  # pixels
CELL = (SIZE * ZOOM + SPECTROGRAM[0] + 24, SIZE * ZOOM + 34)  # pixels


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
    return Image.fromarray(np.ascontiguousarray(colours(log_mel)[::-1])).resize(SPECTROGRAM, Image.Resampling.NEAREST)


def main(argv: list[str]) -> None:
    """Write a PNG with the picture, spectrogram and a caption of every kind and of some pairs."""
    parser = cli.parser("gallery", "draw a sheet of pictures and spectrograms of the miniature world")
    parser.add_argument("path", type=Path, help="the PNG to write")
    path, found = parser.parse_args(argv).path, chosen()
    sheet = Image.new("RGB", (COLUMNS * CELL[0], -(-len(found) // COLUMNS) * CELL[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for index, scene in enumerate(found):
        x, y = (index % COLUMNS) * CELL[0] + 8, (index // COLUMNS) * CELL[1] + 8
        zoomed = Image.fromarray(picture(scene)).resize((SIZE * ZOOM, SIZE * ZOOM), Image.Resampling.NEAREST)
        sheet.paste(zoomed, (x, y))
        sheet.paste(_spectrogram(scene), (x + SIZE * ZOOM + 6, y))
        draw.text((x, y + SIZE * ZOOM + 4), captions(scene, 1, "train")[0], fill="black")
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


if __name__ == "__main__":
    sys.exit(cli.run(main))
