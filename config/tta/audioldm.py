"""tta/audioldm: text to audio by latent diffusion on the VAE's latents, with T5 (Amphion TTA, stage 2)."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sonolume.config import base, options
from sonolume.config.base import (
    MOST_BLOCKS,
    MOST_LAYERS,
    AdamConfig,
    CacheFeatures,
    LoraConfig,
    RunConfig,
    Strict,
    TrainConfig,
)
from sonolume.config.card import Card
from sonolume.config.options import Options, Spans, option, parse_spans
from sonolume.utils.errors import UserError
from sonolume.utils.files import read_text

BetaSchedule = StrEnum("BetaSchedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
PredictionType = StrEnum("PredictionType", ["epsilon", "v_prediction", "flow"])
TimestepSampling = StrEnum("TimestepSampling", ["uniform", "logit_normal"])
Attention = StrEnum("Attention", ["auto", "sdpa", "plain"])
Method = StrEnum("Method", ["full", "lora"])
DISTILLED_STEPS = (1, 2, 4, 8)  # network calls of a distilled pipeline


class DistillStage(StrEnum):
    """The two trainings of run_distill.sh, one after the other."""

    none = "none"  # no distillation
    endpoint = "endpoint"  # regression on the ends of the teacher's own sampling paths
    matching = "matching"  # distribution matching, which restores the detail that the regression blurs


@dataclass
class AudioLDMPreprocessConfig(base.PreprocessConfig):
    cond_mask_prob: float = 0.1  # share of captions replaced by "" in training, for classifier-free guidance
    cache_texts: CacheFeatures = CacheFeatures.auto  # storage of text states: auto, always or never
    cache_limit: float = 50.0  # GB on disk, of cache_texts auto, for the text states of a data set's split

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fraction("preprocess", "cond_mask_prob")
        self.check_range("preprocess", 0, "cache_limit", maximum=10**9)


@dataclass
class AudioLDMConfig(Strict):
    """U-Net. Names as in Amphion (OpenAI / Stable Diffusion)."""

    image_size: int = 32  # unused: latents may have any size; in Amphion's files
    in_channels: int = 4  # channels of the latent
    out_channels: int = 4
    model_channels: int = 256  # channels of the first level
    attention_resolutions: list[int] = field(default_factory=lambda: [4, 2, 1])  # down factors with attention
    num_res_blocks: int = 2  # per level
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4])  # channels per level, x model_channels
    num_heads: int = 8  # heads of every attention layer
    use_spatial_transformer: bool = True  # cross-attention to the text
    transformer_depth: int = 1  # transformer blocks per attention
    context_dim: int = 768  # width of the text encoder
    use_checkpoint: bool = True  # gradient checkpointing: less memory, more time
    legacy: bool = False  # Amphion's switch for an older attention; only false
    norm_num_groups: int = 32  # groups of every GroupNorm
    position_channels: int = 0  # coordinate channels appended to the latent (ours)

    def __post_init__(self) -> None:
        key = "model.audioldm"
        self.check_range(key, 1, "in_channels", "out_channels", "model_channels", "num_heads")
        self.check_range(key, 1, "context_dim", "norm_num_groups", "attention_resolutions", "channel_mult")
        self.check_range(key, 1, "num_res_blocks", "transformer_depth", maximum=MOST_LAYERS)
        self.check_range(key, 0, "position_channels", "image_size")
        self.require(len(self.channel_mult) > 0, f"{key}.channel_mult must not be empty")
        blocks = len(self.channel_mult) * (2 * self.num_res_blocks + 1) * self.transformer_depth
        found = f"{len(self.channel_mult)} levels, num_res_blocks {self.num_res_blocks} and transformer_depth"
        limit = f"{self.transformer_depth} are {blocks} transformer blocks: at most {MOST_BLOCKS}"
        self.require(blocks <= MOST_BLOCKS, f"{key}: {found} {limit}")
        for mult in self.channel_mult:
            for name in ("norm_num_groups", "num_heads"):
                divisor = getattr(self, name)
                divisible = mult > 0 and self.model_channels * mult % divisor == 0
                channels = f"model_channels {self.model_channels} x {mult} of channel_mult"
                self.require(divisible, f"{key}: {channels} is not divisible by {name} {divisor}")
        factors = [2**level for level in range(len(self.channel_mult))]
        wrong = [factor for factor in self.attention_resolutions if factor not in factors]
        remedy = f"are not down factors of channel_mult: choose from {factors}"
        self.require(not wrong, f"{key}.attention_resolutions {wrong} {remedy}")
        channels = f"in_channels {self.in_channels} differs from out_channels {self.out_channels}"
        self.require(self.in_channels == self.out_channels, f"{key}: {channels} (position_channels are not counted)")
        self.require(self.use_spatial_transformer, f"{key}.use_spatial_transformer must be true: the text needs it")
        self.require(not self.legacy, f"{key}.legacy must be false: the older attention is not supported")


@dataclass
class NoiseSchedulerConfig(Strict):
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = BetaSchedule.scaled_linear
    clip_sample: bool = False  # clip predicted latents to [-1, 1]
    prediction_type: PredictionType = PredictionType.epsilon  # output of the network; flow = rectified flow
    timestep_sampling: TimestepSampling = TimestepSampling.uniform  # distribution of training timesteps
    min_snr_gamma: float = 0.0  # Min-SNR loss weights (Hang et al. 2023); 0 = off

    def __post_init__(self) -> None:
        key = "model.noise_scheduler"
        self.check_range(key, 1, "num_train_timesteps")
        self.check_range(key, 0, "min_snr_gamma")
        order = f"0 < beta_start {self.beta_start} < beta_end {self.beta_end} < 1"
        self.require(0 < self.beta_start < self.beta_end < 1, f"{key}: {order} does not hold")
        message = f"{key}.min_snr_gamma {self.min_snr_gamma} has no meaning with prediction_type flow: set it to 0"
        self.require(self.min_snr_gamma == 0 or self.prediction_type is not PredictionType.flow, message)


@dataclass
class DistillConfig(Strict):
    """Distillation of a pipeline, `model.pretrained`, into one of a few network calls without guidance."""

    stage: DistillStage = DistillStage.none  # set by run_distill.sh
    captions: str = ""  # text file with a caption in each line; "" = captions of the miniature world
    miniworld_captions: int = 512  # generated captions if there is no text file
    student: str = ""  # of the stage matching: exported pipeline of the stage endpoint
    steps: int = 4  # network calls of the result, which also works with 1, 2 ... up to these
    cache_interval: int = 1  # default of the result: N computes the deep layers of the U-Net at every N-th step
    guidance_scale: float = 0.0  # of the teacher; 0 = its default
    path_steps: int = 10  # steps of the teacher's sampling paths
    matching_steps: int = 300  # batches of the stage matching; 0 = leave it out
    matching_lr: float = 5e-5  # learning rate of the stage matching
    valid_paths: int = 32  # paths that are kept for validation
    start_share: float = 0.25  # share of training points that are pure noise, the input of the first call
    renoised_share: float = 0.5  # share of the others that are the path's end with fresh noise, as in sampling
    fake_updates: int = 2  # of the stage matching: updates of the network that follows the student, for one of it
    anchor: float = 0.25  # of the stage matching: weight of the endpoint loss
    variation: float = 0.0  # of the stage matching: weight of the differences along time, 0.05 for long noisy sounds

    def __post_init__(self) -> None:
        key = "model.distill"
        self.require(self.steps in DISTILLED_STEPS, f"{key}.steps must be 1, 2, 4 or 8, got {self.steps}")
        self.check_range(key, 2, "path_steps", maximum=1000)
        self.check_range(key, 1, "valid_paths", "fake_updates", "miniworld_captions", "cache_interval")
        self.check_range(key, 0, "guidance_scale", "anchor", "variation", "matching_steps", "matching_lr")
        self.fraction(key, "start_share", "renoised_share")
        named = self.stage is not DistillStage.matching or bool(self.student)
        self.require(named, f"{key}.stage matching needs {key}.student, the pipeline of the stage endpoint")


@dataclass
class ModelConfig(Strict):
    autoencoder_path: str = "ckpts/tta/autoencoderkl/pipeline"  # folder or hub id of the VAE
    text_encoder: str = "google-t5/t5-base"  # folder or hub id of a T5 encoder with its tokenizer
    vocoder: str = ""  # folder or hub id of a SpeechT5HifiGan; "" = Griffin-Lim
    audioldm: AudioLDMConfig = field(default_factory=AudioLDMConfig)
    noise_scheduler: NoiseSchedulerConfig = field(default_factory=NoiseSchedulerConfig)
    refine: int = 0  # Griffin-Lim iterations that start from the vocoder's wave; help a small vocoder
    text_mask: bool = True  # attention ignores padded text; false as published
    latent_scale: str = "auto"  # latents are multiplied by it; "auto" or "0" = 1 / measured standard deviation
    attention: Attention = Attention.auto  # auto: sdpa, but plain for training on a CPU
    pretrained: str = ""  # folder or hub id of a pipeline to fine-tune, set by run_finetune.sh
    method: Method = Method.full  # fine-tuning: all weights of the U-Net, or adapters
    lora: LoraConfig = field(default_factory=LoraConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        self.check_range("model", 0, "refine", maximum=10_000)
        try:
            valid = self.latent_scale == "auto" or 0 <= float(self.latent_scale) < float("inf")
        except ValueError:
            valid = False
        self.require(valid, f'model.latent_scale must be "auto" or a number of at least 0, got {self.latent_scale!r}')
        for name in ("autoencoder_path", "text_encoder"):
            self.require(bool(getattr(self, name)), f"model.{name} must not be empty")


@dataclass
class Config(RunConfig):
    RENAMED = {"model.polish": "model.refine"}  # keys of older config files

    log_dir: str = "ckpts/tta"
    preprocess: AudioLDMPreprocessConfig = field(default_factory=AudioLDMPreprocessConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=5e-5)))
    evaluation: base.EvaluationConfig = field(default_factory=base.EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        without_effect = self.train.compile and self.model.method is Method.lora
        self.require(not without_effect, "train.compile has no effect with model.method lora: set it to false")


@dataclass(kw_only=True)
class InferenceOptions(options.ModelOptions, options.OutputOptions, options.GenerationOptions):
    text: list[str] = option(help="description of the sound; may be given several times", metavar="TEXT")
    text_file: Path | None = option(help="file with one description per line (UTF-8)", metavar="FILE", must_exist=True)
    duration: float | None = option(
        help="length of the sound (default: one clip)", low=0.5, high=600, unit="s", metavar="SECONDS"
    )
    guidance_rescale: float = option(
        0.0, help="rescaling of the guided prediction, 0 (off) to 1; 0.7 is usual with strong guidance",
        low=0, high=1, metavar="SHARE",
    )  # fmt: skip
    guidance_interval: tuple[float, float] = option(
        (0.0, 1.0), help="apply guidance only between these two noise times, from 0 (clean) to 1 (noise)",
        metavar="TIME",
    )  # fmt: skip
    window_overlap: float = option(
        0.5, help="overlap of the windows of a sound longer than one clip", low=0, high=0.9, metavar="SHARE"
    )
    init_audio: Path | None = option(help="sound file to start from instead of noise", metavar="FILE", must_exist=True)
    strength: float | None = option(
        help="how much of --init_audio to replace, above 0 to 1 (default: 0.8, and 1 with --mask)",
        above=0, high=1, needs=("init_audio",), metavar="SHARE",
    )  # fmt: skip
    mask: Spans = option(
        help="seconds of --init_audio to generate again, such as 1-2,3.5- (to the end); the rest is kept",
        needs=("init_audio",), parse=parse_spans, metavar="START-END",
    )  # fmt: skip
    continuation: bool = option(help="keep --init_audio and continue it up to --duration", needs=("init_audio",))
    lora: Path | None = option(help="LoRA weights made by run_finetune.sh", metavar="FILE", must_exist=True)
    lora_scale: float = option(
        1.0, help="strength of --lora, -2 to 2; 0 is none", low=-2, high=2, needs=("lora",), metavar="SCALE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.text and self.text_file is None:
            raise UserError('--text is missing: give --text "..." or --text_file FILE')
        self.text = self.text + read_texts(self.text_file)
        if not all(text.strip() for text in self.text):
            raise UserError("--text is empty: describe the sound")
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise UserError(f"--guidance_interval must be LOW HIGH with 0 <= LOW < HIGH <= 1, got {low:g} {high:g}")


def read_texts(path: Path | None) -> list[str]:
    """Read texts from a UTF-8 file, one per line; raises a UserError if there are none. [] without a file."""
    lines = read_text(path, "the texts of --text_file").splitlines() if path else []
    texts = [line.strip() for line in lines if line.strip()]
    if path and not texts:
        raise UserError(f"--text_file {path}: has no texts")
    return texts


@dataclass(kw_only=True)
class EvaluationOptions(options.ReportOptions, options.FolderOptions, options.SamplingOptions):
    batch_size: int = option(16, help="samples generated at once", low=1, metavar="N")


@dataclass(kw_only=True)
class DistillOptions(Options):
    checkpoint: str | None = option(
        help="pipeline to distill (default: the recipe's trained one, else the shipped miniature one)",
        metavar="FOLDER_OR_ID",
    )
    text_file: Path | None = option(
        help="captions to distill on, one in each line (default: captions of the miniature world)", metavar="FILE",
        must_exist=True,
    )  # fmt: skip
    steps: int | None = option(help="network calls of the result: 1, 2, 4 or 8 (default: the config's)", metavar="N")
    method: str | None = option(
        help="full: train all weights of the U-Net; lora: train small adapters, which are merged (default: full)",
        choices=tuple(Method.__members__),
    )
    resume: bool = option(help="continue where the last checkpoint of this run was written")


@dataclass(kw_only=True)
class FinetuneOptions(Options):
    input: Path | None = option(
        help="clips to learn from: a folder with captions in text files, or a csv, json or jsonl manifest",
        metavar="FOLDER_OR_MANIFEST", must_exist=True,
    )  # fmt: skip
    checkpoint: str | None = option(
        help="pipeline to start from (default: the recipe's trained one, else the shipped miniature one)",
        metavar="FOLDER_OR_ID",
    )
    method: str | None = option(
        help="full: train all weights of the U-Net; lora: train small adapters (default: full)",
        choices=tuple(Method.__members__),
    )
    resume: bool = option(help="continue the run from checkpoints/last.ckpt")


CARD = Card(
    title="Text to audio by latent diffusion",
    summary=(
        "A U-Net denoises latents of an autoencoder of mel spectrograms, conditioned on the states of a T5 text "
        "encoder. The autoencoder decodes them to a mel spectrogram, and a vocoder or Griffin-Lim makes the "
        "waveform."
    ),
    tags=("text-to-audio", "sound-effects", "latent-diffusion"),
    pipeline_tag="text-to-audio",
    arguments='--text "A bell rings"',
    code="""\
import torch
from sonolume import TextToAudioPipeline

pipe = TextToAudioPipeline.from_pretrained("FOLDER_OR_ID")
sound = pipe("A bell rings", generator=torch.Generator().manual_seed(0)).audios[0]  # float32 (samples,)
""",
    limits=(
        "A sound lasts at most 600 s. In one that is longer than a clip, each window follows the text by itself.",
        "Inpainting and continuation see the original only through the autoencoder; the phases are made anew.",
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
