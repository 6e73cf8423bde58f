"""The miniature world behind one door: draw scenes, hear them, read them, see them, speak of them."""

from sonolume.preprocessors.miniworld.captions import captions
from sonolume.preprocessors.miniworld.frames import frames
from sonolume.preprocessors.miniworld.pictures import picture
from sonolume.preprocessors.miniworld.scene import KINDS, Event, Scene, scenes
from sonolume.preprocessors.miniworld.sounds import render
from sonolume.preprocessors.miniworld.voice import speak

__all__ = ["KINDS", "Event", "Scene", "captions", "frames", "picture", "render", "scenes", "speak"]
