"""Distillation from the command line: the configs of its two stages, which follow from the pipeline to distill.

Reads JSON only, so that mistakes are reported before torch is imported.
"""

import copy
from pathlib import Path
from typing import Any

from sonolume.config.sources import Source
from sonolume.config.tta.audioldm import Config, DistillOptions, DistillStage
from sonolume.models.launch import last_checkpoint
from sonolume.models.tta.audioldm import finetune
from sonolume.utils import files
from sonolume.utils.errors import UserError


def configure(config: Config, options: DistillOptions, given: list[Source]) -> list[Config]:
    """Make the configs of both stages; the run of the first one is named {exp_name}_endpoint.

    Args:
        given: sources of `config`.

    Raises:
        UserError: no such pipeline, a damaged or a distilled one, or another one than the run to resume started from.
        ConfigError: a source contradicts the pipeline.
    """
    first = copy.deepcopy(config)
    if config.model.distill.matching_steps:
        first.exp_name = f"{config.exp_name}_endpoint"
    before = _before(first, options.resume)
    source = finetune.find_source(config, options.checkpoint, before, "distilling")
    folder = finetune.locate(source)
    _check_teacher(folder, source)
    distill: dict[str, Any] = {"stage": DistillStage.endpoint}
    if options.text_file is not None:
        distill["captions"] = str(options.text_file.resolve())
    elif options.resume:
        distill["captions"] = before["model"]["distill"]["captions"]
    if options.steps is not None:
        distill["steps"] = options.steps
    choice: dict[str, Any] = {"exp_name": first.exp_name, "model": {"pretrained": source, "distill": distill}}
    if options.method:
        choice["model"]["method"] = options.method
    first = finetune.complete(config, folder, choice, given)
    return [first, second_stage(first, config.exp_name)] if config.model.distill.matching_steps else [first]


def second_stage(first: Config, exp_name: str) -> Config:
    """The config of the stage matching, given that of the stage endpoint."""
    config = copy.deepcopy(first)
    distill = config.model.distill
    config.exp_name, distill.stage = exp_name, DistillStage.matching
    distill.student = str(first.run_dir / "pipeline")
    train = config.train
    train.max_steps, train.adam.lr, train.adam.betas = distill.matching_steps, distill.matching_lr, [0.0, 0.99]
    return config


def resumes(config: Config, resume: bool) -> bool:
    """Whether a stage continues: with --resume, if it has begun."""
    return resume and last_checkpoint(config.run_dir).is_file()


def _before(first: Config, resume: bool) -> dict[str, Any]:
    """Config of the run to resume."""
    if not resume:
        return {}
    path = first.run_dir / "config.json"
    if not path.is_file():
        raise UserError(f"{first.run_dir}: nothing to resume: there is no run of this name")
    return files.read_json(path)


def _check_teacher(folder: Path, source: str) -> None:
    """Raise a UserError for a teacher without guidance, which is distilled already."""
    index = files.read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    if index.get("distilled"):
        raise UserError(f"{source}: is distilled already: name the pipeline that it was made from")
