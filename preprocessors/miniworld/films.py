"""Films of scenes: their pictures in motion at 30 a second, and their sound, both delayed in half of the scenes.

A delay separates films of equal kinds: without it most sounds begin within the first quarter of a second.
"""

import io
from itertools import pairwise

import numpy as np
from PIL import Image

from sonolume.preprocessors.miniworld import DURATION, SAMPLE_RATE, SAMPLES
from sonolume.preprocessors.miniworld.pictures import animate, onsets
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.miniworld.sounds import NOISE_FLOOR, render

FPS = 30  # frames a second
LONGEST_DELAY = 1.2  # seconds
DELAYED = 0.5  # share of the scenes


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


def encode(frames: np.ndarray, fps: int = FPS) -> bytes:
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
