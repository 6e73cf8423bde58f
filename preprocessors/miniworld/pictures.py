"""Pictures of scenes, 64 x 64 pixels: drawings of the sound sources.

Timbre sets the hue, pan the horizontal position, pitch the height and the lightness, loudness the size, and the count
the number of notes, drops or arcs. Two events have a panel each: side by side for "then", stacked for "over".
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sonolume.preprocessors.miniworld.drawings import DRAWINGS, Appearance, Moment
from sonolume.preprocessors.miniworld.pen import Colour, Pen, ring
from sonolume.preprocessors.miniworld.scene import Event, Scene

SIZE = 64  # pixels of a side
SUPERSAMPLING = 4  # draw at this scale, then average, for smooth edges
FADE = 0.72  # share of background in the colours of a silent object
GLOW: Colour = (255, 252, 200)  # behind an object at its onset, lighter than every background
RIM: Colour = (255, 150, 20)  # edge of the glow
STEPS = 4  # footprints in a still picture

Box = tuple[int, int, int, int]  # left, top, right, bottom in drawn pixels
FULL, HALF = SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING // 2
PANELS: dict[str, list[Box]] = {
    "": [(0, 0, FULL, FULL)],
    "then": [(0, 0, HALF, FULL), (HALF, 0, FULL, FULL)],
    "over": [(0, 0, FULL, HALF), (0, HALF, FULL, FULL)],
}


def _colour(hue: float, lightness: float, saturation: float) -> Colour:
    r, g, b = (round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, saturation))
    return r, g, b


def _papers(scene: Scene) -> list[Colour]:
    """Pale background colours, one for each event, drawn from the scene's seed."""
    rng = np.random.default_rng([scene.seed, 11])
    hue, lightness, saturation = rng.uniform((0, 0.76, 0.25), (1, 0.88, 0.65)).tolist()
    return [_colour((hue + 0.12 * k) % 1, lightness - 0.05 * k, saturation) for k in range(len(scene.events))]


def _draw_event(draw: ImageDraw.ImageDraw, event: Event, moment: Moment, box: Box, paper: Colour) -> None:
    left, top, right, bottom = box
    scale = min(right - left, bottom - top) / 2 * (0.60 + 0.36 * event.loudness)
    x = left + scale + event.pan * (right - left - 2 * scale)
    y = top + scale + (1 - event.pitch) * (bottom - top - 2 * scale)
    pen = Pen(draw, (x, y), scale, paper, FADE if moment.faint else 0.0)
    if moment.hit:
        pen.shape(ring(0, 0, 0.97, 0.97), GLOW, 0.06, RIM)
    body = _colour(0.83 * event.timbre, 0.36 + 0.28 * event.pitch, 0.75)
    DRAWINGS[event.kind](pen, Appearance(**vars(moment), body=body, direction=event.direction))


def paint(scene: Scene, moments: Sequence[Moment]) -> np.ndarray:
    """Draw a scene with each event in the given state: uint8 (64, 64, 3)."""
    panels, papers = PANELS[scene.relation], _papers(scene)
    image = Image.new("RGB", (FULL, FULL), papers[0])
    draw = ImageDraw.Draw(image)
    for event, moment, box, paper in zip(scene.events, moments, panels, papers, strict=True):
        if box != panels[0]:
            draw.rectangle(box, fill=paper)
        _draw_event(draw, event, moment, box, paper)
    if scene.relation:
        left, top, _, _ = panels[1]
        draw.line([(left, top), (left, FULL) if left else (FULL, top)], fill=(255, 255, 255), width=SUPERSAMPLING)
    return np.asarray(image.reduce(SUPERSAMPLING))


def picture(scene: Scene) -> np.ndarray:
    """Draw the still picture of a scene, deterministically: uint8 (64, 64, 3)."""
    return paint(scene, [Moment(marks=STEPS if e.kind == "footsteps" else e.count) for e in scene.events])
