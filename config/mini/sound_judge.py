"""mini/sound_judge: a small classifier that scores generated sounds of the miniature world."""

from dataclasses import dataclass, field
from enum import StrEnum

from sonolume.config.base import AdamConfig, PreprocessConfig, RunConfig, Strict, TrainConfig
from sonolume.config.options import ReportOptions

EvaluationOptions = ReportOptions
DIVISORS = {"frames": 8, "n_mel": 16}  # frames per step and mel bands per token of the networks


class Architecture(StrEnum):
    conv_gru = "conv_gru"
    patch_transformer = "patch_transformer"


@dataclass
class ModelConfig(Strict):
    architecture: Architecture = Architecture.conv_gru
    width: int = 16  # channels of the first convolution (conv_gru) or of a token (patch_transformer)

    def __post_init__(self) -> None:
        self.check_range("model", 4, "width")
        self.require(self.width % 4 == 0, f"model.width {self.width} is not divisible by 4, the attention heads")


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/mini"
    dataset: list[str] = field(default_factory=lambda: ["miniworld"])  # its prepared mels
    preprocess: PreprocessConfig = field(default_factory=lambda: PreprocessConfig(frames=160))
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=2e-3)))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, divisor in DIVISORS.items():
            size = getattr(self.preprocess, name)
            self.require(size % divisor == 0, f"preprocess.{name} {size} is not divisible by {divisor}")
