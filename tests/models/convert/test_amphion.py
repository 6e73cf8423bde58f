"""Official networks convert to the same functions, whatever their size; anything else is named as what it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from sonolume.models.convert import amphion
from sonolume.models.convert.amphion import unet_weights
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.models.tta.hifigan import model as hifigan
from sonolume.modules.mel import MelSettings
from sonolume.modules.unet import use_crop_upsampling
from sonolume.utils.errors import UserError

VAE_5 = "autoencoder_kl_debug/checkpoints/step-0445000_loss-0.3306.pt"
VAE_10 = "autoencoder_kl_debug_latent_size_4_10_78/checkpoints/step-0390000_loss-0.2876.pt"
UNET_5 = "audioldm_debug_latent_size_4_5_39/checkpoints/step-0570000_loss-0.2521.pt"
VOCODER = "hifigan_checkpoints/g_01250000"
SIZES = {"vae_4_5_39": 62_077_669, "vae_4_10_78": 60_304_101, "unet": 400_096_004}
NETWORKS = {"vae_4_5_39": "vae", "vae_4_10_78": "vae", "unet": "audioldm", "hifigan": "hifigan"}


def refused(message: str, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "file"), [("4_5_39", VAE_5), ("4_10_78", VAE_10)])
@torch.no_grad()
def test_the_autoencoder(goldens: SimpleNamespace, published: Path, tmp_path: Path, size: str, file: str):
    amphion.convert("vae", published / file, tmp_path / "vae")
    vae = autoencoderkl.load(str(tmp_path / "vae"))
    golden = goldens.golden(f"vae_{size}_small_T64")
    posterior = vae.encode(goldens.input_for("vae.mel.64", (2, 1, 80, 64))).latent_dist
    goldens.assert_close(posterior.mean, golden["mean"], 1e-5)
    goldens.assert_close(vae.decode(goldens.input_for(f"vae.z.{size}.64", golden["mean"].shape)).sample,
                         golden["decoded"], 1e-5)  # fmt: skip
    assert vae.config.scaling_factor == 1 and vae.config.latents_mean is None
    assert json.loads((tmp_path / "vae/mel.json").read_text()) == MelSettings().__dict__ | {"frames": 624}
    assert not [path for path in (tmp_path / "vae").iterdir() if path.suffix not in (".json", ".safetensors", ".md")]


@torch.no_grad()
def test_the_unet(goldens: SimpleNamespace, published: Path, tmp_path: Path):
    amphion.convert("audioldm", published / UNET_5, tmp_path / "unet")
    unet = use_crop_upsampling(UNet2DConditionModel.from_pretrained(tmp_path / "unet")).eval()
    golden, context = goldens.golden("unet_small"), goldens.input_for("unet.ctx.24", (2, 9, 24))
    for height, width in ((5, 39), (10, 78)):
        x = goldens.input_for(f"unet.lat.{height}x{width}", (2, 4, height, width))
        goldens.assert_close(unet(x, golden["t"], context).sample, golden[f"y_{height}x{width}"], 1e-5)
    assert "use_crop_upsampling" in (tmp_path / "unet/README.md").read_text()
    source = json.loads((tmp_path / "unet/source.json").read_text())
    assert source["step"] == 570000 and source["latent"] == "4_5_39"
    assert source["text_mask"] is False and source["noise"]["beta_end"] == 0.012 and source["objective"] == "epsilon"


@pytest.mark.parametrize("config", [True, False])
@torch.no_grad()
def test_the_vocoder(goldens: SimpleNamespace, published: Path, tmp_path: Path, config: bool, capsys: Any):
    """Without a config.json, the published settings."""
    shutil.copytree(published / "hifigan_checkpoints", tmp_path / "run")
    if not config:
        (tmp_path / "run/config.json").unlink()
    amphion.convert("hifigan", tmp_path / "run/g_01250000", tmp_path / "vocoder")
    assert ("assuming the published mel settings" in capsys.readouterr().err) is not config
    vocoder = hifigan.load(str(tmp_path / "vocoder"), "--checkpoint", MelSettings())
    golden = goldens.golden("hifigan_small")
    mel = goldens.log_mel_like("voc.mel.32", (2, 80, 32))
    goldens.assert_close(vocoder(mel.mT), golden["wav_32"][:, 0], 5e-6)
    assert json.loads((tmp_path / "vocoder/mel.json").read_text()) == MelSettings().__dict__


@pytest.mark.parametrize("table", NETWORKS)
def test_every_name_and_shape_of_the_published_size(goldens: SimpleNamespace, tmp_path: Path, table: str):
    """A file with the real names and shapes; each tensor is one number, repeated, so it is small."""
    shapes = json.loads((goldens.AMPHION / f"keys_{table}_real.json").read_text())
    weights = {name: torch.tensor(0.5).expand(shape) for name, shape in shapes.items()}
    path = tmp_path / "step-0000001_loss-1.0.pt"
    torch.save({"generator" if table == "hifigan" else "model": weights, "step": 1}, path)
    assert path.stat().st_size < 1e6
    model = amphion.read(NETWORKS[table], path).model
    if table in SIZES:
        assert sum(weight.numel() for weight in model.parameters()) == SIZES[table]
        assert len(model.state_dict()) == len(shapes)
    name, shape = next(iter(shapes.items()))
    weights[name] = torch.tensor(0.5).expand([*shape[:-1], shape[-1] + 1])
    torch.save({"model": weights}, path)
    refused("not .* as published: ", amphion.read, NETWORKS[table], path)
    del weights[name]
    torch.save({"model": weights}, path)
    refused("it has no ", amphion.read, NETWORKS[table], path)


def test_weights_that_are_dropped_stay_in_the_file(published: Path, monkeypatch: pytest.MonkeyPatch):
    """Files are memory-mapped."""
    asked = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (asked.append(k), load(*a, **k))[1])
    amphion.read("vae", published / VAE_5)
    assert [(k["mmap"], k["weights_only"]) for k in asked] == [(True, True)]


def test_the_official_settings_next_to_it(published: Path, tmp_path: Path):
    path = Path(shutil.copy(published / UNET_5, tmp_path / "step-0000007_loss-1.0.pt"))
    trained = {"audioldm": {"num_heads": 4}, "noise_scheduler": {"beta_end": 0.02, "steps_offset": 1}}
    (tmp_path / "args.json").write_text(json.dumps({"model": trained}))
    converted = amphion.read("audioldm", path)
    assert converted.model.config.attention_head_dim == 4
    assert converted.source["noise"]["beta_end"] == 0.02 and "latent" not in converted.source
    (tmp_path / "args.json").write_text('{"model": ')
    refused("args.json: not valid JSON", amphion.read, "audioldm", path)
    refused("none.json: no such file", amphion.read, "audioldm", path, tmp_path / "none.json")


def test_another_network_is_named(published: Path):
    refused(r"this is Amphion's U-Net \(amphion-audioldm\), not", amphion.read, "vae", published / UNET_5)
    refused(r"this is Amphion's autoencoder \(amphion-vae\), not", amphion.read, "audioldm", published / VAE_5)
    refused(r"this is a HiFi-GAN generator \(amphion-hifigan\)", amphion.read, "vae", published / VOCODER)


def test_other_files_are_named(published: Path, tmp_path: Path):
    path = tmp_path / "file.pt"

    def saved(content: Any, message: str, network: str = "vae") -> None:
        torch.save(content, path)
        refused(message, amphion.read, network, path)

    one = torch.ones(1)
    saved({"mpd": {"a": one}, "msd": {"a": one}}, r"discriminators \(do_\*\): .* in the g_\* file", "hifigan")
    saved({"state_dict": {"a": one}, "pytorch-lightning_version": "2.6"}, "of Lightning: .* its folder pipeline/")
    saved({"epoch": 3, "loss": 0.5}, "no weights under 'model' or 'generator'; it holds epoch, loss")
    saved({"model": {"layer.weight": one}}, "an unknown network with the weights layer.weight, not Amphion's")
    weights = torch.load(published / VAE_5, weights_only=True)["model"]
    saved({"model": weights | {"encoder.mid.attn_1.q.weight": one}}, "mid.attn_1.q.weight: not a weight of Amphion")
    saved({"model": weights | {"quant_conv.bias": torch.full((8,), torch.nan)}}, r"quant_conv.bias contains NaN")
    whole = (published / VAE_5).read_bytes()
    for cut in (len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        refused("cut or damaged, its end is missing", amphion.read, "vae", path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused("a Git LFS pointer, not the file itself", amphion.read, "vae", path)
    path.write_bytes(b"<html>not found</html>")
    refused("file.pt: no checkpoint of PyTorch", amphion.read, "vae", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop_size": 128}, "it has hop_size 256, but 128 in its mel settings"),
        ({"num_mels": 64}, "it has n_mel 80, but 64 in its mel settings"),
        ({"resblock": "2"}, 'resblock "2" of its config.json is not supported'),
        ({"upsample_rates": [8, 8, 4]}, "3 upsample_rates but 4 upsample_kernel_sizes"),
    ],
)
def test_a_vocoder_config_that_does_not_fit(published: Path, tmp_path: Path, change: dict[str, Any], message: str):
    settings = json.loads((published / "hifigan_checkpoints/config.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(settings | change))
    refused(message, amphion.read, "hifigan", published / VOCODER, tmp_path / "other.json")


def test_weights_of_several_gpus_and_bare_ones(published: Path, tmp_path: Path):
    """`module.` in front of every name, no "model" around them, in torch's older format."""
    weights = torch.load(published / UNET_5, weights_only=True)["model"]
    bare = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save(bare, tmp_path / "bare.pt", _use_new_zipfile_serialization=False)
    converted = amphion.read("audioldm", tmp_path / "bare.pt")
    wanted = unet_weights(weights)
    assert all(tensor.equal(wanted[name]) for name, tensor in converted.model.state_dict().items())


def test_the_classes_are_the_libraries_own(published: Path):
    assert type(amphion.read("vae", published / VAE_5).model) is AutoencoderKL
    assert type(amphion.read("audioldm", published / UNET_5).model) is UNet2DConditionModel
