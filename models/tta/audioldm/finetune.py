"""What the folder of a pipeline decides about its fine-tuning. Reads JSON only, so that mistakes show before torch."""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from sonolume.config import schema, sources
from sonolume.config.base import PreprocessConfig
from sonolume.config.tta.audioldm import Config, Method, NoiseSchedulerConfig
from sonolume.utils import files, hub, manifest, paths
from sonolume.utils.errors import ConfigError, UserError, first_line

if TYPE_CHECKING:
    from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline

KIND = "TextToAudioPipeline"
TRAINED = "audioldm/pipeline"  # in log_dir: what run_train.sh leaves
SHIPPED = "pretrained/mini/text_to_audio"
MEL = ("sample_rate", "n_fft", "win_size", "hop_size", "n_mel", "fmin", "fmax")
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "clip_sample")
EXTRA = 'model.method lora needs the package peft: pip install -e ".[lora]"'


def configure(config: Config, args: argparse.Namespace) -> Config:
    """The config with all that the pipeline to start from decides.

    Args:
        args: checkpoint, method, input, resume, and config and overrides, which `config` was read from.

    Raises:
        UserError: no such pipeline, not a whole one, or another one than the run to resume started from.
        ConfigError: the file or the command line gives another value than the pipeline.
    """
    before = _before(config) if args.resume else {}
    source = _source(config, args.checkpoint, before)
    folder = locate(source)
    facts = read(folder)
    given = [*sources.read(args.config), *sources.overrides(args.overrides)]
    _refuse_contradictions(config, facts, folder, given)
    choice: dict[str, Any] = {"model": {"pretrained": source}, "dataset": _datasets(config, args.input, before)}
    if args.method:
        choice["model"]["method"] = args.method
    merged: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), facts, choice))
    _check_peft(merged)
    return merged


def prepare(config: Config, source: Path | None) -> None:
    """Clips -> manifest and mel features. Where none are kept for validation, the training clips are validated on."""
    from sonolume.preprocessors import text_audio  # slow

    for number, dataset in enumerate(config.dataset):
        text_audio.prepare(config.preprocess, dataset, source if number == 0 else None)
        folder = paths.resolve(config.preprocess.processed_dir) / dataset
        valid = folder / config.preprocess.valid_file
        if not _rows(valid):
            manifest.write_manifest(_rows(folder / config.preprocess.train_file), valid)
            print(
                f"{folder}: val/loss is measured on the training clips "
                "(preprocess.valid_fraction=0.1 keeps a part of them back)"
            )


def _rows(path: Path) -> list[manifest.Row]:
    """Rows of a prepared manifest, which may be empty or absent."""
    is_empty = not path.is_file() or not json.loads(path.read_text(encoding="utf-8"))
    return [] if is_empty else manifest.read_manifest(path)


def load(config: Config) -> "TextToAudioPipeline":
    """The pipeline to start from, in float32 on the CPU, frozen but for its U-Net.

    Raises:
        UserError: damaged, of another kind, or the config does not say what its folder says.
    """
    from sonolume.models.tta.audioldm import inference  # slow

    folder = locate(config.model.pretrained)
    _refuse_contradictions(config, read(folder), folder)
    _check_peft(config)
    pipe = inference.load(str(folder), "cpu")
    for part in (pipe.vae, pipe.text_encoder, pipe.vocoder):
        if part is not None:
            part.requires_grad_(False)
    if config.model.audioldm.use_checkpoint:
        pipe.unet.enable_gradient_checkpointing()
    return pipe


def short_name(source: str) -> str:
    """A pipeline's name without the places of this machine."""
    path = Path(source)
    return "/".join(path.parts[-2:]) if path.is_absolute() else source


def locate(source: str) -> Path:
    """The folder of a pipeline: a local one, or that of a hub id, which is downloaded first.

    Raises:
        UserError: neither.
    """
    where = hub.locate(source, "--checkpoint")
    if hub.is_local(where):
        return Path(where)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--checkpoint {source}: neither a folder nor to be had from the hub: {first_line(error)}"
        ) from error


def read(folder: Path) -> dict[str, Any]:
    """What a pipeline's JSON files say, as content of this recipe's config.

    Raises:
        UserError: a file is missing or broken, or the folder is of another model.
    """
    index = _index(folder)
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    mel = {name: getattr(PreprocessConfig, name) for name in MEL} | dict(index.get("mel") or {})
    noise = {name: getattr(NoiseSchedulerConfig, name) for name in NOISE}
    noise |= {name: scheduler[name] for name in NOISE if name in scheduler} | dict(index.get("noise") or {})
    has_vocoder = (index.get("vocoder") or [None])[0] is not None
    here = str(folder)
    facts: dict[str, Any] = {
        "preprocess": {**mel, "frames": index.get("frames", PreprocessConfig.frames)},
        "model": {
            "autoencoder_path": here,
            "text_encoder": here,
            "vocoder": here if has_vocoder else "",
            "polish": index.get("polish", 0),
            "audioldm": _unet(folder),
            "noise_scheduler": {**noise, "prediction_type": _objective(scheduler)},
            "text_mask": index.get("text_mask", True),
            "latent_scale": "auto",  # the VAE brings its own
        },
    }
    schema.check(facts, Config, here)
    return facts


