"""Drawings of the sound sources: one function (pen, state) per kind, recognisable at 64 x 64 pixels.

Unit coordinates: an object fills the box -1..1 in both directions, x to the right, y downwards.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL.ImageDraw import ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]
LINE: Colour = (34, 30, 44)  # outlines
WHITE: Colour = (250, 250, 250)
GREY: Colour = (125, 125, 130)
WATER: Colour = (40, 110, 225)
YELLOW: Colour = (255, 214, 30)
RED: Colour = (214, 40, 50)
MARK: Colour = (20, 30, 120)


@lru_cache(maxsize=512)
def ring(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> tuple[Point, ...]:
    """Points of an ellipse or a part of it; degrees run clockwise on the canvas, from the right."""
    steps = max(6, round(abs(end - start) / 15))
    angles = [math.radians(start + (end - start) * k / steps) for k in range(steps + 1)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


@dataclass
class Pen:
    """Maps unit coordinates to a canvas, and mixes every colour with the background when `fade` is above 0."""

    draw: ImageDraw
    centre: Point
    scale: float
    paper: Colour
    fade: float = 0.0
    degrees: float = 0.0

    def turned(self, degrees: float, about: Point = (0.0, 0.0), scale: float = 1.0) -> "Pen":
        """Return a pen that is rotated clockwise and scaled, with its origin at `about`."""
        (centre,) = self.place([about])
        return replace(self, centre=centre, scale=self.scale * scale, degrees=self.degrees + degrees)

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Convert unit coordinates to pixels."""
        (cx, cy), angle = self.centre, math.radians(self.degrees)
        c, s = self.scale * math.cos(angle), self.scale * math.sin(angle)
        return [(cx + c * x - s * y, cy + s * x + c * y) for x, y in points]

    def ink(self, colour: Colour) -> Colour:
        """Return a colour as drawn: grey and pale when faded."""
        if not self.fade:
            return colour
        grey = sum(colour) / 3
        r, g, b = (round((1 - self.fade) * grey + self.fade * p) for p in self.paper)
        return r, g, b

    def shape(self, points: Sequence[Point], fill: Colour, line: float = 0.07, colour: Colour = LINE) -> None:
        """Draw a filled polygon with an outline of width `line` (0: none)."""
        self.draw.polygon(self.place(points), fill=self.ink(fill))
        if line:
            self.stroke([*points, points[0], points[1]], line, colour)

    def disc(self, x: float, y: float, r: float, fill: Colour, ry: float = 0.0, line: float = 0.07) -> None:
        """Draw a filled circle, or an ellipse of half-axes r and ry."""
        self.shape(ring(x, y, r, ry or r), fill, line)

    def stroke(self, points: Sequence[Point], width: float = 0.08, colour: Colour = LINE) -> None:
        """Draw a line through the points."""
        self.draw.line(self.place(points), fill=self.ink(colour), width=max(3, round(width * self.scale)))


@dataclass
class Appearance:
    """Visible state of one event in one picture."""

    marks: int  # repetitions so far, drawn as notes, drops ...
    hit: bool = False  # an onset falls into this picture
    phase: float = 0.5  # elapsed share of the event, 0..1, for slow movement
    faint: bool = False  # silent: not begun yet, or over
    body: Colour = GREY  # main colour of the object
    direction: str = ""  # "up" or "down"


def _mixed(colour: Colour, other: Colour, amount: float) -> Colour:
    r, g, b = (round((1 - amount) * a + amount * c) for a, c in zip(colour, other, strict=True))
    return r, g, b


def _note(pen: Pen, x: float, y: float, size: float = 1.0) -> None:
    """Draw a quaver."""
    pen = pen.turned(0, (x, y), size)
    pen.disc(-0.08, 0.16, 0.13, MARK, 0.10, line=0)
    pen.stroke([(0.02, 0.16), (0.02, -0.26), (0.2, -0.08)], 0.09, MARK)


