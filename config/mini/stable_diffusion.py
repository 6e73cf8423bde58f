"""mini/stable_diffusion: a tiny Stable Diffusion for 64 x 64 pictures of the miniature world."""

from dataclasses import dataclass, field

from sonolume.config.base import MOST_LAYERS, AdamConfig, Strict, TrainConfig
from sonolume.config.mini import GeneratedDataConfig
from sonolume.config.mini import PreprocessOptions as PreprocessOptions
from sonolume.config.options import LARGEST_SEED, MAX_GUIDANCE_SCALE, ReportOptions, option
from sonolume.config.tta.audioldm import NoiseSchedulerConfig, PredictionType


@dataclass
class UNetConfig(Strict):
    """diffusers' UNet2DConditionModel."""

    block_out_channels: list[int] = field(default_factory=lambda: [56, 72, 72])  # every level but the last halves
    cross_attention: list[bool] = field(default_factory=lambda: [False, True, True])  # levels that attend to text
    layers_per_block: int = 1
    num_heads: int = 4  # of every attention
    norm_num_groups: int = 8  # groups of every GroupNorm

    def __post_init__(self) -> None:
        key = "model.unet"
        self.check_range(key, 1, "num_heads", "norm_num_groups", "block_out_channels")
        self.check_range(key, 1, "layers_per_block", maximum=MOST_LAYERS)
        levels, flags = len(self.block_out_channels), len(self.cross_attention)
        self.require(levels == flags, f"{key}: block_out_channels has {levels} levels, but cross_attention has {flags}")
        self.require(any(self.cross_attention), f"{key}.cross_attention: at least one level must attend to the text")
        self.divisible(key, "block_out_channels", "norm_num_groups", "num_heads")


@dataclass
class ModelConfig(Strict):
    vae: str = "ckpts/mini/picture_vae/pipeline"  # folder of the picture autoencoder
    text_encoder: str = "ckpts/mini/clip_text/pipeline"  # folder of the CLIP text encoder and its tokenizer
    unet: UNetConfig = field(default_factory=UNetConfig)
    noise_scheduler: NoiseSchedulerConfig = field(
        default_factory=lambda: NoiseSchedulerConfig(beta_end=0.02, prediction_type=PredictionType.v_prediction)
    )
    cond_mask_prob: float = 0.1  # share of captions replaced by "" in training, for classifier-free guidance

    def __post_init__(self) -> None:
        self.fraction("model", "cond_mask_prob")
        for name in ("vae", "text_encoder"):
            self.require(bool(getattr(self, name)), f"model.{name} must not be empty")
        message = "prediction_type flow: Stable Diffusion's pipelines take epsilon or v_prediction"
        is_flow = self.noise_scheduler.prediction_type is PredictionType.flow
        self.require(not is_flow, f"model.noise_scheduler.{message}")


@dataclass
class Config(GeneratedDataConfig):
    cache_dir: str = "data/miniworld/cache"  # folder of cached latents and text embeddings
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=1e-3)))


@dataclass(kw_only=True)
class EvaluationOptions(ReportOptions):
    """Sampling flags of the evaluation."""

    seed: int = option(0, help="base seed; every sample has its own noise", low=0, high=LARGEST_SEED - 1)
    num_steps: int | None = option(help="denoising steps (default: 20)", low=1, metavar="N")
    guidance_scale: float | None = option(
        help="classifier-free guidance scale; 1 disables guidance (default: 4)", low=0, high=MAX_GUIDANCE_SCALE,
        metavar="SCALE",
    )  # fmt: skip
    batch_size: int = option(16, help="pictures per batch", low=1, metavar="N")
