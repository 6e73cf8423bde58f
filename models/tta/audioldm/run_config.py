"""The run's config in an exported pipeline, which fine-tuning reads back. Imports no torch.

Pipelines without one, exported by older versions or assembled from parts, are described by their components' configs.
"""

import math
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sonolume.config import load, sources
from sonolume.config.tta.audioldm import Config
from sonolume.utils import files, local_paths, paths
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.model_folder import wrong_kind

FILE = "sonolume.json"
KIND = "TextToAudioPipeline"
MEL = ("sample_rate", "n_fft", "win_size", "hop_size", "n_mel", "fmin", "fmax")
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "clip_sample")
UNET_UNDECIDED = ("image_size", "use_spatial_transformer", "use_checkpoint", "legacy")  # the rest is its architecture


def save(config: Config, folder: Path) -> None:
    """Write the config of a run into its exported folder, without the local part of absolute paths."""
    files.write_json(folder / FILE, local_paths.strip(config.to_dict()))


def read(folder: Path) -> dict[str, Any]:
    """Config values that a pipeline decides for every further training: mels, networks, objective, noise schedule.

    Raises:
        UserError: a file is missing or broken, or the folder holds another kind of model.
    """
    if (kind := paths.kind_of(folder)) != KIND:
        hint = f": did you mean {folder / 'pipeline'}?" if (folder / "pipeline").is_dir() else ""
        raise UserError(f"{folder}: {wrong_kind(kind, KIND)}{hint}")
    paths.check_names(folder, KIND)
    index, path = files.read_json(folder / "model_index.json"), folder / FILE
    content = files.read_json(path) if path.is_file() else _from_components(folder, index)
    sources.rename(content, Config.RENAMED)
    load.check(content, Config, f"{path if path.is_file() else folder}: ")
    run: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(Config), content), enum_to_str=True)
    model = run["model"]
    return {
        "preprocess": {name: run["preprocess"][name] for name in (*MEL, "frames")},
        "model": {
            "autoencoder_path": str(folder),
            "text_encoder": str(folder),
            "vocoder": str(folder) if (index.get("vocoder") or [None])[0] else "",
            "refine": model["refine"],
            "text_mask": model["text_mask"],
            "latent_scale": "auto",  # the VAE's config holds it
            "audioldm": {name: value for name, value in model["audioldm"].items() if name not in UNET_UNDECIDED},
            "noise_scheduler": {name: model["noise_scheduler"][name] for name in (*NOISE, "prediction_type")},
        },
    }


def _from_components(folder: Path, index: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that a pipeline's components decide."""
    scheduler = files.read_json(folder / "scheduler" / "scheduler_config.json", "the scheduler of a whole pipeline")
    unet_path = folder / "unet" / "config.json"
    unet = files.read_json(unet_path, "the U-Net of a whole pipeline")
    objective = str(scheduler.get("prediction_type", "epsilon")).replace("flow_prediction", "flow")
    is_flow = str(scheduler.get("_class_name")).startswith("FlowMatch")
    noise = {name: scheduler[name] for name in NOISE if name in scheduler} | (index.get("noise") or {})
    try:
        audioldm = _unet(unet)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{unet_path}: not a U-Net of this recipe ({first_line(error)})") from error
    noise["prediction_type"] = "flow" if is_flow else objective
    settings = {name: index[name] for name in ("refine", "polish", "text_mask") if name in index}
    frames = {"frames": index["frames"]} if "frames" in index else {}
    return {
        "preprocess": (index.get("mel") or {}) | frames,
        "model": settings | {"audioldm": audioldm, "noise_scheduler": noise},
    }


def _unet(config: dict[str, Any]) -> dict[str, Any]:
    """Section `model.audioldm` of a U-Net's config.json."""
    channels, kinds = [int(channel) for channel in config["block_out_channels"]], config["down_block_types"]
    return {
        "in_channels": config["out_channels"],
        "out_channels": config["out_channels"],
        "position_channels": config["in_channels"] - config["out_channels"],
        "model_channels": math.gcd(*channels),
        "channel_mult": [channel // math.gcd(*channels) for channel in channels],
        "attention_resolutions": [2**level for level, kind in enumerate(kinds) if str(kind).startswith("CrossAttn")],
        "num_res_blocks": config["layers_per_block"],
        "num_heads": config["attention_head_dim"],
        "transformer_depth": config["transformer_layers_per_block"],
        "context_dim": config["cross_attention_dim"],
        "norm_num_groups": config["norm_num_groups"],
    }