def _burst(pen: Pen, x: float, y: float) -> None:
    """Draw a star, the comic symbol of a loud short sound."""
    turns = [(0.26 if k % 2 else 0.13, math.radians(36 * k)) for k in range(10)]
    pen.shape([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in turns], (255, 120, 20), 0.05)


def _cloud(pen: Pen, fill: Colour) -> None:
    """Draw a cloud in the upper half, first dark and slightly larger, which leaves an outline."""
    for colour, grow in ((LINE, 0.07), (fill, 0.0)):
        for x, y, r in ((-0.56, -0.22, 0.32), (-0.18, -0.5, 0.42), (0.32, -0.42, 0.36), (0.62, -0.18, 0.28)):
            pen.disc(x, y, r + grow, colour, line=0)
        pen.shape([(-0.58, -0.3), (0.62, -0.3), (0.62, 0.1 + grow), (-0.58, 0.1 + grow)], colour, line=0)


def bell(pen: Pen, state: Appearance) -> None:
    """A bell that swings when struck; a pair of arcs for every stroke."""
    swing = pen.turned((22 if state.marks % 2 else -22) if state.hit else 0, (0, -0.75))
    swing.shape(ring(0, -0.05, 0.16, 0.16), state.body)
    swing.disc(0, 1.5, 0.16, LINE)
    side: list[Point] = [(0.14, 0.08), (0.34, 0.26), (0.42, 0.6), (0.46, 1.0), (0.62, 1.28), (0.66, 1.42)]
    swing.shape([*side, *((-x, y) for x, y in reversed(side))], state.body)
    swing.stroke([(-0.54, 1.16), (0.54, 1.16)], 0.06)
    swing.stroke([(-0.22, 0.45), (-0.28, 0.95)], 0.1, _mixed(state.body, WHITE, 0.7))
    for k in range(state.marks):
        y = -0.66 + 0.62 * k
        pen.stroke(ring(0.66, y, 0.26, 0.24, -60, 60), 0.11, MARK)
        pen.stroke(ring(-0.66, y, 0.26, 0.24, 120, 240), 0.11, MARK)


def rain(pen: Pen, state: Appearance) -> None:
    """A bright cloud with slanted streaks."""
    for row in range(3):
        for column in range(5):
            y = 0.2 + (row * 0.3 + 1.7 * state.phase + 0.13 * (column % 2)) % 0.8
            x = -0.5 + 0.28 * column - 0.22 * (y - 0.2)
            pen.stroke([(x, y - 0.11), (x - 0.06, y + 0.11)], 0.08, WATER)
    _cloud(pen, _mixed(state.body, WHITE, 0.45))


def thunder(pen: Pen, state: Appearance) -> None:
    """A dark cloud with a bolt, which flickers as the thunder rolls."""
    bolt: list[Point] = [
        (0.05, 0.0), (0.38, 0.0), (0.16, 0.38), (0.42, 0.38), (-0.2, 1.0), (-0.02, 0.52), (-0.28, 0.52),
    ]  # fmt: skip
    pen.shape(bolt, WHITE if state.hit else YELLOW)
    for x in (-0.52, 0.68) if state.hit or 0.2 < state.phase < 0.8 else ():
        pen.shape([(x + 0.4 * (a - 0.1), 0.12 + 0.5 * b) for a, b in bolt], YELLOW, 0.05)
    _cloud(pen, _mixed(_mixed(state.body, GREY, 0.35), LINE, 0.45))


