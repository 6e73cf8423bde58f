"""a2i/audio2img: audio to image through a sequence of states in place of Stable Diffusion's text states (audio2img)."""

from dataclasses import dataclass, field
from enum import StrEnum

from sonolume.config import audio_to_image
from sonolume.config.audio_to_image import PLACEHOLDER, STABLE_DIFFUSION, TrainingPairsConfig
from sonolume.config.base import MOST_LAYERS, AdamConfig, LRSchedule, RunConfig, Strict, TrainConfig
from sonolume.config.card import Card
from sonolume.config.options import MAX_GUIDANCE_SCALE, option
from sonolume.config.sound_text import PreprocessOptions as PreprocessOptions
from sonolume.config.sound_text import SoundTextConfig
from sonolume.utils.errors import UserError


class Head(StrEnum):
    """Way of the sound into Stable Diffusion; each is a training of its own."""

    sequence = "sequence"  # an encoder learns states that take the place of the text states; needs sounds with texts
    attention = "attention"  # keys and values for the U-Net, from a trained encoder; needs sounds with pictures


class LossName(StrEnum):
    printed = "printed"  # of each sound, choose its text, as in the published notebook
    symmetric = "symmetric"  # the mean of both directions, as CLIP


@dataclass
class LossConfig(Strict):
    """Contrastive loss of every position by itself, and terms that pull each state to its target."""

    name: LossName = LossName.printed
    temperature: float = 0.15  # divides the cosine similarities
    center_targets: bool = False  # subtract the mean text state before the cosine similarity
    lambda_cos: float = 0.0  # weight of 1 - cosine similarity with the target
    lambda_mse: float = 0.0  # weight of the squared error, which also trains the norm
    mask_duplicates: bool = False  # equal texts in a batch are not negatives of each other
    mask_padding: bool = False  # leave out the positions after the end of a short sound
    negative_texts: int = 0  # further texts of the data set that every sound is compared with

    def __post_init__(self) -> None:
        self.check_range("model.loss", 0, "lambda_cos", "lambda_mse", "negative_texts")
        self.require(self.temperature > 0, f"model.loss.temperature must be above 0, got {self.temperature}")


@dataclass
class EncoderConfig(Strict):
    """transformers' Wav2Vec2BertModel with fresh weights, used where `wav2vec2_bert` is empty."""

    hidden_size: int = 1024
    intermediate_size: int = 4096  # of the feed-forward layers
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    conv_depthwise_kernel_size: int = 31  # features of 20 ms
    dropout: float = 0.0  # of all layers, in training only

    def __post_init__(self) -> None:
        key = "model.encoder"
        self.check_range(key, 1, "hidden_size", "intermediate_size", "num_attention_heads")
        self.check_range(key, 1, "conv_depthwise_kernel_size", maximum=1001)
        self.check_range(key, 1, "num_hidden_layers", maximum=MOST_LAYERS)
        self.divisible(key, "hidden_size", "num_attention_heads")
        odd = self.conv_depthwise_kernel_size % 2 == 1
        self.require(odd, f"{key}.conv_depthwise_kernel_size must be odd, got {self.conv_depthwise_kernel_size}")
        self.fraction(key, "dropout")


