"""Pictures of scenes, 64 x 64 pixels, video frames and films: drawings of the sound sources, animated at their onsets.

Timbre sets the hue, pan the horizontal position, pitch the height and the lightness, loudness the size, and the count
the number of notes, drops or arcs. Two events have a panel each: side by side for "then", stacked for "over".

Films have 30 pictures a second, and a sound; both are delayed in half of the scenes. A delay separates films of equal
kinds: without it most sounds begin within the first quarter of a second.
"""

import colorsys
import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from sonolume.preprocessors.miniworld import DURATION, SAMPLE_RATE, SAMPLES
from sonolume.preprocessors.miniworld.drawings import DRAWINGS, Appearance, Colour, Pen, ring
from sonolume.preprocessors.miniworld.scene import COUNTABLE, Scene
from sonolume.preprocessors.miniworld.sounds import NOISE_FLOOR, render

SIZE = 64  # pixels of a side
SUPERSAMPLING = 4  # draw at this scale, then average, for smooth edges
FADE = 0.72  # share of background in the colours of a silent object
GLOW: Colour = (255, 252, 200)  # behind an object at its onset, lighter than every background
RIM: Colour = (255, 150, 20)  # edge of the glow
STEPS = 4  # footprints in a still picture

HOP = 160  # samples of one envelope value: 10 ms
MUTED = -9.0  # loudness that renders silence from the same random numbers
SILENCE_LEVEL = 0.01  # share of the peak below which an event counts as silent
RISE = 2.0  # factor of an onset above the quietest of the preceding 50 ms
ONSET_LEVEL = 0.1  # share of the peak that an onset must reach
GAPS = {"clock": 0.12, "footsteps": 0.25}  # minimum seconds between onsets
DEFAULT_GAP = 0.35
REPEATED = (*COUNTABLE, *GAPS)

FPS = 30  # frames a second of a film
LONGEST_DELAY = 1.2  # seconds
DELAYED = 0.5  # share of the scenes

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


def paint(scene: Scene, states: Sequence[Appearance]) -> np.ndarray:
    """Draw a scene with each event in the given state: uint8 (64, 64, 3)."""
    panels, papers = PANELS[scene.relation], _papers(scene)
    image = Image.new("RGB", (FULL, FULL), papers[0])
    draw = ImageDraw.Draw(image)
    for event, state, (left, top, right, bottom), paper in zip(scene.events, states, panels, papers, strict=True):
        if left or top:
            draw.rectangle((left, top, right, bottom), fill=paper)
        scale = min(right - left, bottom - top) / 2 * (0.60 + 0.36 * event.loudness)
        x = left + scale + event.pan * (right - left - 2 * scale)
        y = top + scale + (1 - event.pitch) * (bottom - top - 2 * scale)
        pen = Pen(draw, (x, y), scale, paper, FADE if state.faint else 0.0)
        if state.hit:
            pen.shape(ring(0, 0, 0.97, 0.97), GLOW, 0.06, RIM)
        body = _colour(0.83 * event.timbre, 0.36 + 0.28 * event.pitch, 0.75)
        DRAWINGS[event.kind](pen, replace(state, body=body, direction=event.direction))
    if scene.relation:
        left, top, _, _ = panels[1]
        draw.line([(left, top), (left, FULL) if left else (FULL, top)], fill=(255, 255, 255), width=SUPERSAMPLING)
    return np.asarray(image.reduce(SUPERSAMPLING))


def picture(scene: Scene) -> np.ndarray:
    """Draw the still picture of a scene, deterministically: uint8 (64, 64, 3)."""
    return paint(scene, [Appearance(STEPS if e.kind == "footsteps" else e.count) for e in scene.events])


def _envelopes(scene: Scene) -> list[np.ndarray]:
    """Level of every event of a scene rendered without the others: (256,) values of 10 ms, peak 1."""
    levels = []
    for index in range(len(scene.events)):
        events = [replace(e, loudness=1.0 if k == index else MUTED) for k, e in enumerate(scene.events)]
        wave = render(replace(scene, events=events))
        level = np.sqrt((wave.reshape(-1, HOP) ** 2).mean(axis=1))
        levels.append(level / level.max())
    return levels


def _onsets(kind: str, level: np.ndarray) -> list[float]:
    """Times in seconds at which a level jumps up; only the first one of a continuous sound."""
    before = np.min([np.pad(level, (shift, 0))[: len(level)] for shift in range(1, 6)], axis=0)
    times: list[float] = []
    for k in np.flatnonzero((level > ONSET_LEVEL) & (level > RISE * before)):
        time = float(k * (HOP / SAMPLE_RATE))
        if not times or time - times[-1] >= GAPS.get(kind, DEFAULT_GAP):
            times.append(time)
    return times if kind in REPEATED else times[:1]


