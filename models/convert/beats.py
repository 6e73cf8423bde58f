"""Official BEATs checkpoints -> a folder for `BEATs.from_pretrained`.

Tested on fabricated files with the names and shapes of BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2, and on a small
one with outputs of the official code; no published file could be opened.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.models.convert import common, layout
from sonolume.modules.beats import official
from sonolume.modules.beats.beats import BEATs
from sonolume.utils import checkpoint
from sonolume.utils.errors import UserError

PATTERN = "BEATs*.pt"
OTHERS = {  # the name of a weight that only this kind of file has -> the kind
    "quantize.embedding.weight": "BEATs' tokenizer (Tokenizer_*.pt), not the encoder: take a BEATs_*.pt file",
    "fga.reduce_potentials.0.weight": "AudioToken's embedder: its sound encoder is a BEATs_*.pt file",
    "cls_token": "a vision transformer or AST, not BEATs",
    "quant_conv.weight": "Amphion's autoencoder (amphion-vae)",
    "conv_pre.weight_v": "a HiFi-GAN generator (amphion-hifigan)",
}


def convert(source: Path, folder: Path) -> None:
    """Convert a checkpoint to a model folder.

    Args:
        source: the file, or a folder that holds one `BEATs*.pt`.

    Raises:
        UserError: it is missing, ambiguous, damaged, of another network, or not as published.
    """
    path = find(source)
    model = read(path)
    head = f"{model.config.predictor_class} classes" if model.predictor is not None else "no head"
    facts = {"system": "beats", "file": path.name}
    with common.converted_folder(folder, path, f"BEATs, {common.count_weights(model)}, {head}", facts) as temporary:
        model.save_pretrained(temporary)


def find(source: Path) -> Path:
    """Find the only checkpoint in a file or folder.

    Raises:
        UserError: there is none, or there are several.
    """
    found = layout.find_files(source, PATTERN)
    if len(found) > 1:
        raise UserError(f"{source}: several {PATTERN}: {', '.join(path.name for path in found)}: name the file")
    return found[0]


def read(path: Path) -> BEATs:
    """Read the network of an official file, in eval mode.

    Raises:
        UserError: see `convert`.
    """
    content = checkpoint.read(path, mapped=True)
    weights = _weights(path, content)
    cfg = content.get("cfg")
    if not isinstance(cfg, dict):
        raise UserError(f"{path}: has BEATs' weights but no 'cfg': take the file as it was published")
    try:
        settings = official.settings(cfg, weights, content.get("label_dict"))
        with torch.device("meta"):
            model = BEATs(**settings)
        return common.fill(model, official.weights(weights))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not BEATs as published: {error}") from error


def _weights(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    weights = content.get("model", content)
    names = list(weights) if isinstance(weights, dict) else []
    if official.is_beats(names) and common.is_weights(weights):
        return weights
    if "state_dict" in content:
        raise UserError(f"{path}: {common.LIGHTNING}")
    for name, kind in OTHERS.items():
        if any(str(found).endswith(name) for found in names):
            raise UserError(f"{path}: {kind}")
    raise UserError(f"{path}: not BEATs: it holds {common.first_names(weights if names else content)}")
