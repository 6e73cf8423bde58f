"""tta/hifigan: a vocoder, ln mel to sound (HiFi-GAN, Kong et al. 2020; Amphion's text-to-audio vocoder)."""

import math
from dataclasses import dataclass, field

from sonolume.config.base import (
    LONGEST,
    MOST_BLOCKS,
    MOST_STEPS,
    AdamConfig,
    PreprocessConfig,
    RunConfig,
    Strict,
    TrainConfig,
)
from sonolume.config.card import Card
from sonolume.config.tta.autoencoderkl import EvaluationOptions as EvaluationOptions
from sonolume.config.tta.autoencoderkl import InferenceOptions as InferenceOptions


@dataclass
class HifiGanPreprocessConfig(PreprocessConfig):
    segment_size: int = 8192  # samples of one training item, a multiple of hop_size
    train_clips: int = 0  # number of training clips, evenly drawn from all; 0 = all

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("preprocess", 1, "segment_size", maximum=LONGEST)
        self.check_range("preprocess", 0, "train_clips", maximum=MOST_STEPS)
        self.divisible("preprocess", "segment_size", "hop_size")
        size, hop = self.segment_size, self.hop_size
        limits = f"above (n_fft {self.n_fft} - hop_size {hop}) / 2 and at most frames {self.frames} x hop_size"
        valid = (self.n_fft - hop) // 2 < size <= self.frames * hop
        self.require(valid, f"preprocess.segment_size {size} must be {limits}")


@dataclass
class HifiGanConfig(Strict):
    """Generator. Names as in the published config; the defaults are V1."""

    upsample_rates: list[int] = field(default_factory=lambda: [8, 8, 2, 2])  # their product is the hop
    upsample_kernel_sizes: list[int] = field(default_factory=lambda: [16, 16, 4, 4])  # one per rate
    upsample_initial_channel: int = 512  # channels at the input; each upsampling halves them
    resblock_kernel_sizes: list[int] = field(default_factory=lambda: [3, 7, 11])  # one per residual block of a stage
    resblock_dilation_sizes: list[list[int]] = field(default_factory=lambda: [[1, 3, 5]] * 3)  # dilations of each block
    leaky_relu_slope: float = 0.1
    weight_norm: bool = True  # in training; the exported weights are folded

    def __post_init__(self) -> None:
        key = "model.hifigan"
        rates, kernels = self.upsample_rates, self.upsample_kernel_sizes
        blocks, dilations = self.resblock_kernel_sizes, self.resblock_dilation_sizes
        self.check_range(key, 1, "upsample_initial_channel")
        self.check_range(key, 1, "upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", maximum=1024)
        self.check_range(key, 0, "leaky_relu_slope")
        self.require(len(rates) > 0 and min(rates) > 0, f"{key}.upsample_rates must be numbers above 0, got {rates}")
        counts = f"{len(rates)} upsample_rates but {len(kernels)} upsample_kernel_sizes"
        self.require(len(rates) == len(kernels), f"{key}: {counts}")
        for rate, kernel in zip(rates, kernels, strict=True):
            valid = kernel >= rate and (kernel - rate) % 2 == 0
            sizes = f"upsample_kernel_sizes {kernel} must be upsample_rates {rate} plus an even number"
            self.require(valid, f"{key}: {sizes}")
        channels = self.upsample_initial_channel
        halved = f"upsample_initial_channel {channels} cannot be halved {len(rates)} times"
        self.require(channels % 2 ** len(rates) == 0, f"{key}.{halved}")
        counts = f"{len(blocks)} resblock_kernel_sizes but {len(dilations)} resblock_dilation_sizes"
        self.require(len(blocks) == len(dilations) > 0, f"{key}: {counts}")
        layers = len(rates) * sum(map(len, dilations))
        limit = f"{layers} layers in the residual blocks of all {len(rates)} stages: at most {MOST_BLOCKS}"
        self.require(layers <= MOST_BLOCKS, f"{key}.resblock_dilation_sizes: {limit}")
        odd = all(kernel > 0 and kernel % 2 == 1 for kernel in blocks)
        self.require(odd, f"{key}.resblock_kernel_sizes must be odd, got {blocks}")
        valid = all(row and min(row) > 0 and max(row) <= 1024 for row in dilations)
        self.require(valid, f"{key}.resblock_dilation_sizes must be lists of numbers from 1 to 1024, got {dilations}")