def siren(pen: Pen, state: Appearance) -> None:
    """A beacon with rays; arrows at its sides point up for a rising sound, down for a falling one."""
    lamp = _mixed(state.body, WHITE, 0.5) if int(8 * state.phase) % 2 else state.body
    for degrees in (-142, -116, -90, -64, -38):
        a = math.radians(degrees)
        near, far = (0.62, 0.92) if degrees % 4 else (0.62, 1.06)
        pen.stroke([(r * math.cos(a), 0.12 + r * math.sin(a)) for r in (near, far)], 0.1, RED)
    pen.shape([*ring(0, 0.1, 0.44, 0.56, 180, 360), (0.44, 0.55), (-0.44, 0.55)], lamp)
    pen.stroke(ring(0, 0.12, 0.27, 0.36, 190, 265), 0.09, WHITE)
    pen.shape([(-0.6, 0.55), (0.6, 0.55), (0.68, 0.92), (-0.68, 0.92)], (70, 70, 82))
    sign = -1 if state.direction == "up" else 1
    for x in (-0.82, 0.82):
        tip, tail = 0.18 + 0.42 * sign, 0.18 - 0.42 * sign
        pen.stroke([(x, tail), (x, tip)], 0.13, MARK)
        pen.shape([(x - 0.2, tip - 0.12 * sign), (x + 0.2, tip - 0.12 * sign), (x, tip + 0.24 * sign)], MARK, line=0)


def clock(pen: Pen, state: Appearance) -> None:
    """A wall clock; its red hand jumps at every tick."""
    pen.disc(0, 0, 0.92, state.body)
    pen.disc(0, 0, 0.74, WHITE, line=0.05)
    for k in range(12):
        a = math.radians(30 * k)
        near = 0.5 if k % 3 == 0 else 0.6
        pen.stroke([(r * math.cos(a), r * math.sin(a)) for r in (near, 0.69)], 0.06 + 0.04 * (k % 3 == 0))
    pen.stroke([(0, 0), (-0.32, -0.2)], 0.13)
    pen.stroke([(0, 0), (0.24, -0.5)], 0.1)
    second = math.radians(45 * state.marks + 60)
    pen.stroke([(0, 0), (0.6 * math.cos(second), 0.6 * math.sin(second))], 0.07, RED)
    pen.disc(0, 0, 0.08, RED, line=0)


def engine(pen: Pen, state: Appearance) -> None:
    """A car with turning wheels and puffs from its exhaust."""
    for k in range(3):
        travel = (k / 3 + 1.5 * state.phase) % 1
        pen.disc(-0.8 - 0.16 * travel, 0.35 - 0.6 * travel, 0.08 + 0.14 * travel, _mixed(GREY, WHITE, 0.4), line=0.03)
    pen.shape([(-0.5, -0.05), (-0.34, -0.48), (0.26, -0.48), (0.5, -0.05)], state.body)
    pen.shape([(-0.36, -0.06), (-0.26, -0.37), (-0.06, -0.37), (-0.06, -0.06)], (205, 235, 250), 0.04)
    pen.shape([(0.04, -0.06), (0.04, -0.37), (0.2, -0.37), (0.36, -0.06)], (205, 235, 250), 0.04)
    pen.shape([(-0.76, -0.02), (0.62, -0.02), (0.94, 0.12), (0.97, 0.46), (-0.76, 0.46)], state.body)
    pen.disc(0.86, 0.2, 0.09, YELLOW, line=0.04)
    for x in (-0.4, 0.5):
        wheel = pen.turned(300 * state.phase, (x, 0.46))
        wheel.disc(0, 0, 0.27, LINE)
        wheel.disc(0, 0, 0.14, (215, 215, 220), line=0)
        wheel.stroke([(-0.14, 0), (0.14, 0)], 0.05)