def _refuse_contradictions(
    config: Config, facts: dict[str, Any], folder: Path, given: list[sources.Source] | None = None
) -> None:
    """Raise a ConfigError for the first value that was given (default: any of the config) and is not the pipeline's."""
    plain: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    for keys, fact in _leaves(facts):
        names = ["config"] if given is None else [one.name for one in given if _at(one.content, keys) is not None]
        if names and _at(plain, keys) != fact:
            raise ConfigError(
                f"{names[-1]}: {'.'.join(keys)}: {_at(plain, keys)} contradicts the pipeline {folder}, "
                f"which says {fact}: leave it out"
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


def _check_peft(config: Config) -> None:
    if config.model.method is Method.lora and importlib.util.find_spec("peft") is None:
        raise UserError(EXTRA)


def _before(config: Config) -> dict[str, Any]:
    """The config of the run to resume."""
    path = config.run_dir / "config.json"
    if not path.is_file():
        raise UserError(f"{config.run_dir}: nothing to resume: no run of this name is there")
    return _json(path)


def _source(config: Config, flag: str | None, before: dict[str, Any]) -> str:
    """--checkpoint, else the config's, else what the run to resume began with, else the trained or shipped pipeline."""
    began = before.get("model", {}).get("pretrained", "")
    given = flag or config.model.pretrained
    if flag and Path(flag).expanduser().exists():
        given = str(Path(flag).expanduser().resolve())
    if given and began and paths.resolve(given) != paths.resolve(began):
        raise UserError(f"{config.run_dir}: this run began with {began}, not with {given}")
    if given or began:
        return given or began
    trained = config.run_dir.parent / TRAINED
    if trained.is_dir():
        print(f"fine-tuning {trained} (another: --checkpoint FOLDER_OR_ID)", file=sys.stderr)
        return str(trained)
    print(
        f"no trained pipeline at {trained}: fine-tuning the shipped miniature one, {SHIPPED} "
        "(another: --checkpoint FOLDER_OR_ID)",
        file=sys.stderr,
    )
    return SHIPPED


def _datasets(config: Config, source: Path | None, before: dict[str, Any]) -> list[str]:
    """Those of the config, else one named after the input, else those of the run to resume."""
    if config.dataset:
        return config.dataset
    if source is not None:
        return [files.safe_name((source if source.is_dir() else source.parent).resolve().name)]
    if before.get("dataset"):
        return before["dataset"]
    raise UserError("--input FOLDER_OR_MANIFEST is missing: clips to learn from (or dataset=[NAME], prepared before)")


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        is_run = (folder / "pipeline" / "model_index.json").is_file()
        is_model = (folder / "config.json").is_file()
        found = _json(folder / "config.json").get("_class_name") if is_model else None
        hint = f": did you mean {folder / 'pipeline'}?" if is_run else f": it holds a {found}" if found else ""
        raise UserError(f"{folder}: not the folder of a pipeline (no model_index.json in it){hint}")
    index = _json(path)
    kind = index.get("_class_name")
    kind = kind[-1] if isinstance(kind, list) else kind
    if kind != KIND:
        raise UserError(f"{folder}: holds a {kind}, not a {KIND}")
    return index


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: not a whole pipeline") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: broken JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings")
    return content


def _objective(scheduler: dict[str, Any]) -> str:
    """What the network predicts, as `modules/presets.objective_of` tells it from a scheduler."""
    if str(scheduler.get("_class_name")).startswith("FlowMatch"):
        return "flow"
    return str(scheduler.get("prediction_type", "epsilon")).replace("flow_prediction", "flow")


def _unet(folder: Path) -> dict[str, Any]:
    """`model.audioldm` of a U-Net's config.json."""
    path = folder / "unet" / "config.json"
    unet = _json(path)
    try:
        channels = [int(channel) for channel in unet["block_out_channels"]]
        kinds = [str(kind) for kind in unet["down_block_types"]]
        width = math.gcd(*channels)
        return {
            "in_channels": unet["out_channels"],
            "out_channels": unet["out_channels"],
            "position_channels": unet["in_channels"] - unet["out_channels"],
            "model_channels": width,
            "channel_mult": [channel // width for channel in channels],
            "attention_resolutions": [2**level for level, kind in enumerate(kinds) if kind.startswith("CrossAttn")],
            "num_res_blocks": unet["layers_per_block"],
            "num_heads": unet["attention_head_dim"],
            "transformer_depth": unet["transformer_layers_per_block"],
            "context_dim": unet["cross_attention_dim"],
            "norm_num_groups": unet["norm_num_groups"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a U-Net of this recipe ({first_line(error)})") from error
