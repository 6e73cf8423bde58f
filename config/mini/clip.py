"""mini/clip: a CLIP of the miniature world: pictures and video frames against captions."""

from dataclasses import dataclass, field

from sonolume.config.base import MOST_LAYERS, Strict
from sonolume.config.mini import GeneratedDataConfig
from sonolume.config.mini import PreprocessOptions as PreprocessOptions
from sonolume.config.options import ReportOptions

EvaluationOptions = ReportOptions


@dataclass
class TowerConfig(Strict):
    """transformers' CLIPVisionModel or CLIPTextModel."""

    hidden_size: int = 64
    intermediate_size: int = 128  # width of the feed-forward layers
    num_hidden_layers: int = 2
    num_attention_heads: int = 2

    def __post_init__(self) -> None:
        self.check_range("model", 1, "hidden_size", "intermediate_size", "num_attention_heads")
        self.check_range("model", 1, "num_hidden_layers", maximum=MOST_LAYERS)
        self.divisible("model", "hidden_size", "num_attention_heads")


@dataclass
class ModelConfig(Strict):
    vision: TowerConfig = field(default_factory=lambda: TowerConfig(96, 192, 4, 2))
    text: TowerConfig = field(default_factory=TowerConfig)
    projection_dim: int = 64  # of the common space
    patch_size: int = 8  # pixels; a picture has 64 x 64
    max_tokens: int = 56  # text length with start and end tokens

    def __post_init__(self) -> None:
        self.check_range("model", 1, "projection_dim", "patch_size")
        self.check_range("model", 8, "max_tokens")


@dataclass
class FilmConfig(Strict):
    """Films of which frames are drawn for training."""

    frames: int = 77  # of a film of 2.56 s: 30 a second
    cached_frames: int = 8  # frames of each film that are rendered and cached
    frames_per_scene: int = 5  # cached frames of one film in a batch; the still picture is added

    def __post_init__(self) -> None:
        self.check_range("film", 1, "frames", "cached_frames", "frames_per_scene", maximum=1024)


@dataclass
class Config(GeneratedDataConfig):
    cache_dir: str = "data/miniworld/cache"  # folder of cached pictures
    film: FilmConfig = field(default_factory=FilmConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