def onsets(scene: Scene) -> list[list[float]]:
    """Onset times in seconds (to 10 ms) of every event; a continuous sound has one."""
    return [_onsets(event.kind, level) for event, level in zip(scene.events, _envelopes(scene), strict=True)]


def appearances(scene: Scene, lefts: np.ndarray, step: float) -> list[tuple[Appearance, ...]]:
    """States of all events, for `paint`, in windows of `step` seconds that begin at the times `lefts` (N,).

    Nothing has sounded at negative times. Colours and directions are not set.
    """
    tracks = [_states(e.kind, level, lefts, step) for e, level in zip(scene.events, _envelopes(scene), strict=True)]
    return list(zip(*tracks, strict=True))


def _states(kind: str, level: np.ndarray, lefts: np.ndarray, step: float) -> list[Appearance]:
    """States of one event in windows of `step` seconds that begin at the times `lefts`, which may be negative."""
    times = np.array(_onsets(kind, level))
    sounding = np.flatnonzero(level > SILENCE_LEVEL) * HOP / SAMPLE_RATE
    first, last = sounding[0], sounding[-1]
    states = []
    for left in lefts:
        right = left + step
        marks = int((times < right).sum()) if kind in REPEATED else 0
        hit = bool(((left <= times) & (times < right)).any())
        phase = float(np.clip((left + step / 2 - first) / (last - first + 1e-6), 0, 1)) if kind not in REPEATED else 0.5
        states.append(Appearance(marks, hit, phase, faint=bool(right <= first or left > last)))
    return states


def animate(scene: Scene, lefts: np.ndarray, step: float) -> np.ndarray:
    """Draw the windows of `appearances`: uint8 (N, 64, 64, 3). Successive windows of equal state share one drawing."""
    drawn: list[np.ndarray] = []
    for before, states in pairwise([(), *appearances(scene, lefts, step)]):
        drawn.append(drawn[-1] if states == before else paint(scene, states))
    return np.stack(drawn)


def frames(scene: Scene, count: int = 8) -> np.ndarray:
    """Render a scene as video: uint8 (count, 64, 64, 3), frame i for the i-th part of the 2.56 s.

    An event is faint while it is silent. At an onset its object lights up and moves, and a countable one gains a mark.
    """
    if count < 1:
        raise ValueError(f"count must be at least one, got {count}")
    return animate(scene, *even_windows(count))


def even_windows(count: int) -> tuple[np.ndarray, float]:
    """Starts (count,) and length, in seconds, of equal windows of a scene."""
    step = DURATION / count
    return np.arange(count) * step, step


def film_delay(scene: Scene) -> float:
    """Delay of the film of a scene in seconds, to a millisecond: 0 for half of the scenes, at most 1.2."""
    rng = np.random.default_rng([scene.seed, 13])
    share, delay = rng.uniform(size=2).tolist()
    return round(LONGEST_DELAY * delay, 3) if share < DELAYED else 0.0


def delayed_wave(scene: Scene) -> np.ndarray:
    """Render the sound of a film: `render`, later by `film_delay` and cut at 2.56 s; float32 (40960,), 16 kHz."""
    shift = round(film_delay(scene) * SAMPLE_RATE)
    silence = NOISE_FLOOR * np.random.default_rng([scene.seed, 14]).standard_normal(shift)
    return np.concatenate([silence.astype(np.float32), render(scene)])[:SAMPLES]


def film(scene: Scene, fps: int = FPS) -> np.ndarray:
    """Draw the frames of a film: uint8 (77, 64, 64, 3) at 30 a second, frame i for the time from i / fps on.

    Until the delay has passed, the objects are faint as at the start of `frames`.
    """
    starts = np.arange(int(np.ceil(DURATION * fps))) / fps
    return animate(scene, starts - film_delay(scene), 1 / fps)


def film_onsets(scene: Scene) -> list[list[float]]:
    """Onset times in seconds (to 10 ms) of every event in the film, without those after its end."""
    delay = film_delay(scene)
    return [[time + delay for time in times if time + delay < DURATION] for times in onsets(scene)]


def encode_film(frames: np.ndarray, fps: int = FPS) -> bytes:
    """Encode frames (N, height, width, 3) as animated WebP without loss; the film ends after 2.56 s.

    Frame i appears in millisecond floor(1000 i / fps), so that it is the one shown at i / fps. Equal successive frames
    are stored once.
    """
    changes = [0, *(k for k in range(1, len(frames)) if (frames[k] != frames[k - 1]).any())]
    starts = [1000 * k // fps for k in changes]
    lengths = [after - before for before, after in pairwise([*starts, round(1000 * DURATION)])]
    first, *rest = (Image.fromarray(frames[k]) for k in changes)
    memory = io.BytesIO()
    first.save(memory, "WEBP", save_all=True, append_images=rest, duration=lengths, lossless=True, quality=0, method=0)
    return memory.getvalue()
