"""Every official name and hyperparameter has its place in our networks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sonolume.modules.im2wav import official
from sonolume.modules.im2wav.prior import LowPrior, UpPrior
from sonolume.modules.im2wav.vqvae import VQVAE

NETWORKS = {
    "vqvae": (VQVAE, official.vqvae_arguments),
    "low": (LowPrior, official.low_arguments),
    "up": (UpPrior, official.up_arguments),
}


@pytest.mark.parametrize(
    ("part", "names", "parameters"), [("vqvae", 306, 448_770), ("low", 592, 157_344_768), ("up", 720, 203_056_640)]
)
def test_the_published_sizes(im2wav: SimpleNamespace, part: str, names: int, parameters: int):
    """The defaults too; without memory, on the meta device."""
    network, arguments = NETWORKS[part]
    shapes = im2wav.shapes(f"real.{part}")
    assert len(shapes) == names
    table = shapes.pop("prior.x_out.weight", None)
    assert part == "vqvae" or table == shapes["prior.x_emb.weight"]
    with torch.device("meta"):
        ours = network(**arguments(im2wav.hyperparameters(f"real.{part}")))
        weights = {f"module.{name}": torch.empty(shape) for name, shape in shapes.items()}
        weights = (official.vqvae_weights if part == "vqvae" else official.prior_weights)(weights)
        ours.load_state_dict(weights, strict=True, assign=True)
        default = network()
    assert sum(weight.numel() for weight in ours.parameters()) == parameters
    assert {key: value.shape for key, value in default.state_dict().items()} == {
        key: value.shape for key, value in ours.state_dict().items()
    }
    given = arguments(im2wav.hyperparameters(f"real.{part}"))
    assert {key: default.config[key] for key in given} == given


def test_linear_layers_are_transposed_and_half_precision_is_read(im2wav: SimpleNamespace, low: LowPrior):
    weights = im2wav.weights_for("small.low")
    name = "prior.transformer._attn_mods.2.attn.c_attn.w"
    halved = weights | {name: weights[name].half()}
    again = LowPrior.from_config(low.config)
    again.load_state_dict(official.prior_weights(halved))
    qkv = again.transformer.blocks[2].attention.qkv.weight
    assert qkv.shape == (48, 64) and torch.equal(qkv, weights[name].half().float().T)


def test_the_output_layer_must_be_the_embedding(im2wav: SimpleNamespace):
    weights = im2wav.weights_for("small.up")
    weights["prior.x_out.weight"] = weights["prior.x_out.weight"] + 1
    with pytest.raises(ValueError, match="x_out"):
        official.prior_weights(weights)


def test_an_unknown_name_is_not_lost(low: LowPrior):
    assert official.rename("prior.something.new") == "prior.something.new"
    with pytest.raises(RuntimeError, match="something"):
        low.load_state_dict(official.prior_weights({"prior.something.new": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("low", {"attn_order": 0}, "attn_order"),
        ("low", {"video_clip_emb": False}, "video_clip_emb"),
        ("up", {"level": 1}, "level"),
        ("vqvae", {"dilation_cycle": 2}, "dilation_cycle"),
        ("vqvae", {"strides_t": [2, 4]}, "strides_t"),
    ],
)
def test_other_architectures(im2wav: SimpleNamespace, part: str, change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        NETWORKS[part][1](im2wav.hyperparameters(f"small.{part}") | change)


def test_older_checkpoints_name_fewer_hyperparameters(im2wav: SimpleNamespace):
    hps = im2wav.hyperparameters("real.up")
    full = official.up_arguments(hps)
    for name in ("class_free_guidance_prob", "video_clip_emb"):
        del hps[name]
    assert official.up_arguments(hps) == full and not full["has_null"]
