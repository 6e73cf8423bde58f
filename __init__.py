"""Sound from words and pictures, pictures from sound and speech. Importing sonolume alone loads no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sonolume.models.a2i.pipeline import AudioToImagePipeline
    from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline
    from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline

    __version__: str

_MODULES = {
    "AudioToImagePipeline": "sonolume.models.a2i.pipeline",
    "Im2WavPipeline": "sonolume.models.i2a.im2wav.pipeline",
    "TextToAudioPipeline": "sonolume.models.tta.audioldm.pipeline",
}
__all__ = ["AudioToImagePipeline", "Im2WavPipeline", "TextToAudioPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("sonolume")
    if name not in _MODULES:
        raise AttributeError(f"module 'sonolume' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
