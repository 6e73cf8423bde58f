"""Captions of single video frames: which event strikes now, is silent, or has sounded how often.

Like those of scenes, captions of frames have held-out wordings.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sonolume.preprocessors.miniworld.captions import COUNTS, NAMES, phrase, pick
from sonolume.preprocessors.miniworld.drawings import Appearance
from sonolume.preprocessors.miniworld.scene import COUNTABLE, Event, Scene

ORDINALS = {1: ("first",), 2: ("second",), 3: ("third",)}

# {n}: name; {an}: noun phrase ("a low bell ringing"); {times}: "twice"; {th}: "second"
TRAIN = {
    "silent": ("{n}, silent", "{n}, not sounding", "{an}, not yet", "silence before {an}", "silent: {an}"),
    "strikes": ("{an} now", "now {an}", "{an} at this moment", "at this moment {an}"),
    "strikes again": ("{an} for the {th} time now", "now {an} for the {th} time", "the {th} time now, {an}"),
    "has sounded": ("after {an} {times}", "{an} {times} so far", "{times} so far, {an}"),
    "is over": ("silence after {an} {times}", "{an} {times}, now silent", "silent after {an} {times}"),
    "sounds": ("{an}", "{an} on and on", "still {an}"),
}  # fmt: skip
TEST = {
    "silent": ("silent, {n}", "{n}, not sounding yet", "silent before {an}"),
    "strikes": ("at this moment, now, {an}", "now, {an}"),
    "strikes again": ("at this moment {an} for the {th} time", "now the {th} time, {an}"),
    "has sounded": ("so far {an} {times}", "after {times}, {an}"),
    "is over": ("after {an} {times}, silence", "silent: {an} {times}"),
    "sounds": ("on and on, {an}",),
}  # fmt: skip
PLACES = {  # captions of two events, {a} and {b}
    "then": ("left {a}, right {b}", "on the left {a}, on the right {b}", "{a} on the left, {b} on the right"),
    "over": ("above {a}, below {b}", "at the top {a}, at the bottom {b}", "{a} at the top, {b} at the bottom"),
}  # fmt: skip
TEST_PLACES = {
    "then": ("left, {a}, and right, {b}", "on the right {b}, on the left {a}"),
    "over": ("top, {a}, and bottom, {b}", "at the bottom {b}, at the top {a}"),
}  # fmt: skip
TEXTS = [
    text
    for table in (ORDINALS, TRAIN, TEST, PLACES, TEST_PLACES)
    for group in table.values()  # type: ignore[attr-defined]  # of either kind of key
    for text in group
]


def status(event: Event, state: Appearance) -> str:
    """Name the visible state of an event: a key of `TRAIN`."""
    counted = event.kind in COUNTABLE
    if state.hit:
        return "strikes again" if counted else "strikes"
    if state.faint:
        return "is over" if counted and state.marks else "silent"
    return "has sounded" if counted and state.marks else "sounds"


def frame_caption(
    scene: Scene, states: Sequence[Appearance], rng: np.random.Generator, held_out_wording: bool = False
) -> str:
    """Draw a caption of one frame of a scene, given the state of every event in it (`pictures.appearances`)."""
    clauses = {
        name: _clause(event, state, rng, held_out_wording)
        for name, event, state in zip("ab", scene.events, states, strict=False)
    }
    if not scene.relation:
        return clauses["a"]
    return pick(rng, (TEST_PLACES if held_out_wording else PLACES)[scene.relation]).format(**clauses)


def _clause(event: Event, state: Appearance, rng: np.random.Generator, held_out: bool) -> str:
    name, times = status(event, state), min(state.marks, max(COUNTS))
    if name == "strikes again" and rng.uniform() < 0.3:  # the number is not always stated
        name = "strikes"
    words = {"n": NAMES[event.kind], "an": phrase(replace(event, count=0), "ing", rng, 0.5)}
    if times in COUNTS:
        words |= {"times": pick(rng, COUNTS[times]), "th": pick(rng, ORDINALS[times])}
    return pick(rng, (TEST if held_out else TRAIN)[name]).format(**words)
