"""Official BEATs checkpoints -> a folder for `BEATs.from_pretrained`.

Tested on fabricated files with the names and shapes of BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2, and on a small
one with outputs of the official code; no published file could be opened.
"""

from pathlib import Path

import torch

from sonolume.models.convert import common, layout
from sonolume.modules.beats import official
from sonolume.modules.beats.beats import BEATs
from sonolume.utils.errors import UserError

PATTERN = "BEATs*.pt"


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
    content, weights = common.read_weights(path)
    if not official.is_beats(list(weights)):
        raise UserError(f"{path}: this is {common.kind_of(weights)}, not BEATs")
    if not isinstance(content.get("cfg"), dict):
        raise UserError(f"{path}: has BEATs' weights but no 'cfg': take the file as it was published")
    try:
        settings = official.settings(content["cfg"], weights, content.get("label_dict"))
        with torch.device("meta"):
            model = BEATs(**settings)
        return common.fill(model, official.weights(weights))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not BEATs as published: {error}") from error
