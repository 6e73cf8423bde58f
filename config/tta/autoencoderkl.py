"""tta/autoencoderkl: a mel-spectrogram VAE with a PatchGAN loss (Amphion TTA, stage 1)."""

from dataclasses import dataclass, field

from sonolume.config.base import MOST_LAYERS, MOST_STEPS, AdamConfig, PreprocessConfig, RunConfig, Strict, TrainConfig
from sonolume.config.card import Card
from sonolume.config.options import FolderOptions, ReconstructionOptions, ReportOptions

SMALLEST_PATCHES = 3  # rows that the last two convolutions of the discriminator need


@dataclass
class AutoencoderKLConfig(Strict):
    ch: int = 128  # channels of the first level
    ch_mult: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])  # channels per level, in units of `ch`
    num_res_blocks: int = 2  # per level of the encoder; the decoder has one more
    in_channels: int = 1  # a mel-spectrogram is one channel
    out_ch: int = 1
    z_channels: int = 4  # channels of the latent
    double_z: bool = True  # the encoder returns mean and logvar
    dropout: float = 0.0  # diffusers' AutoencoderKL has none
    norm_num_groups: int = 32  # groups of every GroupNorm

    def __post_init__(self) -> None:
        key = "model.autoencoderkl"
        self.check_range(key, 1, "ch", "in_channels", "out_ch", "z_channels", "norm_num_groups", "ch_mult")
        self.check_range(key, 1, "num_res_blocks", maximum=MOST_LAYERS)
        self.require(len(self.ch_mult) > 0, f"{key}.ch_mult must not be empty")
        for mult in self.ch_mult:
            divisible, groups = mult > 0 and self.ch * mult % self.norm_num_groups == 0, self.norm_num_groups
            channels = f"ch {self.ch} x {mult} of ch_mult"
            self.require(divisible, f"{key}: {channels} is not divisible by norm_num_groups {groups}")
        channels = f"in_channels {self.in_channels} differs from out_ch {self.out_ch}"
        self.require(self.in_channels == self.out_ch, f"{key}: {channels}")
        self.require(self.double_z, f"{key}.double_z must be true: a KL autoencoder needs mean and logvar")
        self.require(self.dropout == 0, f"{key}.dropout must be 0: the network has none, got {self.dropout}")

    @property
    def down_factor(self) -> int:
        """Mel bands (and frames) per latent row (and column)."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass
class LossConfig(Strict):
    """loss = nll + kl_weight * kl + d_weight * disc_factor * g_loss, as in Amphion's TTA recipe."""

    kl_weight: float = 1e-8
    disc_weight: float = 0.5  # scale of the adaptive weight
    disc_factor: float = 1.0  # 0 = no discriminator
    disc_start: int = 50001  # first optimizer step with the discriminator
    logvar_init: float = 0.0  # scalar log variance of the likelihood (not trained)
    min_adapt_d_weight: float = 0.0  # bounds of |grad nll| / |grad g_loss|
    max_adapt_d_weight: float = 10.0
    disc_channels: int = 64  # channels of the discriminator's first convolution
    disc_num_layers: int = 3  # strided convolutions
    alternate: bool = False  # true: even steps train the VAE, odd steps the discriminator, as published; false: both

    def __post_init__(self) -> None:
        self.check_range("model.loss", 0, "kl_weight", "disc_weight", "disc_factor", "min_adapt_d_weight")
        self.check_range("model.loss", 0, "disc_start", maximum=MOST_STEPS)
        self.check_range("model.loss", 1, "disc_channels")
        self.check_range("model.loss", 1, "disc_num_layers", maximum=16)  # each halves the picture
        low, high = self.min_adapt_d_weight, self.max_adapt_d_weight
        self.require(low <= high, f"model.loss: min_adapt_d_weight {low} is above max_adapt_d_weight {high}")


@dataclass
class ModelConfig:
    autoencoderkl: AutoencoderKLConfig = field(default_factory=AutoencoderKLConfig)
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/tta"
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=4e-5)))

    def __post_init__(self) -> None:
        super().__post_init__()
        factor, levels = self.model.autoencoderkl.down_factor, len(self.model.autoencoderkl.ch_mult)
        reason = f"{factor}, the down factor of model.autoencoderkl.ch_mult ({levels} levels)"
        for name in ("frames", "n_mel"):
            size = getattr(self.preprocess, name)
            self.require(size % factor == 0, f"preprocess.{name} {size} is not divisible by {reason}")
        loss, smallest = self.model.loss, min(self.preprocess.n_mel, self.preprocess.frames)
        has_gan = loss.disc_factor > 0 and loss.disc_start < self.train.max_steps
        message = f"disc_num_layers {loss.disc_num_layers} halve preprocess.n_mel or frames, {smallest}, too often"
        self.require(not has_gan or smallest >> loss.disc_num_layers >= SMALLEST_PATCHES, f"model.loss.{message}")


InferenceOptions = ReconstructionOptions


@dataclass(kw_only=True)
class EvaluationOptions(ReportOptions, FolderOptions):
    pass


CARD = Card(
    title="Autoencoder of mel spectrograms",
    summary=(
        "A variational autoencoder, diffusers' `AutoencoderKL`, that turns a log-mel spectrogram into a small "
        "latent and back. Latent diffusion (`tta/audioldm`) generates in that latent space."
    ),
    tags=("audio", "mel-spectrogram", "autoencoder"),
    arguments="--audio bell.wav",
    code="""\
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("FOLDER_OR_ID")  # mel.json has the settings of its spectrograms
""",
    limits=(
        "It takes spectrograms of the settings in `mel.json` only. A spectrogram has no phases: a sound needs a"
        " vocoder.",
    ),
    citation="""\
@inproceedings{wang2023audit,
  title = {AUDIT: Audio Editing by Following Instructions with Latent Diffusion Models},
  author = {Wang, Yuancheng and Ju, Zeqian and Tan, Xu and He, Lei and Wu, Zhizheng and Bian, Jiang and Zhao, Sheng},
  booktitle = {NeurIPS 2023},
  year = {2023},
  url = {https://arxiv.org/abs/2304.00830}
}
""",
)
