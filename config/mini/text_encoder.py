"""mini/text_encoder: a T5 encoder on bytes that learns what captions of the miniature world say."""

from dataclasses import dataclass, field

from sonolume.config.base import AdamConfig, MiniworldConfig, RunConfig, Strict, TrainConfig

INFERENCE_FLAGS: tuple[str, ...] = ()
EVALUATION_FLAGS: tuple[str, ...] = ()


@dataclass
class TextEncoderConfig(Strict):
    """transformers' T5 encoder on ByT5's tokens (bytes: no vocabulary file)."""

    d_model: int = 128  # width of the text states
    d_ff: int = 256  # width of the feed-forward layers
    num_layers: int = 4
    num_heads: int = 4

    def __post_init__(self) -> None:
        key = "model.text_encoder"
        self.at_least(key, 1, "d_model", "d_ff", "num_layers", "num_heads")
        self.require(
            self.d_model % self.num_heads == 0,
            f"{key}: d_model {self.d_model} is not divisible by num_heads {self.num_heads}",
        )


@dataclass
class ModelConfig(Strict):
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/mini"
    dataset: list[str] = field(default_factory=lambda: ["miniworld"])  # captions are made as training goes
    miniworld: MiniworldConfig = field(default_factory=MiniworldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=2e-3)))