@dataclass
class DiscriminatorConfig(Strict):
    periods: list[int] = field(default_factory=lambda: [2, 3, 5, 7, 11])  # periods of the multi-period discriminator
    scales: int = 3  # scales of the multi-scale discriminator, each at half the rate before; 0 = none
    width: float = 1.0  # factor of all channels; 1 = published (71 M parameters)

    def __post_init__(self) -> None:
        key = "model.discriminator"
        self.check_range(key, 0, "scales", maximum=16)
        self.require(0 < self.width <= 16, f"{key}.width must be above 0 and at most 16, got {self.width}")
        self.check_range(key, 1, "periods", maximum=1024)
        self.require(len(self.periods) + self.scales > 0, f"{key}: no periods and no scales: keep one of them")


@dataclass
class LossConfig(Strict):
    """loss = mel_weight * mel + stft_weight * stft + adversarial_weight * (LSGAN + feature_weight * features)."""

    mel_weight: float = 45.0  # weight of the L1 distance of ln mels
    feature_weight: float = 2.0  # weight of the L1 distance of discriminator features
    adversarial_weight: float = 1.0  # 0 = no discriminators
    stft_weight: float = 0.0  # weight of the multi-resolution STFT loss (Yamamoto et al. 2020); published: 0
    disc_start: int = 0  # first optimizer step with the discriminators

    def __post_init__(self) -> None:
        weights = ("mel_weight", "feature_weight", "adversarial_weight", "stft_weight")
        self.check_range("model.loss", 0, *weights)
        self.check_range("model.loss", 0, "disc_start", maximum=MOST_STEPS)


@dataclass
class ModelConfig(Strict):
    hifigan: HifiGanConfig = field(default_factory=HifiGanConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    reconstruct: str = ""  # folder or hub id of a VAE; its reconstructed mels are training inputs, too; "" = none
    reconstruct_prob: float = 0.5  # share of items that take the reconstructed mel
    pretrained: str = ""  # folder or hub id of a SpeechT5HifiGan to start from; "" = fresh weights
    pretrained_discriminators: str = ""  # an official do_* checkpoint to start the discriminators from; "" = fresh

    def __post_init__(self) -> None:
        share = self.reconstruct_prob
        self.require(0 <= share <= 1, f"model.reconstruct_prob must be from 0 to 1, got {share}")


@dataclass
class HifiGanTrainConfig(TrainConfig):
    adam: AdamConfig = field(default_factory=lambda: AdamConfig(lr=2e-4, betas=[0.8, 0.99]))
    batch_size: int = 16  # items in one forward pass on one device
    lr_decay: float = 1.0  # factor of the learning rate after each epoch, besides lr_schedule

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.lr_decay <= 1, f"train.lr_decay must be above 0 and at most 1, got {self.lr_decay}")


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/tta"
    preprocess: HifiGanPreprocessConfig = field(default_factory=HifiGanPreprocessConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: HifiGanTrainConfig = field(default_factory=HifiGanTrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        hop, rates = self.preprocess.hop_size, self.model.hifigan.upsample_rates
        product = math.prod(rates)
        message = f"model.hifigan.upsample_rates {rates} multiply to {product}, not to preprocess.hop_size {hop}"
        self.require(product == hop, message)


CARD = Card(
    title="Vocoder: mel spectrogram to sound",
    summary=(
        "HiFi-GAN, in transformers' class `SpeechT5HifiGan`: a convolutional network that turns a log-mel "
        "spectrogram into a waveform."
    ),
    tags=("audio", "vocoder", "hifi-gan"),
    arguments="--audio bell.wav",
    code="""\
from transformers import SpeechT5HifiGan

vocoder = SpeechT5HifiGan.from_pretrained("FOLDER_OR_ID")  # mel.json has the settings of its spectrograms
""",
    limits=(
        "It takes spectrograms of the settings in `mel.json` only.",
        "It has no noise input: long steady tones, whose spectrogram does not change, are its hardest sounds.",
    ),
    citation="""\
@inproceedings{kong2020hifigan,
  title = {HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech Synthesis},
  author = {Kong, Jungil and Kim, Jaehyeon and Bae, Jaekyoung},
  booktitle = {NeurIPS 2020},
  year = {2020},
  url = {https://arxiv.org/abs/2010.05646}
}
""",
)
