"""Fine-tuning from the command line: the config that follows from the pipeline to start from, and its data.

Reads JSON only, so that mistakes are reported before torch is imported.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sonolume.config.sources import Source
from sonolume.config.tta.audioldm import Config, FinetuneOptions, Method
from sonolume.models.tta.audioldm import run_config
from sonolume.utils import files, hub, manifest, paths
from sonolume.utils.errors import ConfigError, UserError, first_line

TRAINED = "audioldm/pipeline"  # in log_dir, exported by run_train.sh
SHIPPED = "pretrained/mini/text_to_audio"
PEFT_HINT = 'model.method lora needs the package peft: pip install -e ".[lora]"'


def configure(config: Config, options: FinetuneOptions, given: list[Source]) -> Config:
    """Complete the config with the values that the pipeline to start from decides.

    Args:
        given: sources of `config`.

    Raises:
        UserError: no such pipeline, a damaged one, or another one than the run to resume started from.
        ConfigError: a source contradicts the pipeline.
    """
    before = _config_to_resume(config) if options.resume else {}
    source = _source(config, options.checkpoint, before)
    folder = locate(source)
    decided = run_config.read(folder)
    check_agreement(config, decided, folder, given)
    choice: dict[str, Any] = {"model": {"pretrained": source}, "dataset": _datasets(config, options.input, before)}
    if options.method:
        choice["model"]["method"] = options.method
    merged: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), decided, choice))
    check_peft(merged)
    return merged


def prepare(config: Config, options: FinetuneOptions) -> None:
    """Compute manifest and mel features. Without validation clips, the training clips are validated on."""
    from sonolume.preprocessors import text_audio  # imports torch

    for number, dataset in enumerate(config.dataset):
        text_audio.prepare(config.preprocess, dataset, options.input if number == 0 else None)
        folder = paths.resolve(config.preprocess.processed_dir) / dataset
        valid = folder / config.preprocess.valid_file
        if not _rows(valid):
            manifest.write_manifest(_rows(folder / config.preprocess.train_file), valid)
            print(
                f"{folder}: val/loss is measured on the training clips "
                "(preprocess.valid_fraction=0.1 keeps a part of them for validation)"
            )


def _rows(path: Path) -> list[manifest.Row]:
    """Rows of a prepared manifest, which may be empty or absent."""
    is_empty = not path.is_file() or not json.loads(path.read_text(encoding="utf-8"))
    return [] if is_empty else manifest.read_manifest(path)


def locate(source: str) -> Path:
    """The local folder of a pipeline, which is downloaded first if `source` is a hub id.

    Raises:
        UserError: neither a folder nor on the hub.
    """
    where = hub.locate(source, "--checkpoint")
    if hub.is_local(where):
        return Path(where)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--checkpoint {source}: neither a folder nor available from the hub: {first_line(error)}"
        ) from error


def check_agreement(
    config: Config, decided: dict[str, Any], folder: Path, given: list[Source] | None = None
) -> None:
    """Make sure that the config does not contradict the pipeline.

    Args:
        decided: values of the pipeline, from `run_config.read`.
        given: check only values that these sources name; None checks all.

    Raises:
        ConfigError: names the key and both values.
    """
    plain: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    for keys, value in _leaves(decided):
        names = ["config"] if given is None else [one.name for one in given if _at(one.content, keys) is not None]
        if names and _at(plain, keys) != value:
            raise ConfigError(
                f"{names[-1]}: {'.'.join(keys)}: {_at(plain, keys)} contradicts the pipeline {folder}, "
                f"which has {value}: leave it out"
            )


def _at(content: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _leaves(content: dict[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*keys, name))
        else:
            yield (*keys, name), value


def check_peft(config: Config) -> None:
    """Raise a UserError if LoRA is asked for and peft is not installed."""
    if config.model.method is Method.lora and importlib.util.find_spec("peft") is None:
        raise UserError(PEFT_HINT)


def _config_to_resume(config: Config) -> dict[str, Any]:
    path = config.run_dir / "config.json"
    if not path.is_file():
        raise UserError(f"{config.run_dir}: nothing to resume: there is no run of this name")
    return files.read_json(path)


def _source(config: Config, flag: str | None, before: dict[str, Any]) -> str:
    """--checkpoint, else the config's, else that of the run to resume, else the trained or the shipped pipeline."""
    began = before.get("model", {}).get("pretrained", "")
    given = flag or config.model.pretrained
    if flag and Path(flag).expanduser().exists():
        given = str(Path(flag).expanduser().resolve())
    if given and began and paths.resolve(given) != paths.resolve(began):
        raise UserError(f"{config.run_dir}: this run started from {began}, not from {given}")
    if given or began:
        return given or began
    trained, hint = config.run_dir.parent / TRAINED, "(another: --checkpoint FOLDER_OR_ID)"
    if trained.is_dir():
        print(f"fine-tuning {trained} {hint}", file=sys.stderr)
        return str(trained)
    print(f"no trained pipeline at {trained}: fine-tuning the shipped miniature one, {SHIPPED} {hint}", file=sys.stderr)
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
