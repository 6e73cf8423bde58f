"""Video frames of a scene: its picture at evenly spaced times, animated at the onsets of the sound."""

from dataclasses import replace

import numpy as np

from sonolume.preprocessors.miniworld import DURATION, SAMPLE_RATE
from sonolume.preprocessors.miniworld.drawings import Moment
from sonolume.preprocessors.miniworld.pictures import paint
from sonolume.preprocessors.miniworld.scene import COUNTABLE, Scene
from sonolume.preprocessors.miniworld.sounds import render

HOP = 160  # samples of one envelope value: 10 ms
MUTED = -9.0  # loudness that renders silence from the same random numbers
SILENCE_LEVEL = 0.01  # share of the peak below which an event counts as silent
RISE = 2.0  # factor of an onset above the quietest of the preceding 50 ms
ONSET_LEVEL = 0.1  # share of the peak that an onset must reach
GAPS = {"clock": 0.12, "footsteps": 0.25}  # minimum seconds between onsets
DEFAULT_GAP = 0.35
REPEATED = (*COUNTABLE, *GAPS)


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


def _moments(kind: str, level: np.ndarray, count: int) -> list[Moment]:
    """States of one event in `count` windows of equal length."""
    times = np.array(_onsets(kind, level))
    sounding = np.flatnonzero(level > SILENCE_LEVEL) * HOP / SAMPLE_RATE
    first, last = sounding[0], sounding[-1]
    step, moments = DURATION / count, []
    for left in np.arange(count) * step:
        right = left + step
        marks = int((times < right).sum()) if kind in REPEATED else 0
        hit = bool(((left <= times) & (times < right)).any())
        phase = float(np.clip((left + step / 2 - first) / (last - first + 1e-6), 0, 1))
        moments.append(Moment(marks=marks, hit=hit, phase=phase, faint=bool(right <= first or left > last)))
    return moments


def frames(scene: Scene, count: int = 8) -> np.ndarray:
    """Render a scene as video: uint8 (count, 64, 64, 3), frame i for the i-th part of the 2.56 s.

    An event is faint while it is silent. At an onset its object lights up and moves, and a countable one gains a mark.

    Raises:
        ValueError: count is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be at least one, got {count}")
    states = [_moments(event.kind, level, count) for event, level in zip(scene.events, _envelopes(scene), strict=True)]
    return np.stack([paint(scene, moments) for moments in zip(*states, strict=True)])
