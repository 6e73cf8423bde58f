"""Conversion of official Im2Wav checkpoints: hyperparameters (`hps`) to arguments, and names of weights.

The converted weights pass a strict `load_state_dict` of the network built with the converted arguments.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TIED = ("prior.x_emb.weight", "prior.x_out.weight")  # one tensor under two names
RENAMES = (  # applied in turn
    (r"^module\.", ""),
    (r"^bottleneck\.level_blocks\.(\d+)\.k$", r"codebooks.\1.codes"),
    (r"^(encoders\.\d+)\.level_blocks\.(\d+)\.model\.", r"\1.\2."),
    (r"^(decoders\.\d+)\.level_blocks\.(\d+)\.model\.", r"\1.stages.\2."),
    (r"^conditioner_blocks\.0\.cond\.model\.", "conditioner.upsampler."),
    (r"^conditioner_blocks\.0\.x_emb\.", "conditioner.tokens."),
    (r"^conditioner_blocks\.0\.ln\.", "conditioner.norm."),
    (r"\.[01]\.(?:model|blocks)\.(\d+)\.model\.1\.", r".blocks.\1.conv1."),
    (r"\.[01]\.(?:model|blocks)\.(\d+)\.model\.3\.", r".blocks.\1.conv2."),
    (r"^(encoders\.\d+\.\d+\.\d+)\.0\.(\w+)$", r"\1.conv.\2"),
    (r"^(decoders\.\d+\.stages\.\d+\.\d+|conditioner\.upsampler\.\d+)\.1\.(\w+)$", r"\1.conv.\2"),
    (r"^y_emb\.clip_map\.sequential\.0\.", "conditioner.start.fc1."),
    (r"^y_emb\.clip_map\.sequential\.3\.", "conditioner.start.fc2."),
    (r"^y_emb\.video_map\.sequential\.0\.", "conditioner.frames.fc1."),
    (r"^y_emb\.video_map\.sequential\.3\.", "conditioner.frames.fc2."),
    (r"^y_emb\.total_length_emb\.emb\.", "conditioner.total.table."),
    (r"^y_emb\.(absolute|relative)_pos_emb\.emb\.", r"conditioner.\1.table."),
    (r"^y_emb\.null_CLIP$", "conditioner.null_start"),
    (r"^y_emb\.null_video_CLIP$", "conditioner.null_frame"),
    (r"^prior\.x_emb\.", "transformer.tokens."),
    (r"^prior\.pos_emb\.pos_emb$", "transformer.places"),
    (r"^prior\.transformer\._attn_mods\.", "transformer.blocks."),
    (r"\.ln_0\.", ".norm1."),
    (r"\.ln_1\.", ".norm2."),
    (r"\.attn\.c_attn\.", ".attention.qkv."),
    (r"\.attn\.c_proj\.", ".attention.out."),
    (r"\.mlp\.c_fc\.", ".mlp.0."),
    (r"\.mlp\.c_proj\.", ".mlp.2."),
    (r"\.w$", ".weight"),
    (r"\.b$", ".bias"),
)


def rename(name: str) -> str:
    """Convert the name of a weight; unknown names stay unchanged, so that a strict load rejects them."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def vqvae_weights(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of `VQVAE`; running counts, absent from the file, are 1 (see `Codebook.set_codes`)."""
    weights = {rename(name): tensor for name, tensor in official.items()}
    for name in [name for name in weights if re.fullmatch(r"codebooks\.\d+\.codes", name)]:
        codebook, codes = name.removesuffix("codes"), weights[name]
        weights |= {f"{codebook}sums": codes.clone(), f"{codebook}counts": codes.new_ones(len(codes))}
        weights[f"{codebook}initialised"] = torch.tensor(True)
    return weights


def prior_weights(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of `LowPrior` or `UpPrior`; the file stores linear layers as (in, out).

    Raises:
        ValueError: the output layer is not the token embedding.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in official.items()}
    output = plain.pop(TIED[1], None)
    if output is not None and not output.equal(plain[TIED[0]]):
        raise ValueError(f"{TIED[1]} differs from {TIED[0]}: the networks here have one table for both")
    return {rename(name): tensor.T if name.endswith(".w") else tensor for name, tensor in plain.items()}


def vqvae_arguments(hps: Mapping[str, Any]) -> dict[str, Any]:
    """Convert hyperparameters to arguments of `VQVAE`.

    Raises:
        KeyError: a hyperparameter is missing.
        ValueError: a hyperparameter has a value that the networks here do not support.
    """
    _check(hps, {"m_conv": 1.0, "dilation_cycle": None, "vqvae_reverse_decoder_dilation": True,
                 "hvqvae_multipliers": None, "use_bottleneck": True, "levels": len(hps["downs_t"])})  # fmt: skip
    return {
        "downs": tuple(hps["downs_t"]),
        "stride": _only(hps["strides_t"]),
        "embedding_width": hps["emb_width"],
        "codes": hps["l_bins"],
        "width": hps["width"],
        "depth": hps["depth"],
        "dilation_growth": hps["dilation_growth_rate"],
        "decay": hps["l_mu"],
        "restart_threshold": hps["revival_threshold"],
    }


def low_arguments(hps: Mapping[str, Any]) -> dict[str, Any]:
    """Convert hyperparameters to arguments of `LowPrior`; raises as `vqvae_arguments`."""
    _check(hps, {"level": hps["levels"] - 1, "video_clip_emb": True})
    return _prior_arguments(hps) | {
        "time_bins": hps["t_bins"],
        "min_seconds": hps["min_duration"],
        "max_seconds": hps["max_duration"],
        "sample_rate": hps["sr"],
    }


def up_arguments(hps: Mapping[str, Any]) -> dict[str, Any]:
    """Convert hyperparameters to arguments of `UpPrior`; raises as `vqvae_arguments`."""
    _check(hps, {"level": 0, "video_clip_emb": False, "cond_m_conv": 1.0, "cond_res_scale": False})
    return _prior_arguments(hps) | {
        "rates": tuple([hps["strides_t"][1]] * hps["downs_t"][1]),
        "conv_width": hps["cond_width"],
        "conv_depth": hps["cond_depth"],
        "dilation_growth": hps["cond_dilation_growth_rate"],
        "dilation_cycle": hps["cond_dilation_cycle"],
    }


def _prior_arguments(hps: Mapping[str, Any]) -> dict[str, Any]:
    _check(hps, {"labels": True, "clip_emb": True, "attn_order": 2, "res_scale": False, "y_cond_as_bias": False,
                 "spread": None, "single_enc_dec": False, "copy_input": False, "merged_decoder": False})  # fmt: skip
    return {
        "codes": hps["l_bins"],
        "positions": hps["n_ctx"],
        "width": hps["prior_width"],
        "depth": hps["prior_depth"],
        "heads": hps["heads"],
        "blocks": hps["blocks"],
        "attention_ratio": hps["m_attn"],
        "mlp_ratio": hps["m_mlp"],
        "init_scale": hps["init_scale"],
        "has_null": hps.get("class_free_guidance_prob", -1) >= 0,
    }


def _check(hps: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Check that hyperparameters have their only supported value, the default of checkpoints without them."""
    for name, value in fixed.items():
        if hps.get(name, value) != value:
            raise ValueError(f"{name} {hps[name]!r} of the checkpoint is not supported, only {value!r}")


def _only(strides: list[int]) -> int:
    if len(set(strides)) != 1:
        raise ValueError(f"strides_t {strides} of the checkpoint are not supported: they must be equal")
    return strides[0]
