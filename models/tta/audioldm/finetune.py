"""Fine-tuning from the command line: the config that follows from the pipeline to start from, and its data.

Reads JSON only, so that mistakes are reported before torch is imported.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sonolume.config.sources import Source
from sonolume.config.tta.audioldm import Config, FinetuneOptions, Method
from sonolume.models.tta.audioldm import run_config
from sonolume.utils import files, manifest, paths
from sonolume.utils.errors import ConfigError, UserError
from sonolume.utils.text import message

SHIPPED = "pretrained/mini/text_to_audio"


def configure(config: Config, options: FinetuneOptions, given: list[Source]) -> Config:
    """Complete the config with the values that the pipeline to start from decides.

    Args:
        given: sources of `config`.

    Raises:
        UserError: no such pipeline, a damaged one, or another one than the run to resume started from.
        ConfigError: a source contradicts the pipeline.
    """
    before: dict[str, Any] = {}
    if options.resume:
        if not (config.run_dir / "config.json").is_file():
            raise UserError(f"{config.run_dir}: nothing to resume: there is no run of this name")
        before = files.read_json(config.run_dir / "config.json")
    source = find_source(config, options.checkpoint, before, "fine-tuning")
    choice: dict[str, Any] = {"model": {"pretrained": source}, "dataset": _datasets(config, options.input, before)}
    if options.method:
        choice["model"]["method"] = options.method
    return complete(config, locate(source), choice, given)


def complete(config: Config, folder: Path, choice: dict[str, Any], given: list[Source]) -> Config:
    """Merge a config, the values that the pipeline in `folder` decides, and a choice.

    Raises:
        UserError: the pipeline is damaged or of another kind, or LoRA is chosen and peft is not installed.
        ConfigError: a source contradicts the pipeline.
    """
    decided = run_config.read(folder)
    check_agreement(config, decided, folder, given)
    merged: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), decided, choice))
    check_peft(merged)
    return merged


def prepare(config: Config, options: FinetuneOptions) -> None:
    """Compute manifest and mel features. Without validation clips, the training clips are validated on."""
    from sonolume.preprocessors import text_audio  # imports torch

    for number, dataset in enumerate(config.dataset):
        text_audio.prepare(config.preprocess, dataset, options.input if number == 0 else None)
        folder = paths.resolve(config.preprocess.processed_dir) / dataset
        train, valid = folder / config.preprocess.train_file, folder / config.preprocess.valid_file
        if not valid.is_file() or not json.loads(valid.read_text(encoding="utf-8")):
            manifest.write_manifest(manifest.read_manifest(train), valid)
            hint = "preprocess.valid_fraction=0.1 keeps a part of them for validation"
            print(f"{folder}: val/loss is measured on the training clips ({hint})")


def locate(source: str) -> Path:
    """The local folder of a pipeline, which is downloaded first if `source` is a hub id."""
    return paths.download(paths.locate(source, "--checkpoint"), "--checkpoint")


def check_agreement(config: Config, decided: dict[str, Any], folder: Path, given: list[Source] | None = None) -> None:
    """Raise a ConfigError with the key and both values if the config contradicts those `decided` by the pipeline.

    Only the values that the sources `given` name are checked; None checks all.
    """
    values = _flat(config.to_dict())
    sources = [("config", values)] if given is None else [(one.name, _flat(one.content)) for one in given]
    for key, value in _flat(decided).items():
        names = [name for name, content in sources if key in content]
        if names and values[key] != value:
            found = f"{names[-1]}: {key}: {values[key]}"
            raise ConfigError(f"{found} contradicts the pipeline {folder}, which has {value}: leave it out")


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of all sections by their dotted keys."""
    values: dict[str, Any] = {}
    for name, value in content.items():
        values |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


def check_peft(config: Config) -> None:
    """Raise a UserError if LoRA is asked for and peft is not installed."""
    if config.model.method is Method.lora and importlib.util.find_spec("peft") is None:
        raise UserError(f"model.method lora needs the package peft: {paths.pip_install('lora')}")


def find_source(config: Config, flag: str | None, before: dict[str, Any], doing: str) -> str:
    """--checkpoint, else the config's, else that of the run to resume, else the trained or the shipped pipeline."""
    began = before.get("model", {}).get("pretrained", "")
    given = flag or config.model.pretrained
    if flag and paths.expand(flag).exists():
        given = str(paths.expand(flag).resolve())
    if given and began and paths.resolve(given) != paths.resolve(began):
        raise UserError(f"{config.run_dir}: this run started from {began}, not from {given}")
    if given or began:
        return given or began
    trained, hint = config.run_dir.parent / "audioldm" / "pipeline", "(another: --checkpoint FOLDER_OR_ID)"
    if trained.is_dir():
        message(f"{doing} {trained} {hint}")
        return str(trained)
    message(f"no trained pipeline at {trained}: {doing} {SHIPPED} {hint}")
    return SHIPPED


def _datasets(config: Config, source: Path | None, before: dict[str, Any]) -> list[str]:
    """The config's, else one named after the input, else those of the run to resume."""
    if config.dataset:
        return config.dataset
    if source is not None:
        return [files.safe_name((source if source.is_dir() else source.parent).resolve().name)]
    if before.get("dataset"):
        return before["dataset"]
    raise UserError("--input FOLDER_OR_MANIFEST is missing: clips to learn from (or dataset=[NAME], prepared before)")
