"""Steps of a generation, reported while it runs: for progress bars, previews and a stop."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Step:
    """A finished step of a generation.

    Args:
        number: finished steps, from 1.
        total: steps of all batches.
        unit: what is counted, such as "denoising step"; vocoder windows and tokens are counted on their own.
        preview: makes a picture of the unfinished first result; None where there is nothing to see.
    """

    number: int
    total: int
    unit: str
    preview: Callable[[], Image.Image] | None = None


OnStep = Callable[[Step], None]  # an exception that it raises ends the generation
