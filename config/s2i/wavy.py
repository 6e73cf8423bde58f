"""s2i/wavy: speech to image, by an encoder of speech that is aligned with an encoder of images (Wavy, SpeechCLIP)."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sonolume.config import audio_to_image
from sonolume.config.audio_to_image import PLACEHOLDER, STABLE_DIFFUSION
from sonolume.config.base import MOST_LAYERS, AdamConfig, LRSchedule, RunConfig, Strict, TrainConfig
from sonolume.config.card import Card
from sonolume.config.options import MAX_GUIDANCE_SCALE, option
from sonolume.config.speech_pictures import PreprocessOptions as PreprocessOptions
from sonolume.config.speech_pictures import SpeechPicturesConfig
from sonolume.utils import paths
from sonolume.utils.errors import UserError

MOST_TOKENS = 8
DRAWING_FLAGS = (  # of inference, which --embed and --search do not use
    "prompt", "text", "negative_audio", "negative_text", "together", "window", "stable_diffusion", "lora",
    "no_safety_checker", "init_image", "controlnet", "height", "width", "num_steps", "guidance_scale", "preset",
    "scheduler",
)  # fmt: skip


class Stage(StrEnum):
    """The two trainings of this recipe, one after the other; a config selects one."""

    encoder = "encoder"  # stage 1: a speech vector close to the vector of its picture
    head = "head"  # stage 2: a small network from the trained encoder into Stable Diffusion


class Head(StrEnum):
    token = "token"  # 1 to 8 tokens in the place of <*>, trained through the U-Net as AudioToken's
    sequence = "sequence"  # states in the place of the text states, trained to be close to those of the caption
    image = "image"  # the vector itself, read by an IP-Adapter; nothing is trained (experimental)


@dataclass
class SpeechEncoderConfig(Strict):
    """HuBERT, and the network on top of it that makes one vector of a recording."""

    hubert: str = "facebook/hubert-large-ls960-ft"  # folder or hub id of a HuBERT, large or base
    train: bool = False  # train HuBERT, too, for data without a pretrained one
    normalize_layers: bool = True  # layer norm of each hidden state, without parameters; published: large true, base no
    layers: int = 1  # transformer layers over the frames and the CLS vector
    num_heads: int = 8  # attention heads of these layers
    dropout: float = 0.1  # of these layers, in training only

    def __post_init__(self) -> None:
        key = "model.speech_encoder"
        self.check_range(key, 1, "layers", maximum=MOST_LAYERS)
        self.check_range(key, 1, "num_heads")
        self.fraction(key, "dropout")


@dataclass
class ImageEncoderConfig(Strict):
    """Encoder of the pictures."""

    model: str = "openai/clip-vit-large-patch14"  # folder or hub id of a CLIP, or of another vision transformer
    train: bool = False  # train it, too, for data without a pretrained one
    projection_dim: int = 0  # width of a trained projector of its vector; 0 = CLIP's own projection

    def __post_init__(self) -> None:
        self.check_range("model.image_encoder", 0, "projection_dim")


@dataclass
class LossConfig(Strict):
    """Masked contrastive loss of stage 1."""

    temperature: float = 0.07  # divides the cosine similarities; its start, if it is trained
    train_temperature: bool = True  # published: large true, base false
    margin: float = 0.0  # subtracted from the similarity of each pair, after the temperature
    decoupled: bool = False  # leave the pair itself out of the denominator (decoupled contrastive learning)
    mask_same_picture: bool = True  # recordings of one picture are not negatives of each other
    mask_same_label: bool = False  # nor are recordings of one Label, where the data have it
    speech_to_image: bool = True  # find the picture of each recording
    image_to_speech: bool = True  # find the recording of each picture
    text_weight: float = 0.0  # weight of the same loss against the caption, by the text encoder of CLIP

    def __post_init__(self) -> None:
        self.require(self.temperature > 0, f"model.loss.temperature must be above 0, got {self.temperature}")
        self.check_range("model.loss", 0, "margin", "text_weight")
        self.require(self.speech_to_image or self.image_to_speech,
                     "model.loss: speech_to_image and image_to_speech are both false: nothing is trained")  # fmt: skip


@dataclass
class TokenHeadConfig(Strict):
    """A multilayer perceptron from the speech vector to tokens."""

    num_tokens: int = 4  # 1 to 8 tokens in the place of <*>
    lambda_a: float = 0.01  # weight of the tokens' mean absolute value
    gradient_checkpointing: bool = True  # of the U-Net: less memory, more time

    def __post_init__(self) -> None:
        self.check_range("model.token", 1, "num_tokens", maximum=MOST_TOKENS)
        self.check_range("model.token", 0, "lambda_a")


@dataclass
class SequenceHeadConfig(Strict):
    """A transformer decoder whose queries read the frames of HuBERT."""

    width: int = 512
    layers: int = 4
    num_heads: int = 8
    dropout: float = 0.1  # in training only
    temperature: float = 0.15  # divides the cosine similarities of the contrastive term
    lambda_contrastive: float = 1.0  # weight of the contrastive loss of every position by itself
    lambda_cos: float = 1.0  # weight of 1 - cosine similarity with the state of the caption
    lambda_mse: float = 1.0  # weight of the squared error, which also trains the norm

    def __post_init__(self) -> None:
        key = "model.sequence"
        self.check_range(key, 1, "width", "num_heads")
        self.check_range(key, 1, "layers", maximum=MOST_LAYERS)
        self.divisible(key, "width", "num_heads")
        self.fraction(key, "dropout")
        self.require(self.temperature > 0, f"{key}.temperature must be above 0, got {self.temperature}")
        self.check_range(key, 0, "lambda_contrastive", "lambda_cos", "lambda_mse")


@dataclass
class ModelConfig(Strict):
    stage: Stage = Stage.encoder  # encoder or head, as above
    speech_encoder: SpeechEncoderConfig = field(default_factory=SpeechEncoderConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    encoder: str = ""  # of the stage head: exported folder or hub id of a trained encoder
    head: Head = Head.token  # token, sequence or image, as above
    stable_diffusion: str = STABLE_DIFFUSION[768]  # folder or hub id of any Stable Diffusion 1.x or 2.x
    token: TokenHeadConfig = field(default_factory=TokenHeadConfig)
    sequence: SequenceHeadConfig = field(default_factory=SequenceHeadConfig)
    ip_adapter: str = ""  # of the head image: folder or hub id with an IP-Adapter of the same image encoder
    prompt: str = f"a photo of {PLACEHOLDER}"  # prompt of the head token in training, and default of inference
    guidance_scale: float = 7.5  # default guidance of inference; not used in training

    def __post_init__(self) -> None:
        scale = 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE
        self.require(scale, f"model.guidance_scale must be 0 to {MAX_GUIDANCE_SCALE:g}, got {self.guidance_scale:g}")
        once = self.prompt.count(PLACEHOLDER) == 1
        self.require(once, f"model.prompt must contain {PLACEHOLDER} once, got {self.prompt!r}")
        named = self.stage is Stage.encoder or bool(self.encoder)
        self.require(named, "model.stage head needs model.encoder, the exported folder of a trained encoder (its "
                            "training: --config egs/s2i/wavy/encoder.json)")  # fmt: skip


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/s2i"
    preprocess: SpeechPicturesConfig = field(default_factory=SpeechPicturesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            adam=AdamConfig(lr=1e-4, weight_decay=1e-6), batch_size=64, accumulate=1, max_steps=50_000,
            warmup_steps=5000, lr_schedule=LRSchedule.linear, final_lr=1e-8, gradient_clip=4.0,
        )
    )  # fmt: skip


@dataclass(kw_only=True)
class EvaluationOptions(audio_to_image.EvaluationOptions):
    """Flags of run_eval.sh."""

    retrieval_only: bool = option(help="score retrieval of pictures and recordings only: no pictures are generated")
    asr: str | None = option(
        help="speech recogniser of the transcript cascade, speech -> text -> picture, such as "
        "openai/whisper-base (default in the miniature world: pretrained/mini/hubert)", metavar="FOLDER_OR_ID",
    )  # fmt: skip
    other_head: str | None = option(
        help="another trained head, whose pictures of the same recordings get a column", metavar="FOLDER_OR_ID"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_to_audio is not None:
            raise UserError("--text_to_audio makes sounds, and this recipe draws what is said: leave it out")
        for name in ("generated", "reference", "embedder", "asr", "other_head"):
            if self.retrieval_only and getattr(self, name):
                raise UserError(f"--retrieval_only makes no pictures and needs no --{name}: choose one of them")
        for name in ("asr", "other_head"):
            if getattr(self, name) is not None:
                paths.locate(getattr(self, name), f"--{name}", flag=True)


@dataclass(kw_only=True)
class InferenceOptions(audio_to_image.InferenceOptions):
    """Flags of run_inference.sh."""

    embed: Path | None = option(
        help="write the unit vectors of the recordings to this file, and make no pictures; with --images also those of "
        "pictures (arrays audio, audio_files, images and image_files)", metavar="FILE.npz",
    )  # fmt: skip
    images: Path | None = option(
        help="folder of pictures for --embed", metavar="FOLDER", must_exist=True, needs=("embed",)
    )
    search: Path | None = option(
        help="print the best pictures of this folder for each recording and write a sheet of them; no pictures are "
        "generated", metavar="FOLDER", must_exist=True,
    )  # fmt: skip
    top: int = option(5, help="pictures of --search for each recording", low=1, high=100, needs=("search",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average:
            raise UserError("--average: speech is read whole, up to 30 s; --span START-END chooses a part")
        if self.embed is not None and self.search is not None:
            raise UserError("--embed and --search are two tasks: choose one of them")
        task = "embed" if self.embed is not None else "search" if self.search is not None else ""
        unused = [name for name in DRAWING_FLAGS if task and getattr(self, name) not in (None, False, [], "")]
        if unused:
            raise UserError(f"--{task} draws no pictures and needs no --{unused[0]}: leave one of them out")
        if self.embed is not None and self.embed.suffix != ".npz":
            raise UserError(f"--embed {self.embed}: name a file that ends in .npz")
        if self.embed is not None and self.embed.is_dir():
            raise UserError(f"--embed {self.embed}: is a folder: name a file")


CARD = Card(
    title="Speech to image",
    summary=(
        "A small network turns the hidden states of a frozen HuBERT into a vector that was trained to be close to"
        " the vector of the picture (stage 1); a head turns speech into input for a frozen Stable Diffusion "
        "(stage 2). No transcript is needed in use. `audio_to_image.json` names the frozen networks, which are "
        "not in this folder unless they were trained, too."
    ),
    tags=("speech-to-image", "stable-diffusion"),
    arguments="--audio speech.wav",
    code="""\
import torch
from sonolume import AudioToImagePipeline
from sonolume.utils import audio

pipe = AudioToImagePipeline.from_pretrained("FOLDER_OR_ID")
wave = audio.load("speech.wav", pipe.encoder.sample_rate)  # (samples,)
pipe([wave], generator=torch.Generator().manual_seed(0)).images[0].save("speech.png")
""",
    needs=("head",),
    models=lambda config: (
        ("speech_encoder.hubert", "image_encoder.model") if config.model.stage is Stage.encoder
        else ("encoder", "stable_diffusion", "ip_adapter")
    ),
    limits=(
        "Pictures have the limits and biases of the Stable Diffusion that draws them.",
    ),
    citation="""\
@software{wavy,
  title = {Wavy: Generating Images from Speech},
  author = {{Authors of Wavy}}
}

@article{speechclip,
  title = {SpeechCLIP},
  author = {{Authors of SpeechCLIP}},
  url = {https://arxiv.org/abs/2210.00705}
}
""",
)
