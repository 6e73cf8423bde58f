"""mini/picture_judge: a small classifier that scores generated pictures of the miniature world."""

from dataclasses import dataclass, field

from sonolume.config.base import Strict
from sonolume.config.mini import GeneratedDataConfig
from sonolume.config.mini import PreprocessOptions as PreprocessOptions
from sonolume.config.options import ReportOptions

EvaluationOptions = ReportOptions


@dataclass
class ModelConfig(Strict):
    width: int = 24  # channels of the first convolution

    def __post_init__(self) -> None:
        self.check_range("model", 1, "width")


@dataclass
class Config(GeneratedDataConfig):
    model: ModelConfig = field(default_factory=ModelConfig)