@dataclass
class ModelConfig(Strict):
    head: Head = Head.sequence  # sequence or attention, as above
    stable_diffusion: str = STABLE_DIFFUSION[768]  # folder or hub id of any Stable Diffusion 1.x or 2.x
    wav2vec2_bert: str = "facebook/w2v-bert-2.0"  # folder or hub id of a Wav2Vec2-BERT; "" = a fresh `encoder`
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    adapter_kernel_size: int = 3  # of the convolutions that shorten the sequence
    adapter_stride: int = 2  # by which each layer of the adapter shortens it
    num_adapter_layers: int = 2
    layerdrop: float = 0.0  # share of the encoder's layers that a training step skips
    freeze_layers: int = 0  # first layers of the encoder that stay as they are; 0 = train all weights
    gradient_checkpointing: bool = True  # less memory, more time
    text_mask: bool = True  # the text encoder ignores padding in the targets; Stable Diffusion itself does not
    loss: LossConfig = field(default_factory=LossConfig)
    sound_encoder: str = ""  # of the head attention: exported folder or hub id of a2i/audio2img or a2i/audiotoken
    caption_share: float = 0.0  # of the head attention: share of items whose text is a caption, not the prompt's words
    prompt: str = PLACEHOLDER  # default prompt of inference; not used in training
    guidance_scale: float = 7.5  # default guidance of inference; not used in training
    preview: bool = False  # draw pictures at every validation, which loads Stable Diffusion's U-Net

    def __post_init__(self) -> None:
        self.check_range("model", 1, "adapter_kernel_size", "adapter_stride", maximum=64)
        self.check_range("model", 1, "num_adapter_layers", maximum=MOST_LAYERS)
        self.check_range("model", 0, "freeze_layers", maximum=MOST_LAYERS)
        self.fraction("model", "layerdrop", "caption_share")
        scale = 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE
        self.require(scale, f"model.guidance_scale must be 0 to {MAX_GUIDANCE_SCALE:g}, got {self.guidance_scale:g}")
        once = self.prompt.count(PLACEHOLDER) == 1
        self.require(once, f"model.prompt must contain {PLACEHOLDER} once, got {self.prompt!r}")
        named = self.head is Head.sequence or bool(self.sound_encoder)
        self.require(named, "model.head attention needs model.sound_encoder, the exported folder of a trained encoder")


@dataclass
class DataConfig(SoundTextConfig, TrainingPairsConfig):
    """Windows of sound, with texts for the head sequence and with pictures for the head attention.

    A clip that is shorter than its window is padded for the head sequence, and repeated for the head attention.
    """

    input_length: float = 3.775  # seconds of sound in one training item; 3.775 become 47 states, 6.095 become 76
    starts: int = 1  # windows of that length in a longer clip, evenly spaced; each epoch draws one


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/a2i"
    preprocess: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            adam=AdamConfig(lr=2e-5, weight_decay=0.0), batch_size=8, max_steps=2304, warmup_steps=200,
            lr_schedule=LRSchedule.linear, gradient_clip=1.0,
        )
    )  # fmt: skip


@dataclass(kw_only=True)
class EvaluationOptions(audio_to_image.EvaluationOptions):
    """Flags of run_eval.sh."""

    alignment_only: bool = option(
        help="score the alignment of sounds with texts only: no pictures, and no U-Net in memory"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("generated", "reference", "text_to_audio", "embedder"):
            if self.alignment_only and getattr(self, name):
                raise UserError(f"--alignment_only makes no pictures and needs no --{name}: choose one of them")


@dataclass(kw_only=True)
class InferenceOptions(audio_to_image.InferenceOptions):
    """Flags of run_inference.sh."""


CARD = Card(
    title="Audio to image through a sequence of states",
    summary=(
        "An encoder of sound computes states that take the place of the text states of a frozen Stable Diffusion,"
        " or, with the head `attention`, keys and values for its U-Net. Stable Diffusion is not in this folder: "
        "`audio_to_image.json` names it."
    ),
    tags=("audio-to-image", "stable-diffusion"),
    arguments="--audio thunder.wav",
    code="""\
import torch
from sonolume import AudioToImagePipeline
from sonolume.utils import audio

pipe = AudioToImagePipeline.from_pretrained("FOLDER_OR_ID")
wave = audio.load("thunder.wav", pipe.encoder.sample_rate)  # (samples,)
pipe([wave], generator=torch.Generator().manual_seed(0)).images[0].save("thunder.png")
""",
    models=lambda config: (
        "stable_diffusion", "wav2vec2_bert" if config.model.head is Head.sequence else "sound_encoder",
    ),
    limits=(
        "In the miniature world, a sound of two events often became a picture with a wrong object.",
        "Pictures have the limits and biases of the Stable Diffusion that draws them.",
    ),
    citation="""\
@software{audio2img,
  title = {audio2img},
  author = {kardSIM},
  url = {https://github.com/kardSIM/audio2img}
}
""",
)
