"""Official Im2Wav checkpoints -> the folders that i2a/im2wav exports.

Tested on files with the names, shapes and hyperparameters of the published ones, filled by us, and on small ones with
outputs of the official code; no published file could be opened.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sonolume.models.convert import common, layout
from sonolume.models.i2a.im2wav import parts
from sonolume.modules.im2wav import official
from sonolume.utils.errors import UserError

CLIP = "openai/clip-vit-base-patch32"  # with which the official networks were trained
FPS = 30.0  # which the official code assumes of every video
PATTERNS = {  # network -> published file, then that of a training run of one's own
    "vqvae": ("vqvae.tar", "im2wav_vq/checkpoint_latest.pth.tar"),
    "low": ("low.tar", "im2wav_low/checkpoint_latest.pth.tar"),
    "up": ("up.tar", "im2wav_up/checkpoint_latest.pth.tar"),
}
NUMPY_SCALARS = [  # in the hyperparameters of official files, under the names of numpy 1 and 2
    *((np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType,
]  # fmt: skip
TERMS = (
    "The terms of published weights are yours to check: "
    "the official code derives from code under a non-commercial licence, the data from YouTube"
)

Arguments = Callable[[Mapping[str, Any]], dict[str, Any]]
CONVERSIONS: dict[str, tuple[Arguments, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "vqvae": (official.vqvae_arguments, official.vqvae_weights),
    "low": (official.low_arguments, official.prior_weights),
    "up": (official.up_arguments, official.prior_weights),
}


def convert(sources: Mapping[str, Path], folder: Path) -> None:
    """Convert checkpoints to one folder for `run_inference.sh --checkpoint`.

    Args:
        sources: official file of each network, "vqvae", "low" and "up" or some of them.

    Raises:
        UserError: a file is damaged, of another network, not as published, or does not fit the others.
    """
    networks, hyperparameters = {}, {}
    for name, path in sources.items():
        networks[name], hyperparameters[name] = read(path, name)
    settings = pipeline_settings(hyperparameters, sources)
    sizes = ", ".join(f"{name} {common.count_weights(network)}" for name, network in networks.items())
    facts = {"system": "im2wav", "files": {name: path.name for name, path in sources.items()}, "terms": TERMS}
    with common.converted_folder(folder, next(iter(sources.values())), f"Im2Wav, {sizes}", facts) as temporary:
        parts.save(temporary, networks, settings)
    print(TERMS, file=sys.stderr)


def find(source: Path, name: str) -> Path:
    """Find the official file of one network: the file itself, or in a folder."""
    return layout.find_files(source, *PATTERNS[name])[0]


def read(path: Path, name: str) -> tuple[Any, dict[str, Any]]:
    """Read one network, in the precision of the file, and its hyperparameters; raises as `convert`."""
    with torch.serialization.safe_globals(NUMPY_SCALARS):
        content, weights = common.read_weights(path)
    hyperparameters = content.get("hps")
    if not isinstance(hyperparameters, dict):
        raise UserError(f"{path}: this is {common.kind_of(weights)}, not an Im2Wav checkpoint (no 'hps' in it)")
    found = network_of(weights)
    if found != name:
        hint = f": convert it with im2wav-{found}" if found else ""
        raise UserError(f"{path}: holds {found or common.kind_of(weights)}, not {name}{hint}")
    to_arguments, to_weights = CONVERSIONS[name]
    try:
        with torch.device("meta"):
            network = parts.NETWORKS[name](**to_arguments(hyperparameters))
        return common.fill(network, to_weights(weights)), hyperparameters
    except KeyError as error:
        raise UserError(f"{path}: not as published: its 'hps' has no {error}") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not as published: {error}") from error


def network_of(weights: Mapping[str, Tensor]) -> str | None:
    """Name of the network in a file, by the names of its weights; None for another kind of file."""
    if any(name.startswith("bottleneck.level_blocks.") for name in weights):
        return "vqvae"
    if any(name.startswith("prior.transformer.") for name in weights):
        return "up" if any(name.startswith("conditioner_blocks.") for name in weights) else "low"
    return None


def pipeline_settings(hyperparameters: Mapping[str, Mapping[str, Any]], sources: Mapping[str, Path]) -> dict[str, Any]:
    """Settings of the pipeline; a UserError if the networks are of different sizes."""
    shared = ("sr", "sample_length", "l_bins", "downs_t", "strides_t")
    first, *others = hyperparameters
    for other in others:
        for key in shared:
            values = [hyperparameters[name].get(key) for name in (first, other)]
            values = [list(value) if isinstance(value, tuple) else value for value in values]
            if values[0] != values[1]:
                raise UserError(f"{sources[other]}: {key} {values[1]}, but {sources[first]} has {values[0]}: "
                                "they are of two models")  # fmt: skip
    hps = hyperparameters[first]
    return {
        "clip": CLIP, "sample_rate": hps["sr"], "window": hps["sample_length"], "fps": FPS, "guidance_scale": 3.0,
        "low_overlap": 0.5, "up_overlap": 0.5, "mean_over_clip": True,
    }  # fmt: skip
