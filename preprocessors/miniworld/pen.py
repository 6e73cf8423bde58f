"""Drawing in unit coordinates: an object fills the box -1..1 in both directions, x to the right, y downwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from PIL.ImageDraw import ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]
LINE: Colour = (34, 30, 44)  # outlines
WHITE: Colour = (250, 250, 250)
GREY: Colour = (125, 125, 130)


@lru_cache(maxsize=512)
def ring(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> tuple[Point, ...]:
    """Points of an ellipse or a part of it; degrees run clockwise on the canvas, from the right."""
    steps = max(6, round(abs(end - start) / 15))
    angles = [math.radians(start + (end - start) * k / steps) for k in range(steps + 1)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


class Pen:
    """Maps unit coordinates to a canvas, and mixes every colour with the background when `fade` is above 0."""

    def __init__(
        self, draw: ImageDraw, centre: Point, scale: float, paper: Colour, fade: float = 0.0, degrees: float = 0.0
    ) -> None:
        self.draw, self.centre, self.scale = draw, centre, scale
        self.paper, self.fade, self.degrees = paper, fade, degrees
        self._cos, self._sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))

    def turned(self, degrees: float, about: Point = (0.0, 0.0), scale: float = 1.0) -> Pen:
        """Return a pen that is rotated clockwise and scaled, with its origin at `about`."""
        (centre,) = self.place([about])
        return Pen(self.draw, centre, self.scale * scale, self.paper, self.fade, self.degrees + degrees)

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Convert unit coordinates to pixels."""
        (cx, cy), c, s = self.centre, self._cos, self._sin
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
