"""mini/picture_judge: a small classifier that sees what a generated picture of the miniature world shows."""

from dataclasses import dataclass, field

from sonolume.config.base import AdamConfig, MiniworldConfig, RunConfig, Strict, TrainConfig

INFERENCE_FLAGS: tuple[str, ...] = ()
EVALUATION_FLAGS = ("checkpoint", "output_dir", "num_samples", "device")


@dataclass
class ModelConfig(Strict):
    width: int = 24  # channels of the first convolution

    def __post_init__(self) -> None:
        self.at_least("model", 1, "width")


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/mini"
    dataset: list[str] = field(default_factory=lambda: ["miniworld"])  # pictures are drawn as training goes
    miniworld: MiniworldConfig = field(default_factory=MiniworldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=2e-3)))