def bird(pen: Pen, state: Appearance) -> None:
    """A bird on a branch, one note per call; its beak opens and its wing lifts at a call."""
    for k in range(state.marks):
        _note(pen, 0.76 - 0.56 * k, -0.66, 1.15)
    pen = pen.turned(0, (-0.08, 0.16), 0.88)
    pen.stroke([(-0.95, 0.82), (0.6, 0.72)], 0.13, (110, 70, 40))
    pen.shape([(-0.5, 0.12), (-1.0, 0.5), (-0.86, 0.66), (-0.34, 0.5)], _mixed(state.body, LINE, 0.3))
    for x in (-0.2, 0.02):
        pen.stroke([(x, 0.5), (x, 0.78)], 0.06)
    pen.disc(-0.14, 0.24, 0.46, state.body, 0.38)
    gap = 0.16 if state.hit else 0.03
    for sign in (-1, 1):
        pen.shape([(0.4, -0.27), (0.42, -0.17), (0.74, -0.2 + sign * gap)], (255, 150, 20), 0.05)
    pen.disc(0.18, -0.22, 0.31, state.body)
    pen.disc(0.26, -0.28, 0.09, WHITE, line=0)
    pen.disc(0.28, -0.28, 0.055, LINE, line=0)
    wing = pen.turned(-45 if state.hit else 8, (0.08, 0.18))
    wing.shape([(0, 0), (-0.26, -0.1), (-0.62, 0.12), (-0.3, 0.26)], _mixed(state.body, WHITE, 0.45), 0.05)


def phone(pen: Pen, state: Appearance) -> None:
    """An old telephone with a dial; one zigzag per ring, and the handset jumps."""
    pen.shape([(-0.4, -0.05), (0.4, -0.05), (0.74, 0.9), (-0.74, 0.9)], state.body)
    pen.disc(0, 0.46, 0.32, WHITE, line=0.05)
    for k in range(8):
        a = math.radians(45 * k)
        pen.disc(0.21 * math.cos(a), 0.46 + 0.21 * math.sin(a), 0.055, LINE, line=0)
    pen.disc(0, 0.46, 0.09, state.body, line=0.03)
    lift = pen.turned((14 if state.marks % 2 else -14) if state.hit else 0, (0, -0.2 if state.hit else -0.1))
    handle = [*ring(0, 0.28, 0.9, 0.52, 200, 340), *reversed(ring(0, 0.3, 0.56, 0.28, 205, 335))]
    lift.shape(handle, _mixed(state.body, LINE, 0.25))
    for x in (-0.7, 0.7):
        lift.disc(x, 0.16, 0.23, _mixed(state.body, LINE, 0.25), 0.17)
    for k in range(state.marks):
        x = -0.62 + 0.62 * k
        pen.stroke([(x + 0.1, -1.0), (x - 0.08, -0.8), (x + 0.08, -0.72), (x - 0.1, -0.5)], 0.1, MARK)


def footsteps(pen: Pen, state: Appearance) -> None:
    """Prints of shoes going up a path; the newest is the strongest."""
    shown = (state.marks - 1) % 4 + 1 if state.marks else 0
    for k in range(shown):
        side = 1 if k % 2 else -1
        sole = pen.turned(16 + 7 * side, (-0.5 + 0.32 * k + 0.2 * side, 0.62 - 0.4 * k + 0.07 * side))
        fill = state.body if k == shown - 1 else _mixed(state.body, LINE, 0.25)
        sole.shape([*ring(0, -0.12, 0.2, 0.3, 150, 390), (0.11, 0.16), (-0.11, 0.16)], fill, 0.06)
        sole.shape([(-0.13, 0.23), (0.13, 0.23), *ring(0, 0.3, 0.13, 0.15, 0, 180)], fill, 0.06)
        for y in (-0.22, -0.08):
            sole.stroke([(-0.12, y), (0.12, y)], 0.045, _mixed(fill, WHITE, 0.7))


