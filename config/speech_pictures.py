"""Config section and flags of prepared spoken captions with pictures."""

from dataclasses import dataclass, field
from pathlib import Path

from sonolume.config import options
from sonolume.config.audio_to_image import PicturesConfig, TrainingPicturesConfig
from sonolume.config.base import CacheFeatures
from sonolume.config.options import option


@dataclass
class SpeechPicturesConfig(PicturesConfig, TrainingPicturesConfig):
    """Spoken captions, and their pictures in {frames_dir}/{picture}/; all captions of a picture share its folder."""

    width: int = 512  # px of the pictures in training
    height: int = 512  # px
    center_crop: bool = True  # crop the middle square first; otherwise pictures are stretched to width x height
    seconds: float = 30.0  # longest part of a recording that is kept
    min_seconds: float = 0.1  # shorter recordings are left out
    input_length: float = 6.4  # seconds of speech in one training item, as published
    starts: int = 3  # windows of that length in a longer recording, evenly spaced; each epoch draws one
    espeak_voices: list[str] = field(default_factory=list)  # of espeak-ng, such as en-us+f3, for generated captions
    subset_images: int = 0  # train on the captions of this many pictures only, always the same ones; 0 = all
    cache_features: CacheFeatures = CacheFeatures.auto  # storage of the speech encoder's states: auto, always or never
    cache_limit: float = 50.0  # GB on disk, of cache_features auto, which also leaves half of the free space

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("preprocess", 0, "subset_images", "cache_limit", maximum=10**9)


@dataclass(kw_only=True)
class PreprocessOptions(options.PreprocessOptions):
    """Location of the recordings and their pictures."""

    input: Path | None = option(
        help="folder of Flickr8k with its audio, SpokenCOCO's json, or a csv, json or jsonl manifest with Audio and "
        "Image (default: the synthetic scenes, if the config has them)",
        metavar="FOLDER_OR_MANIFEST",
        must_exist=True,
    )
    audio_dir: Path | None = option(
        help="folder of the recordings and pictures named by --input, or of those that it does not contain (default: "
        "the folder of --input)", metavar="FOLDER", needs=("input",),
    )  # fmt: skip
