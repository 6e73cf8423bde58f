"""Settings that the recipes of the miniature world share."""

from dataclasses import dataclass, field

from sonolume.config.base import AdamConfig, MiniworldConfig, RunConfig, TrainConfig
from sonolume.config.options import Options


@dataclass
class GeneratedDataConfig(RunConfig):
    """Base of recipes whose training data are generated while training runs."""

    log_dir: str = "ckpts/mini"
    dataset: list[str] = field(default_factory=lambda: ["miniworld"])  # generated: names no folder
    miniworld: MiniworldConfig = field(default_factory=MiniworldConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=2e-3)))


@dataclass(kw_only=True)
class PreprocessOptions(Options):
    """Preprocessing options of recipes that read no files: there are no flags."""

    dataset: str | None = None  # set by bins/preprocess.py
