"""Public functions of the miniature world: draw scenes, and render them as sounds, captions, pictures or speech."""

from sonolume.preprocessors.miniworld.captions import captions, unknown_words
from sonolume.preprocessors.miniworld.pictures import frames, picture
from sonolume.preprocessors.miniworld.scene import KINDS, Event, Scene, scenes
from sonolume.preprocessors.miniworld.sounds import render
from sonolume.preprocessors.miniworld.voice import speak

__all__ = ["KINDS", "Event", "Scene", "captions", "frames", "picture", "render", "scenes", "speak", "unknown_words"]
