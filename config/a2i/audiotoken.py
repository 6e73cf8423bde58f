"""a2i/audiotoken: audio to image through one token in Stable Diffusion's text space (AudioToken, 2305.13050)."""

from dataclasses import dataclass, field
from pathlib import Path

from sonolume.config.base import AdamConfig, RunConfig, Strict, TrainConfig
from sonolume.config.options import EmbedderOptions, FolderOptions, ReportOptions, SamplingOptions
from sonolume.config.pairs import PairsConfig
from sonolume.utils.options import option

PLACEHOLDER = "<*>"  # where the sound goes in a prompt; as modules/audiotoken/injection.py, which imports torch
INFERENCE_FLAGS = (
    "audio", "prompt", "text", "mix", "audio_strength", "together", "window", "hop", "tags", "stable_diffusion",
    "no_safety_checker", "checkpoint", "output_dir", "seed", "num_samples", "num_steps", "guidance_scale",
    "negative_text", "scheduler", "preset", "init_image", "strength", "height", "width", "batch_size", "device",
    "dtype",
)  # fmt: skip


@dataclass
class AudioTokenPreprocessConfig(PairsConfig):
    input_length: float = 5.0  # seconds of sound that one token is made from; shorter clips are repeated
    starts: int = 6  # windows of that length in a longer clip, evenly spaced; one is drawn each time
    width: int = 512  # px of the pictures that are learned
    height: int = 320  # px
    center_crop: bool = False  # cut the middle square out first; else pictures are stretched to width x height
    cache_features: bool = True  # BEATs' features on disk (1.1 MB a window of 5 s); false: computed in each step

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


@dataclass
class ModelConfig(Strict):
    stable_diffusion: str = "CompVis/stable-diffusion-v1-4"  # folder or hub id of any Stable Diffusion 1.x or 2.x
    beats: str = "pretrained/beats"  # folder that bins/convert.py beats wrote
    prompt: str = "a photo of <*>"  # of training, and where no other is given
    guidance_scale: float = 7.5  # of pictures, where no other is given; nothing in training
    dropout: float = 0.5  # inside the attention pooling, in training only
    lambda_a: float = 0.01  # weight of the token's mean absolute value
    lambda_b: float = 0.0  # weight of the token's squared norm
    lambda_c: float = 0.01  # weight of the classification loss, if `cosine_loss`
    cosine_loss: bool = True  # pull the token towards the words of the label
    lora: bool = False  # also train low-rank adapters of the U-Net's attention; needs the extra `lora`
    lora_rank: int = 4  # of every adapter
    gradient_checkpointing: bool = True  # of the U-Net: less memory, more time

    def __post_init__(self) -> None:
        self.at_least("model", 0, "lambda_a", "lambda_b", "lambda_c")
        self.at_least("model", 1, "lora_rank")
        self.at_least("model", 0, "guidance_scale")
        self.fraction("model", "dropout")
        self.require(
            self.prompt.count(PLACEHOLDER) == 1, f"model.prompt must hold {PLACEHOLDER} once, got {self.prompt!r}"
        )


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/a2i"
    preprocess: AudioTokenPreprocessConfig = field(default_factory=AudioTokenPreprocessConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=1.6e-4)))


@dataclass(kw_only=True)
class EvaluationOptions(ReportOptions, SamplingOptions, FolderOptions, EmbedderOptions):
    """Flags of run_eval.sh."""

    batch_size: int = option(16, help="pictures made at once", low=1, metavar="N")
    text_to_audio: str | None = option(
        help="round trip: make the sounds from the captions with this text-to-audio pipeline", metavar="FOLDER_OR_ID"
    )
    captions: Path | None = option(
        help="manifest of the captions of the round trip (default: the captions of the test pairs)",
        metavar="FILE", must_exist=True, needs=("text_to_audio",),
    )  # fmt: skip
