"""Official BEATs checkpoints -> a folder for `BEATs.from_pretrained`.

Tested on fabricated files with the names and shapes of BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2, and on a small
one with outputs of the official code; no published file could be opened.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.models.convert import common, layout
from sonolume.modules.beats.beats import BEATs
from sonolume.utils.errors import UserError

PATTERN = "BEATs*.pt"
TABLE = "self_attn.relative_attention_bias.weight"
SHARED_TABLE = f"encoder.layers.0.{TABLE}"  # one table for all layers, listed in each
CONV = "encoder.pos_conv.0."
WEIGHT_NORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
REQUIRED = ("patch_embedding.weight", CONV, "encoder.layers.0.self_attn.grep_a")  # beginnings of names in every BEATs
SETTINGS = (
    "input_patch_size", "embed_dim", "conv_bias", "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim",
    "encoder_attention_heads", "deep_norm", "conv_pos", "conv_pos_groups", "num_buckets", "max_distance",
)  # fmt: skip
FIXED = {"activation_fn": "gelu", "layer_norm_first": False, "relative_position_embedding": True, "gru_rel_pos": True}


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
    if not all(any(name.startswith(beginning) for name in weights) for beginning in REQUIRED):
        raise UserError(f"{path}: this is {common.kind_of(weights)}, not BEATs")
    if not isinstance(content.get("cfg"), dict):
        raise UserError(f"{path}: has BEATs' weights but no 'cfg': take the file as it was published")
    try:
        with torch.device("meta"):
            model = BEATs(**beats_settings(content["cfg"], weights, content.get("label_dict")))
        return common.fill(model, beats_weights(weights))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not BEATs as published: {error}") from error


def beats_settings(
    cfg: dict[str, Any], weights: dict[str, Tensor], label_map: dict[Any, Any] | None = None
) -> dict[str, Any]:
    """Convert `cfg` to arguments of `BEATs`; the official class has other defaults than its checkpoints.

    Args:
        label_map: index of a class -> its AudioSet id, of finetuned checkpoints.

    Raises:
        ValueError: a setting is missing, or has a value that no published checkpoint has, or the labels are not C.
    """
    missing = [name for name in SETTINGS if name not in cfg]
    if missing:
        raise ValueError(f"its cfg has no {missing[0]}")
    for name, value in FIXED.items():
        if cfg.get(name, value) != value:
            raise ValueError(f"{name} {cfg[name]!r} of its cfg is not supported, only {value!r} is")
    head = weights.get("predictor.weight")
    classes = 0 if head is None else len(head)
    names = {int(index): str(label) for index, label in (label_map or {}).items()} if classes else {}
    if names and sorted(names) != list(range(classes)):
        raise ValueError(f"its label map has {len(names)} classes, its head {classes}")
    labels = [names[index] for index in sorted(names)]
    return {name: cfg[name] for name in SETTINGS} | {"predictor_class": classes, "labels": labels}


def beats_weights(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename official weights to those of `BEATs`, which has one position table and no weight norm.

    Raises:
        ValueError: the tables of two layers differ.
    """
    normed = {CONV + part for pair in WEIGHT_NORMS for part in pair}
    ours = {name: tensor for name, tensor in official.items() if not name.endswith(TABLE) and name not in normed}
    for name, tensor in official.items():
        if name.endswith(TABLE):
            if not tensor.equal(official.get(SHARED_TABLE, tensor)):
                raise ValueError(f"{name} differs from the first layer's, although all layers share one table")
            ours[SHARED_TABLE] = tensor
    for gain, direction in WEIGHT_NORMS:
        if CONV + gain in official and CONV + direction in official:
            v = official[CONV + direction].float()                             # (D, D / groups, k)
            length = v.norm(dim=(0, 1), keepdim=True)                          # (1, 1, k)
            ours[CONV + "weight"] = (official[CONV + gain].float() * v / length).to(official[CONV + gain].dtype)
    return ours
