"""Draw a sheet of the miniature world: pictures, spectrograms and captions.

python -m sonolume.preprocessors.miniworld.gallery OUT.png
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sonolume.preprocessors.miniworld.captions import captions
from sonolume.preprocessors.miniworld.pictures import SIZE, picture
from sonolume.preprocessors.miniworld.scene import KINDS, Scene, scenes
from sonolume.preprocessors.miniworld.sounds import render
from sonolume.utils import cli
from sonolume.utils.files import atomic_path

ZOOM = 2
COLUMNS = 3
PAIRS = 2  # scenes of each relation
SPECTROGRAM = (320, SIZE * ZOOM)  # pixels
CELL = (SIZE * ZOOM + SPECTROGRAM[0] + 24, SIZE * ZOOM + 34)  # pixels


def chosen() -> list[Scene]:
    """Select one scene of every kind, then `PAIRS` of each relation."""
    alone: dict[str, Scene] = {}
    pairs: dict[str, list[Scene]] = {"then": [], "over": []}
    for scene in scenes("train", 400):
        if scene.relation:
            pairs[scene.relation].append(scene)
        elif scene.events[0].loudness > 0.5:
            alone.setdefault(scene.events[0].kind, scene)
    return [alone[kind] for kind in KINDS] + [
        scene for found in pairs.values() for scene in found[:: len(found) // PAIRS][:PAIRS]
    ]


def _spectrogram(scene: Scene) -> Image.Image:
    import torch  # slow to import

    from sonolume.modules.mel import MelSpectrogram
    from sonolume.utils.spectrogram import colours

    log_mel = MelSpectrogram()(torch.from_numpy(render(scene))[None])[0].numpy()  # (80, 160)
    return Image.fromarray(np.ascontiguousarray(colours(log_mel)[::-1])).resize(SPECTROGRAM, Image.Resampling.NEAREST)


def gallery(path: Path | str) -> None:
    """Write a PNG with the picture, spectrogram and a caption of every kind and of some pairs."""
    found = chosen()
    rows = -(-len(found) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL[0], rows * CELL[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for index, scene in enumerate(found):
        x, y = (index % COLUMNS) * CELL[0] + 8, (index // COLUMNS) * CELL[1] + 8
        zoomed = Image.fromarray(picture(scene)).resize((SIZE * ZOOM, SIZE * ZOOM), Image.Resampling.NEAREST)
        sheet.paste(zoomed, (x, y))
        sheet.paste(_spectrogram(scene), (x + SIZE * ZOOM + 6, y))
        draw.text((x, y + SIZE * ZOOM + 4), captions(scene, 1, "train")[0], fill="black")
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def main(argv: list[str]) -> None:
    parser = cli.parser("gallery", "draw a sheet of pictures and spectrograms of the miniature world")
    parser.add_argument("path", type=Path, help="the PNG to write")
    gallery(parser.parse_args(argv).path)


if __name__ == "__main__":
    sys.exit(cli.run(main))
