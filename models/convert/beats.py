"""Official BEATs checkpoints -> a folder for `BEATs.from_pretrained`.

Tested on fabricated files with the names and shapes of BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2, and on a small
one with outputs of the official code; no published file could be opened.
"""

from pathlib import Path

import torch

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
    """Convert a checkpoint, or the one `BEATs*.pt` of a folder, to a model folder.

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
    """Find the only checkpoint in a file or folder; raises as `convert`."""
    found = layout.find_files(source, PATTERN)
    if len(found) > 1:
        raise UserError(f"{source}: several {PATTERN}: {', '.join(path.name for path in found)}: name the file")
    return found[0]


def read(path: Path) -> BEATs:
    """Read the network of an official file, in eval mode; raises as `convert`."""
    content = checkpoint.read(path, mapped=True)
    weights = content.get("model", content)
    names = [str(name) for name in weights] if isinstance(weights, dict) else []
    if not official.is_beats(names) or not common.is_weights(weights):
        if "state_dict" in content:
            raise UserError(f"{path}: {common.LIGHTNING}")
        other = next((kind for end, kind in OTHERS.items() if any(name.endswith(end) for name in names)), None)
        holds = common.first_names(weights if names else content)
        raise UserError(f"{path}: {other or f'not BEATs: it holds {holds}'}")
    if not isinstance(content.get("cfg"), dict):
        raise UserError(f"{path}: has BEATs' weights but no 'cfg': take the file as it was published")
    try:
        settings = official.settings(content["cfg"], weights, content.get("label_dict"))
        with torch.device("meta"):
            model = BEATs(**settings)
        return common.fill(model, official.weights(weights))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not BEATs as published: {error}") from error
