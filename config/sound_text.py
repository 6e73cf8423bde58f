"""Config section and flags shared by the recipes that align sounds with texts."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sonolume.config import options
from sonolume.config.base import SoundsConfig
from sonolume.config.options import option

TextField = StrEnum("TextField", ["labels", "title", "description", "tags", "template"])


@dataclass
class SoundTextConfig(SoundsConfig):
    """Prepared sounds with texts, which are the captions of the manifests; there are no pictures.

    Texts by `text_field`; a sound without any is left out:
        labels: all labels of a sound, cleaned, as one text; its captions, if it has no label.
        title, tags: the column of this name; FSD50K has both.
        description: the column of this name; its captions, if there is none.
        template: "a photo of" and the first label, which is the most specific one in FSD50K.
    """

    seconds: float = 30.0  # longest part of a clip that is kept
    min_seconds: float = 0.2  # shorter clips are left out
    text_field: TextField = TextField.labels  # labels, title, description, tags or template, as above


@dataclass(kw_only=True)
class PreprocessOptions(options.PreprocessOptions):
    """Location of the sounds and their texts."""

    input: Path | None = option(
        help="FSD50K, AudioCaps, VGGSound, a csv, json or jsonl manifest of sounds with labels or captions, or a "
        "folder of sounds with captions in text files (default: the config's synthetic scenes)",
        metavar="FOLDER_OR_MANIFEST",
        must_exist=True,
    )
