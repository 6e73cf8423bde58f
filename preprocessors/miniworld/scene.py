"""Scenes of the miniature world: one or two events, each a kind of sound with attributes."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from sonolume.preprocessors.miniworld import DURATION

KINDS = (
    "bell", "rain", "siren", "clock", "engine", "bird", "thunder", "phone", "footsteps", "whistle", "dog", "drops",
)  # fmt: skip
COUNTABLE = ("bell", "bird", "phone", "whistle", "dog", "drops")
DIRECTED = ("siren",)
TEXTURES = ("rain", "engine", "thunder")  # noise that would cover other sounds
PITCHED = ("bell", "siren", "engine", "bird", "phone", "whistle", "dog")
SPLITS = ("train", "valid", "test")
LOW, HIGH = 0.35, 0.65  # captions may mention a pitch or loudness below LOW or above HIGH


@dataclass
class Event:
    """One sound with its attributes; plain floats are in 0..1."""

    kind: str
    count: int = 0  # repetitions, 1..3; 0 for a continuous sound
    pitch: float = 0.5  # 0 low .. 1 high
    loudness: float = 0.8  # 0 quiet .. 1 loud
    timbre: float = 0.5  # brightness of the sound, hue in the picture
    pan: float = 0.5  # place in the picture, 0 left .. 1 right
    direction: str = ""  # "up" or "down" for sweeping sounds
    start: float = 0.0  # seconds
    end: float = DURATION  # seconds


@dataclass
class Scene:
    """One event, or two in a relation: "then" (one after the other) or "over" (together)."""

    uid: str
    events: list[Event]
    relation: str = ""
    seed: int = 0  # of all random numbers in rendering
    held_out: bool = False  # whether the train split excludes this combination

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**values, "events": [Event(**event) for event in values["events"]]})


def band(value: float) -> str:
    """Band of a pitch or loudness in 0..1: "low", "high" or "" (average)."""
    return "low" if value < LOW else "high" if value > HIGH else ""


def is_held_out(scene: Scene) -> bool:
    """Whether "train" excludes this (kind, count, pitch, loudness) or (kind, relation, kind): one in eight, by hash."""
    event = scene.events[0]
    pitch = band(event.pitch) if event.kind in PITCHED else ""
    key = f"{event.kind} {event.count} {pitch} {band(event.loudness)}"
    if scene.relation:
        key = f"{event.kind} {scene.relation} {scene.events[1].kind}"
    return zlib.crc32(key.encode()) % 8 == 0


def _event(rng: np.random.Generator, kind: str, most: int) -> Event:
    count = int(rng.integers(1, most + 1)) if kind in COUNTABLE else 0
    pitch, loudness, timbre, pan = rng.uniform(size=4).tolist()
    direction = ("up", "down")[rng.integers(2)] if kind in DIRECTED else ""
    return Event(kind, count, pitch, loudness, timbre, pan, direction)


def _draw(rng: np.random.Generator, uid: str, kinds: list[str], pairs: bool) -> Scene:
    relation = ("", "then", "over")[rng.choice(3, p=(0.4, 0.35, 0.25))] if pairs and len(kinds) > 1 else ""
    if not relation:
        event = _event(rng, kinds[rng.integers(len(kinds))], most=3)
        event.start = float(rng.uniform(0, 0.25))
        return Scene(uid, [event])
    first, second = rng.choice(len(kinds), size=2, replace=False)
    events = [_event(rng, kinds[first], most=2), _event(rng, kinds[second], most=2)]
    for event in events:  # both must be audible: a texture stays in the background
        low, high = (0.3, 1.0) if relation == "then" else (0.1, 0.5) if event.kind in TEXTURES else (0.5, 1.0)
        event.loudness = low + (high - low) * event.loudness
    if relation == "then":
        border = float(rng.uniform(1.15, 1.4))
        events[0].start, events[0].end = float(rng.uniform(0, 0.12)), border - 0.04
        events[1].start, events[1].end = border + 0.04, DURATION
    return Scene(uid, events, relation)


def scenes(
    split: str, count: int, seed: int = 1, kinds: Sequence[str] | None = None, pairs: bool = True
) -> Iterator[Scene]:
    """Draw `count` scenes, the same ones for the same arguments.

    Args:
        split: "train", "valid" or "test"; "train" never contains a held-out combination, the others contain all.
        kinds: the kinds of sound to draw from; all of `KINDS` when empty.
        pairs: scenes of two events too.

    Raises:
        ValueError: an unknown split or kind.
    """
    unknown = [kind for kind in kinds or () if kind not in KINDS]
    if split not in SPLITS or unknown:
        raise ValueError(f"miniature world: unknown split {split!r} or kinds {unknown} (kinds: {', '.join(KINDS)})")
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        while True:
            scene = _draw(rng, f"{split}_{seed}_{index:06d}", list(kinds or KINDS), pairs)
            scene.held_out = is_held_out(scene)
            if split != "train" or not scene.held_out:
                break
        scene.seed = int(rng.integers(2**31))
        yield scene
