import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
from sonolume.models.convert.amphion import vae_weights
from sonolume.models.tta.autoencoderkl import model
from sonolume.models.tta.features import MEL_FILE, save_with_mel
from sonolume.utils.errors import UserError

LATENTS = {"4_5_39": [1, 1, 2, 2, 4], "4_10_78": [1, 2, 2, 4]}  # ch_mult of the two published networks
TINY = AutoencoderKLConfig(ch=4, ch_mult=[1, 1], num_res_blocks=1, norm_num_groups=2)


@pytest.mark.parametrize("size", LATENTS)
@torch.no_grad()
def test_equals_the_official_autoencoder(goldens: SimpleNamespace, size: str):
    vae = model.build(AutoencoderKLConfig(ch=32, ch_mult=LATENTS[size])).eval()
    vae.load_state_dict(vae_weights(goldens.weights_for(f"vae_{size}_small")), strict=True)
    golden = goldens.golden(f"vae_{size}_small_T64")
    posterior = vae.encode(goldens.input_for("vae.mel.64", (2, 1, 80, 64))).latent_dist
    goldens.assert_close(posterior.mean, golden["mean"], 1e-5)
    goldens.assert_close(posterior.logvar, golden["logvar"], 1e-5)
    goldens.assert_close(posterior.kl(), golden["kl"], 1e-4)
    z = goldens.input_for(f"vae.z.{size}.64", tuple(golden["mean"].shape))
    goldens.assert_close(vae.decode(z).sample, golden["decoded"], 1e-5)


@pytest.mark.parametrize(("ch_mult", "parameters"), [([1, 1, 2, 2, 4], 62_077_669), ([1, 2, 2, 4], 60_304_101)])
def test_the_published_size(ch_mult: list[int], parameters: int):
    with torch.device("meta"):
        vae = model.build(AutoencoderKLConfig(ch_mult=ch_mult))
    assert sum(weight.numel() for weight in vae.parameters()) == parameters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_with_mel(model.build(TINY), tmp_path / "vae", {"sample_rate": 16000, "frames": 32})
    return tmp_path / "vae"


def test_a_saved_autoencoder_comes_back_frozen(folder: Path):
    torch.manual_seed(0)
    vae = model.load(str(folder))
    assert all(w.equal(v) for w, v in zip(vae.parameters(), model.build(TINY).parameters(), strict=True))
    assert not vae.training and not any(weight.requires_grad for weight in vae.parameters())
    assert json.loads((folder / MEL_FILE).read_text())["frames"] == 32


def test_one_inside_a_pipeline_is_found(tiny_checkpoint: Path):
    assert model.load(str(tiny_checkpoint)).config.latent_channels == 4


def test_what_cannot_be_loaded_is_one_line(folder: Path, tiny_checkpoint: Path, tmp_path: Path):
    def refused(source: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            model.load(str(source))
        assert "\n" not in str(caught.value)

    refused(tmp_path / "absent", "model.autoencoder_path .*absent: no such folder; train it first")
    refused(tiny_checkpoint / "unet", "holds UNet2DConditionModel, not AutoencoderKL")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    refused(folder, "cannot be loaded")
    shutil.rmtree(folder)
    folder.mkdir()
    refused(folder, "holds no exported model")
