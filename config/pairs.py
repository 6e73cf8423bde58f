"""Settings of data sets that pair sounds with pictures."""

from dataclasses import dataclass, field

from sonolume.config.base import MiniworldConfig, Strict


@dataclass
class PairsConfig(Strict):
    """Prepared pairs: {processed_dir}/{dataset} holds {audio_dir}/{Uid}.wav, and pictures in {frames_dir}/{Uid}/."""

    processed_dir: str = "data"  # folder of all data sets
    audio_dir: str = "audio"  # inside a data set
    frames_dir: str = "frames"  # inside a data set: one folder per Uid, pictures named by their second (003.500.jpg)
    train_file: str = "train.json"  # manifest inside a data set
    valid_file: str = "valid.json"  # manifest inside a data set
    sample_rate: int = 16000  # Hz
    seconds: float = 10.0  # longest part of a clip that is kept
    min_seconds: float = 1.0  # shorter clips are left out
    frames: int = 10  # pictures taken from one video, evenly over the part with sound
    longest_side: int = 768  # px of a stored picture; smaller ones keep their size
    filter_frames: bool = True  # of VGGSound train videos, take the frames listed in best_frames.json, if it exists
    filter_unmatch_videos: bool = True  # leave out train videos listed in unmatch_videos
    filter_low_quality_imgs: bool = True  # leave out train videos listed in low_quality_videos
    valid_fraction: float = 0.05  # share of Uids used for validation where the source has no split
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


@dataclass
class TrainingPairsConfig(PairsConfig):
    """Pairs in training: windows of sound with pictures of one size."""

    input_length: float = 5.0  # seconds of sound in one training item; shorter clips are repeated
    starts: int = 6  # windows of that length in a longer clip, evenly spaced; each epoch draws one
    width: int = 512  # px of the pictures in training
    height: int = 320  # px
    center_crop: bool = False  # crop the middle square first; otherwise pictures are stretched to width x height
    cache_features: bool = True  # keep audio features on disk (BEATs: 1.1 MB a window of 5 s); false: compute each step

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least("preprocess", 1, "starts", "width", "height")
        self.require(
            0.2 <= self.input_length <= self.seconds,
            f"preprocess: 0.2 <= input_length {self.input_length:g} <= seconds {self.seconds:g} does not hold",
        )
        for name in ("width", "height"):
            size = getattr(self, name)
            self.require(size % 8 == 0, f"preprocess.{name} {size} is not divisible by 8, the VAE's factor")
