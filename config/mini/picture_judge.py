"""mini/picture_judge: a small classifier that scores generated pictures of the miniature world."""

from dataclasses import dataclass, field

from sonolume.config.base import AdamConfig, Strict, TrainConfig
from sonolume.config.mini import GeneratedDataConfig, NoInputOptions
from sonolume.config.options import ReportOptions


@dataclass
class ModelConfig(Strict):
    width: int = 24  # channels of the first convolution

    def __post_init__(self) -> None:
        self.at_least("model", 1, "width")


@dataclass
class Config(GeneratedDataConfig):
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=2e-3)))


PreprocessOptions = NoInputOptions
EvaluationOptions = ReportOptions
