"""Sounds with pictures, as preprocessors/sound_pictures.py prepares them for every recipe that pairs the two."""

from dataclasses import dataclass, field

from sonolume.config.base import MiniworldConfig, Strict


@dataclass
class PairsConfig(Strict):
    """{processed_dir}/{dataset}: the sound of Uid in {audio_dir}/Uid.wav, its pictures in {frames_dir}/Uid/."""

    processed_dir: str = "data"  # folder of all data sets
    audio_dir: str = "audio"  # inside a data set
    frames_dir: str = "frames"  # inside a data set: a folder a Uid, its pictures named by their second (003.500.jpg)
    train_file: str = "train.json"  # manifest inside a data set
    valid_file: str = "valid.json"  # manifest inside a data set
    sample_rate: int = 16000  # Hz
    seconds: float = 10.0  # most of one clip
    min_seconds: float = 1.0  # shorter clips are left out
    frames: int = 10  # pictures taken from one video, evenly over the part that sounds
    longest_side: int = 768  # px of a kept picture; smaller ones stay as they are
    filter_frames: bool = True  # of VGGSound train videos, take the frames that best_frames.json names, if it is there
    filter_unmatch_videos: bool = True  # leave out train videos listed in unmatch_videos
    filter_low_quality_imgs: bool = True  # leave out train videos listed in low_quality_videos
    valid_fraction: float = 0.05  # share of Uids validated on where the source has no split
    num_workers: int = 2  # processes that read files
    miniworld: MiniworldConfig = field(default_factory=MiniworldConfig)  # data made by the miniature world

    def __post_init__(self) -> None:
        self.at_least("preprocess", 1, "sample_rate", "frames", "longest_side")
        self.at_least("preprocess", 0, "num_workers")
        self.fraction("preprocess", "valid_fraction")
        self.require(
            0 < self.min_seconds <= self.seconds,
            f"preprocess: 0 < min_seconds {self.min_seconds:g} <= seconds {self.seconds:g} does not hold",
        )
