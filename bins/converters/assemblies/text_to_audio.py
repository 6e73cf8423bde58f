"""Parts of a text-to-audio pipeline."""

from pathlib import Path

REQUIRED = ("vae", "unet", "text_encoder")
OPTIONAL = ("vocoder", "text_mask", "preset")


def run(folder: Path, parts: dict[str, str]) -> None:
    from sonolume.models.convert import assemble  # slow: imports torch

    assemble.text_to_audio(folder, parts)