def whistle(pen: Pen, state: Appearance) -> None:
    """A referee's whistle, one note per blow; air leaves its slot at a blow."""
    pen.stroke(ring(-0.86, 0.42, 0.16, 0.16), 0.08, GREY)
    pen.disc(-0.28, 0.36, 0.5, state.body)
    pen.shape([(-0.3, -0.14), (0.95, -0.14), (0.95, 0.2), (0.18, 0.24), (-0.3, 0.36)], state.body)
    pen.disc(-0.28, 0.36, 0.43, state.body, line=0)
    pen.shape([(-0.22, -0.1), (0.86, -0.1), (0.86, 0.14), (0.05, 0.2)], state.body, line=0)
    pen.shape([(0.1, -0.16), (0.42, -0.16), (0.26, 0.08)], LINE, line=0)
    pen.disc(-0.28, 0.36, 0.2, WHITE, line=0.06)
    pen.disc(-0.24, 0.4, 0.1, (150, 100, 50), line=0)
    for x in (-0.05, 0.25, 0.55) if state.hit else ():
        pen.stroke([(0.26, -0.2), (x, -0.46)], 0.07, WHITE)
    for k in range(state.marks):
        _note(pen, -0.6 + 0.62 * k, -0.64, 1.25)


def dog(pen: Pen, state: Appearance) -> None:
    """The head of a dog with hanging ears; one burst per bark, the mouth opens at a bark."""
    for k in range(state.marks):
        _burst(pen, 0.73, 0.7 - 0.62 * k)
    pen = pen.turned(0, (-0.2, 0.02), 0.9)
    dark = _mixed(state.body, LINE, 0.45)
    pen.disc(0, -0.12, 0.56, state.body, 0.6)
    jaw = 0.16 if state.hit else 0.0
    pen.disc(0, 0.56 + jaw, 0.25, (120, 25, 35) if state.hit else (245, 110, 130), 0.22 + jaw)
    pen.disc(0, 0.32, 0.42, _mixed(state.body, WHITE, 0.65), 0.31)
    pen.disc(0, 0.16, 0.16, LINE, 0.12, line=0)
    pen.stroke([(0, 0.2), (0, 0.4)], 0.06)
    pen.stroke(ring(0, 0.3, 0.2, 0.16, 20, 160), 0.06)
    for side in (-1, 1):
        ear: list[Point] = [(0.3, -0.68), (0.68, -0.56), (0.84, 0.1), (0.66, 0.34), (0.48, 0.06), (0.48, -0.3)]
        pen.shape([(side * x, y) for x, y in ear], dark)
        pen.disc(side * 0.22, -0.22, 0.13, WHITE, line=0.04)
        pen.disc(side * 0.21, -0.2, 0.07, LINE, line=0)


def drops(pen: Pen, state: Appearance) -> None:
    """A tap, one drop per sound, the oldest lowest."""
    pen = pen.turned(0, (0.0, -0.06))
    metal = state.body
    pen.shape([(-0.22, -0.95), (0.3, -0.95), (0.3, -0.8), (-0.22, -0.8)], RED, 0.06)
    pen.shape([(-0.04, -0.8), (0.12, -0.8), (0.12, -0.6), (-0.04, -0.6)], metal, 0.06)
    pen.shape([(-0.98, -0.72), (-0.78, -0.72), (-0.78, 0.02), (-0.98, 0.02)], metal)
    bend: list[Point] = [(0.3, -0.6), (0.56, -0.5), (0.66, -0.26), (0.66, 0.04), (0.32, 0.04), (0.32, -0.16)]
    pen.shape([(-0.78, -0.6), *bend, (0.24, -0.22), (-0.78, -0.22)], metal)
    pen.stroke([(-0.7, -0.48), (0.26, -0.48)], 0.07, _mixed(metal, WHITE, 0.7))
    for k in range(state.marks):
        pen_at = pen.turned(0, (0.49, 0.28 + 0.32 * (state.marks - 1 - k) - 0.08 * state.hit))
        pen_at.shape([(0, -0.2), *ring(0, 0.03, 0.13, 0.12, -30, 210)], WATER, 0)


DRAWINGS: dict[str, Callable[[Pen, Appearance], None]] = {
    "bell": bell, "rain": rain, "siren": siren, "clock": clock, "engine": engine, "bird": bird, "thunder": thunder,
    "phone": phone, "footsteps": footsteps, "whistle": whistle, "dog": dog, "drops": drops,
}  # fmt: skip
