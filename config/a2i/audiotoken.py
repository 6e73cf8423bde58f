"""a2i/audiotoken: audio to image through one token in Stable Diffusion's text space (AudioToken, arXiv 2305.13050)."""

from dataclasses import dataclass, field

from sonolume.config import audio_to_image
from sonolume.config.audio_to_image import PLACEHOLDER, STABLE_DIFFUSION, TrainingPairsConfig
from sonolume.config.base import AdamConfig, RunConfig, Strict, TrainConfig
from sonolume.config.card import Card
from sonolume.config.options import option


@dataclass
class ModelConfig(Strict):
    stable_diffusion: str = STABLE_DIFFUSION[768]  # folder or hub id of any Stable Diffusion 1.x or 2.x
    beats: str = "pretrained/beats"  # folder written by bins/convert.py beats
    prompt: str = "a photo of <*>"  # prompt of training, and default of inference
    guidance_scale: float = 7.5  # default guidance of inference; not used in training
    dropout: float = 0.5  # inside the attention pooling, in training only
    lambda_a: float = 0.01  # weight of the token's mean absolute value
    lambda_b: float = 0.0  # weight of the token's squared norm
    lambda_c: float = 0.01  # weight of the classification loss, if `cosine_loss`
    cosine_loss: bool = True  # pull the token towards the embedding of the label
    lora: bool = False  # also train low-rank adapters of the U-Net's attention; needs the extra `lora`
    lora_rank: int = 4  # rank of every adapter
    gradient_checkpointing: bool = True  # of the U-Net: less memory, more time

    def __post_init__(self) -> None:
        self.check_range("model", 0, "lambda_a", "lambda_b", "lambda_c", "guidance_scale")
        self.check_range("model", 1, "lora_rank")
        self.fraction("model", "dropout")
        once = self.prompt.count(PLACEHOLDER) == 1
        self.require(once, f"model.prompt must contain {PLACEHOLDER} once, got {self.prompt!r}")


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/a2i"
    preprocess: TrainingPairsConfig = field(default_factory=TrainingPairsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=1.6e-4)))


PreprocessOptions = audio_to_image.PreprocessOptions
EvaluationOptions = audio_to_image.EvaluationOptions


@dataclass(kw_only=True)
class InferenceOptions(audio_to_image.InferenceOptions):
    """Flags of run_inference.sh."""

    tags: bool = option(help="print the classes that BEATs predicts for the sounds, and make no pictures")


CARD = Card(
    title="Audio to image through one token",
    summary=(
        "A small network turns the features of a frozen BEATs into one token embedding for the text encoder of a "
        "frozen Stable Diffusion, in the place of a word of the prompt. BEATs and Stable Diffusion are not in "
        "this folder: `audio_to_image.json` names them."
    ),
    tags=("audio-to-image", "stable-diffusion"),
    arguments="--audio dog.wav",
    code="""\
import torch
from sonolume import AudioToImagePipeline
from sonolume.utils import audio

pipe = AudioToImagePipeline.from_pretrained("FOLDER_OR_ID")
wave = audio.load("dog.wav", pipe.encoder.sample_rate)  # (samples,)
pipe([wave], generator=torch.Generator().manual_seed(0)).images[0].save("dog.png")
""",
    needs=("embedder",),
    limits=(
        "In the miniature world, one token carried the kind of a sound well and the number of its repetitions badly.",
        "A long recording of many things becomes a vague picture unless it is cut into windows (`--window`).",
        "Pictures have the limits and biases of the Stable Diffusion that draws them.",
    ),
    citation="""\
@article{yariv2023audiotoken,
  title = {AudioToken: Adaptation of Text-Conditioned Diffusion Models for Audio-to-Image Generation},
  author = {Yariv, Guy and Gat, Itai and Wolf, Lior and Adi, Yossi and Schwartz, Idan},
  year = {2023},
  url = {https://arxiv.org/abs/2305.13050}
}
""",
)
