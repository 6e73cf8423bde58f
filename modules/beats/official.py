"""Conversion of official BEATs checkpoints: settings and names of weights."""

import re
from typing import Any

from torch import Tensor

TABLE = "self_attn.relative_attention_bias.weight"
SHARED_TABLE = f"encoder.layers.0.{TABLE}"  # one table for all layers, listed in each
CONV = "encoder.pos_conv.0."
WEIGHT_NORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
SETTINGS = (
    "input_patch_size", "embed_dim", "conv_bias", "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim",
    "encoder_attention_heads", "deep_norm", "conv_pos", "conv_pos_groups", "num_buckets", "max_distance",
)  # fmt: skip
FIXED = {"activation_fn": "gelu", "layer_norm_first": False, "relative_position_embedding": True, "gru_rel_pos": True}


def settings(
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


def weights(official: dict[str, Tensor]) -> dict[str, Tensor]:
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


def is_beats(names: list[str]) -> bool:
    """Whether the names are those of BEATs: patches, a position convolution, and gates."""
    patterns = (r"patch_embedding\.weight", r"encoder\.pos_conv\.0\.", r"encoder\.layers\.0\.self_attn\.grep_a")
    return all(any(re.match(pattern, name) for name in names) for pattern in patterns)
