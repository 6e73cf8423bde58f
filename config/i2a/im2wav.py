"""i2a/im2wav: image or video to audio by two transformers over the tokens of a VQ-VAE (Im2Wav, arXiv 2211.03089).

Trained in three stages, each a run of its own: the VQ-VAE, the Low prior over its coarse tokens given images, and the
Up prior over its fine tokens given coarse ones.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sonolume.config import audio_to_image, options
from sonolume.config.base import LONGEST, LONGEST_SECONDS, MOST_LAYERS, AdamConfig, RunConfig, Strict, TrainConfig
from sonolume.config.card import Card
from sonolume.config.options import LARGEST_SEED, MAX_GUIDANCE_SCALE, option
from sonolume.utils.errors import UserError

MAX_CODES = 2**15  # tokens are cached as 16-bit integers


class Stage(StrEnum):
    vqvae = "vqvae"
    low = "low"
    up = "up"


class Level(StrEnum):
    low = "low"
    up = "up"


@dataclass
class FilmsConfig(audio_to_image.PairsConfig):
    """Prepared sounds with videos or pictures; videos stay files, whose frames are read in training."""

    seconds: float = 600.0  # longest part of a clip that is kept
    window: int = 65536  # samples of one training item, a multiple of the hops
    fps: float = 30.0  # image vectors in a second of video
    aug_shift: bool = False  # shift every window by up to half its length
    aug_blend: bool = False  # mix the channels of stereo sounds with random weights, instead of averaging them
    still_fraction: float = 0.0  # share of items that have one picture in place of their video
    clip_features: str = ""  # folder of {stem}.pickle files with image vectors of the videos; "" = run model.clip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("preprocess", 1, "window", maximum=LONGEST)
        self.check_range("preprocess", 1, "fps")
        self.require(self.fps <= 1000, f"preprocess.fps must be at most 1000, got {self.fps}")
        self.require(
            0 <= self.still_fraction <= 1, f"preprocess.still_fraction must be 0 to 1, got {self.still_fraction}"
        )


def _check_dilations(section: "VqvaeConfig | UpConfig", key: str, blocks: int) -> None:
    widest = section.dilation_growth ** (blocks - 1)
    message = f"{key}: dilations that grow {section.dilation_growth} times in each of {blocks} blocks become too wide"
    section.require(widest <= LONGEST, message)


@dataclass
class VqvaeConfig(Strict):
    downs: list[int] = field(default_factory=lambda: [3, 2])  # strided convolutions added by the fine and coarse level
    stride: int = 2  # of each of them; the hops are 2^3 = 8 and 2^(3+2) = 32 samples
    embedding_width: int = 128  # width of a code
    codes: int = 2048  # size of each codebook
    width: int = 32  # channels of the residual blocks
    depth: int = 4  # residual blocks for each strided convolution
    dilation_growth: int = 3  # ratio of the dilations of successive blocks
    decay: float = 0.99  # of the codebooks' moving averages, per step
    restart_threshold: float = 1.0  # running count below which a code is replaced by a row of the batch
    mel_weight: float = 0.0  # of the L1 distance of log-mels, an extra loss for the quiet parts; 0 = as published
    decoders_only: bool = False  # train the decoders of model.vqvae_path further; its tokens stay the same
    scale_seconds: float = 600.0  # seconds of training sounds from which the scales of the losses are estimated

    def __post_init__(self) -> None:
        self.check_range("model.vqvae", 1, "embedding_width", "codes", "width", "scale_seconds")
        self.check_range("model.vqvae", 1, "downs", "dilation_growth", maximum=16)
        self.check_range("model.vqvae", 1, "depth", maximum=MOST_LAYERS)
        _check_dilations(self, "model.vqvae", self.depth)
        self.require(self.codes <= MAX_CODES, f"model.vqvae.codes must be at most {MAX_CODES}, got {self.codes}")
        self.check_range("model.vqvae", 0, "mel_weight")
        self.check_range("model.vqvae", 2, "stride", maximum=16)
        self.check_range("model.vqvae", 0, "restart_threshold")
        self.fraction("model.vqvae", "decay")
        valid = len(self.downs) == 2 and min(self.downs) >= 1
        self.require(valid, f"model.vqvae.downs must be two positive numbers, got {self.downs}")

    @property
    def hops(self) -> tuple[int, int]:
        """Samples in a token of the fine and of the coarse level."""
        return self.stride ** self.downs[0], self.stride ** sum(self.downs)


@dataclass
class PriorConfig(Strict):
    """Transformer over the tokens of one window."""

    KEY = "model"  # of the section

    width: int = 1024  # channels
    depth: int = 48  # layers; three attention patterns alternate
    heads: int = 1  # attention heads
    blocks: int = 64  # blocks of the attention grid; divides the tokens of a window
    attention_ratio: float = 0.25  # size of queries, keys and values relative to the width
    mlp_ratio: float = 1.0  # size of the hidden layers relative to the width
    init_scale: float = 0.7  # factor on the initial weights
    image_dropout: float = 0.1  # in the projections of image vectors
    guidance_dropout: float = 0.5  # share of training items without images, for classifier-free guidance; 0 = none
    recompute: bool = True  # gradient checkpointing of every layer: less memory, more time

    def __post_init__(self) -> None:
        for name in ("image_dropout", "guidance_dropout"):
            value = getattr(self, name)
            self.require(0 <= value < 1, f"{self.KEY}.{name} must be at least 0 and below 1, got {value}")
        self.check_range(self.KEY, 1, "width", "heads", "blocks")
        self.check_range(self.KEY, 1, "depth", maximum=MOST_LAYERS)
        ratios = 0 < self.attention_ratio <= 64 and 0 < self.mlp_ratio <= 64 and self.init_scale > 0
        limits = "attention_ratio and mlp_ratio must be above 0 and at most 64, init_scale above 0"
        self.require(ratios, f"{self.KEY}: {limits}")


@dataclass
class LowConfig(PriorConfig):
    KEY = "model.low"

    time_bins: int = 64  # size of each table of times
    min_seconds: float = 2.05  # shortest recording
    max_seconds: float = 600.0  # longest recording

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range(self.KEY, 1, "time_bins")
        order = f"0 <= min_seconds {self.min_seconds:g} < max_seconds {self.max_seconds:g} <= {LONGEST_SECONDS}"
        valid = 0 <= self.min_seconds < self.max_seconds <= LONGEST_SECONDS
        self.require(valid, f"{self.KEY}: {order} does not hold")


@dataclass
class UpConfig(PriorConfig):
    KEY = "model.up"

    guidance_dropout: float = 0.0  # as published: the fine level is not guided
    conv_width: int = 512  # channels of the convolutions that upsample the coarse tokens
    conv_depth: int = 16  # residual blocks before each upsampling
    dilation_growth: int = 3  # ratio of the dilations of successive blocks
    dilation_cycle: int = 8  # blocks after which the dilations start anew

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range(self.KEY, 1, "conv_width")
        self.check_range(self.KEY, 1, "conv_depth", "dilation_cycle", maximum=MOST_LAYERS)
        self.check_range(self.KEY, 1, "dilation_growth", maximum=16)
        _check_dilations(self, self.KEY, min(self.conv_depth, self.dilation_cycle))


@dataclass
class ModelConfig(Strict):
    clip: str = "openai/clip-vit-base-patch32"  # folder or hub id of any CLIP model
    vqvae_path: str = "ckpts/i2a/im2wav_vqvae/pipeline"  # exported folder of stage vqvae, for the later stages
    low_path: str = "ckpts/i2a/im2wav_low/pipeline"  # exported folder of stage low, for the export of stage up
    init_path: str = ""  # exported folder whose network of this stage is trained further; "" = start from nothing
    guidance_scale: float = 3.0  # default guidance of inference, for each prior with guidance_dropout
    low_overlap: float = 0.5  # share of a window of coarse tokens that continues the window before; for long sounds
    up_overlap: float = 0.5  # the same for fine tokens
    vqvae: VqvaeConfig = field(default_factory=VqvaeConfig)
    low: LowConfig = field(default_factory=LowConfig)
    up: UpConfig = field(default_factory=UpConfig)

    def __post_init__(self) -> None:
        self.fraction("model", "low_overlap", "up_overlap")
        self.check_range("model", 0, "guidance_scale")
        self.require(
            not (self.init_path and self.vqvae.decoders_only),
            "model.init_path and model.vqvae.decoders_only exclude each other: decoders start from model.vqvae_path",
        )


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/i2a"
    stage: Stage = Stage.up  # the network that this run trains
    preprocess: FilmsConfig = field(default_factory=FilmsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=3e-4)))

    def __post_init__(self) -> None:
        super().__post_init__()
        hop, window = self.model.vqvae.hops[1], self.preprocess.window
        fits = self.stage is not Stage.vqvae or window % hop == 0  # the hops of the priors are those of vqvae_path
        self.require(fits, f"preprocess.window {window} is not a multiple of the coarse hop, {hop} samples")


@dataclass(kw_only=True)
class PreprocessOptions(audio_to_image.PreprocessOptions):
    """Location of the raw videos, or of the sounds and pictures."""

    video_dir: Path | None = option(
        help="folder of videos whose stems are those of the sound files of --input", metavar="FOLDER",
        must_exist=True, needs=("input",),
    )  # fmt: skip


@dataclass(kw_only=True)
class GenerationOptions(options.ModelOptions):
    """Sampling of tokens, for inference and evaluation."""

    seed: int = option(0, help="seed of the draws", metavar="N", low=0, high=LARGEST_SEED - 1)
    guidance_scale: float | None = option(
        help="strength of classifier-free guidance; 1 is no guidance (default: the model's)", low=0,
        high=MAX_GUIDANCE_SCALE, metavar="SCALE",
    )  # fmt: skip
    temperature: float = option(1.0, help="divisor of the logits; 0 takes the likeliest token", metavar="T", low=0)
    top_k: int = option(0, help="draw from the N likeliest tokens only; 0 is off", metavar="N", low=0)
    top_p: float = option(
        0.0, help="draw from the likeliest tokens that have this probability together; 0 is off",
        metavar="SHARE", low=0, high=1,
    )  # fmt: skip
    batch_size: int = option(4, help="samples generated at once", low=1, metavar="N")
    num_threads: int = option(0, help="CPU threads; 0 is torch's choice", low=0, metavar="N")
    int8: bool = option(help="weights of the transformers in 8 bits: faster on a CPU, slightly less exact")
    compile: bool = option(help="compile the sampling steps of one clip: faster on a CPU; needs a C++ compiler")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k and self.top_p:
            raise UserError("--top_k and --top_p exclude each other: choose one")


@dataclass(kw_only=True)
class InferenceOptions(GenerationOptions, options.OutputOptions):
    """Flags of run_inference.sh."""

    image: list[Path] = option(
        help="picture, or folder of them; may be given several times", metavar="PATH", must_exist=True
    )
    video: list[Path] = option(
        help="video, or folder of them; may be given several times", metavar="PATH", must_exist=True
    )
    text: list[str] = option(help="description in place of a picture; may be given several times", metavar="TEXT")
    clip_features: list[Path] = option(
        help="pickle of image vectors in the format of the official scripts, or folder of them", metavar="PATH",
        must_exist=True,
    )
    negative_text: str = option("", help="description of what the sound should not contain", metavar="TEXT")
    negative_image: Path | None = option(
        help="picture of what the sound should not contain", metavar="FILE", must_exist=True
    )
    negative_scale: float | None = option(
        help="strength of --negative_text or --negative_image (default: half of the guidance scale)",
        metavar="SCALE", low=0, needs=("negative_text", "negative_image"),
    )  # fmt: skip
    num_samples: int = option(1, help="samples of each input, from seed, seed + 1, seed + 2 ...", low=1, metavar="N")
    duration: float | None = option(
        help="length of the sound (default: of the video; for pictures, one window)",
        metavar="SECONDS", low=0.1, high=600, unit="s",
    )  # fmt: skip
    window_overlap: float | None = option(
        help="share of each window that continues the one before, in sounds of several windows (default: the model's)",
        metavar="SHARE", low=0, high=0.95,
    )  # fmt: skip
    level: Level = option(
        Level.up, help="up for the result, low for a draft from the coarse tokens, several times faster"
    )
    mux: bool = option(help="also write each video with its new sound track", needs=("video",))
    keep_sound: float | None = option(
        help="gain at which the video's own sound stays under the new one", metavar="GAIN", low=0, high=2,
        needs=("mux",),
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.image or self.video or self.text or self.clip_features):
            raise UserError("--image, --video, --text or --clip_features is missing: name an input or describe a sound")
        if self.negative_text and self.negative_image:
            raise UserError("--negative_text and --negative_image exclude each other: choose one")


@dataclass(kw_only=True)
class EvaluationOptions(GenerationOptions, options.ReportOptions, options.FolderOptions):
    """Flags of run_eval.sh."""

    batch_size: int = 16
    num_samples: int = 240
    imagehear: Path | None = option(
        help="folder of the ImageHear pictures; scores how often the class of the picture sounds", metavar="FOLDER",
        must_exist=True,
    )  # fmt: skip
    audio_to_image: str | None = option(
        help="round trip: turn the generated sounds back into pictures with this audio-to-image model",
        metavar="FOLDER_OR_ID",
    )


CARD = Card(
    title="Image or video to audio",
    summary=(
        "A VQ-VAE turns waves into tokens at two rates. The Low prior writes coarse tokens given CLIP vectors of "
        "pictures or video frames, the Up prior the fine tokens, which are decoded to the wave. CLIP is not in "
        "this folder: `im2wav.json` names it."
    ),
    tags=("image-to-audio", "video-to-audio", "sound-effects"),
    arguments="--image siren.png",
    needs=("low", "up"),
    code="""\
from sonolume import Im2WavPipeline

pipe = Im2WavPipeline.from_pretrained("FOLDER_OR_ID")
""",
    models=lambda config: {
        Stage.vqvae: ("init_path", *(["vqvae_path"] if config.model.vqvae.decoders_only else [])),
        Stage.low: ("init_path", "vqvae_path", "clip"),
        Stage.up: ("init_path", "vqvae_path", "low_path", "clip"),
    }[config.stage],
    limits=(
        "What CLIP does not encode of a picture or frame does not reach the sound.",
        "Tokens are sampled one after the other, which is slow.",
    ),
    citation="""\
@article{sheffer2022im2wav,
  title = {I Hear Your True Colors: Image Guided Audio Generation},
  author = {Sheffer, Roy and Adi, Yossi},
  year = {2022},
  url = {https://arxiv.org/abs/2211.03089}
}
""",
)
