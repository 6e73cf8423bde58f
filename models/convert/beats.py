"""Official BEATs checkpoints -> a folder that `BEATs.from_pretrained` loads.

Tested on fabricated files with the names and shapes of BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2, and with a small
one whose outputs the official code gave; no published file could be opened.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.logging import disable_progress_bar
from torch import Tensor

from sonolume.models.convert import layout
from sonolume.models.convert.amphion import SOURCE_FILE, fill, some
from sonolume.modules.beats import official
from sonolume.modules.beats.beats import BEATs
from sonolume.utils import checkpoint, files
from sonolume.utils.errors import UserError

PATTERN = "BEATs*.pt"
OTHERS = {  # a name that no other kind of file has -> what it is
    "quantize.embedding.weight": "BEATs' tokenizer (Tokenizer_*.pt), which tells no sounds: take a BEATs_*.pt file",
    "fga.reduce_potentials.0.weight": "AudioToken's embedder: the sound encoder that it needs is a BEATs_*.pt file",
    "cls_token": "a vision transformer or AST, not BEATs",
    "quant_conv.weight": "Amphion's autoencoder (amphion-vae)",
    "conv_pre.weight_v": "a HiFi-GAN generator (amphion-hifigan)",
}


def convert(source: Path, folder: Path) -> None:
    """Write a checkpoint as a model folder.

    Args:
        source: the file, or a folder that holds one `BEATs*.pt`.

    Raises:
        UserError: absent, damaged, another network, or not as published.
    """
    path = find(source)
    model = read(path)
    head = f"{model.config.predictor_class} classes" if model.predictor is not None else "no head"
    count = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(f"{path}: BEATs, {count:.1f} M weights, {head}: writing {folder} ...", file=sys.stderr)
    disable_progress_bar()
    with files.atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        files.write_json(temporary / SOURCE_FILE, {"system": "beats", "file": path.name})


def find(source: Path) -> Path:
    """The file that is meant.

    Raises:
        UserError: there is none, or several in the folder.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    if layout.is_model_folder(source):
        raise UserError(f"{source}: is a folder that from_pretrained loads already: nothing to convert")
    found = sorted(source.glob(PATTERN))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{source}: one {PATTERN} is wanted, it holds {names}: name the file")
    return found[0]


def read(path: Path) -> BEATs:
    """The network of an official file, in evaluation mode.

    Raises:
        UserError: as `convert`.
    """
    content = checkpoint.read(path, mapped=True)
    weights = _weights(path, content)
    cfg = content.get("cfg")
    if not isinstance(cfg, dict):
        raise UserError(f"{path}: has BEATs' weights but no 'cfg' beside them: take the file as it was published")
    try:
        settings = official.settings(cfg, weights, content.get("label_dict"))
        with torch.device("meta"):
            model = BEATs(**settings)
        return fill(model, official.weights(weights))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not BEATs as published: {error}") from error


def _weights(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    """What lies under "model", if it is BEATs' by its names."""
    weights = content.get("model", content)
    names = list(weights) if isinstance(weights, dict) else []
    if official.is_beats(names) and all(isinstance(weight, Tensor) for weight in weights.values()):
        return weights
    if "state_dict" in content:
        raise UserError(f"{path}: a training checkpoint of Lightning: the model of a run is its folder pipeline/")
    for name, what in OTHERS.items():
        if any(str(found).endswith(name) for found in names):
            raise UserError(f"{path}: {what}")
    raise UserError(f"{path}: not BEATs: it holds {some(weights if names else content)}")
