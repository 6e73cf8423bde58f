"""Networks of Im2Wav that do not fit each other are refused before anything is trained or sampled."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sonolume.config.i2a import im2wav
from sonolume.config.i2a.im2wav import (
    Config,
    FilmsConfig,
    GenerationOptions,
    LowConfig,
    ModelConfig,
    Stage,
    VqvaeConfig,
)
from sonolume.models.i2a.im2wav import inference, parts, task
from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline, Request
from sonolume.modules.im2wav.losses import LossScales
from sonolume.modules.im2wav.prior import LowPrior
from sonolume.modules.im2wav.vqvae import VQVAE
from sonolume.utils.errors import ConfigError, UserError
from tests.models.i2a.conftest import WINDOW
from tests.runs import change_weights, saved


@pytest.fixture
def copy(tiny_im2wav: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_im2wav, tmp_path / "copy")


def change_settings(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / parts.SETTINGS_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def change_codes(folder: Path) -> None:
    vqvae = VQVAE.from_pretrained(folder / "vqvae")
    vqvae.codebooks[0].codes += 1
    vqvae.save_pretrained(folder / "vqvae")


def rebuild_low(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        settings = {key: value for key, value in LowPrior.load_config(folder / "low").items() if key[0] != "_"}
        LowPrior(**settings | values).save_pretrained(folder / "low")

    return change


def config_for(clip: Path, vqvae: Path, low: Path) -> Config:
    model = ModelConfig(clip=str(clip), vqvae_path=str(vqvae), low_path=str(low))
    data = FilmsConfig(window=WINDOW)
    return Config(recipe="i2a/im2wav", dataset=["mine"], stage=Stage.up, preprocess=data, model=model)


def test_stage_up_takes_the_low_prior_of_its_vqvae(tiny_clip: Path, tiny_im2wav: Path, copy: Path) -> None:
    frozen = task.load_frozen(config_for(tiny_clip, tiny_im2wav, copy))
    assert set(frozen) == {"clip", "vqvae"}
    shutil.rmtree(copy / "vqvae")  # as the converter of the Low prior alone writes
    task.load_frozen(config_for(tiny_clip, tiny_im2wav, copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_codes, "another VQ-VAE"),
        (rebuild_low(image_width=8), "width 8"),
        (change_settings(window=81920), "window 81920"),
        (change_settings(clip_hash="other"), "clip_hash other"),
        (change_settings(fps=None), "damaged: fps"),
        (lambda folder: shutil.rmtree(folder / "low"), "has no low"),
    ],
)
def test_stage_up_refuses_another_low_prior(
    tiny_clip: Path, tiny_im2wav: Path, copy: Path, change: Callable[[Path], None], message: str
) -> None:
    change(copy)
    with pytest.raises(UserError, match=message):
        task.load_frozen(config_for(tiny_clip, tiny_im2wav, copy))


def config_of_low(clip: Path, vqvae: Path, initial: Path) -> Config:
    low = im2wav.LowConfig(width=24, depth=3, heads=2, blocks=8)
    model = ModelConfig(clip=str(clip), vqvae_path=str(vqvae), init_path=str(initial), low=low)
    data = FilmsConfig(window=WINDOW)
    return Config(recipe="i2a/im2wav", dataset=["mine"], stage=Stage.low, preprocess=data, model=model)


def test_a_prior_starts_from_exported_weights(tiny_clip: Path, tiny_im2wav: Path, copy: Path) -> None:
    config = config_of_low(tiny_clip, tiny_im2wav, copy)
    built = task.build_task(config, task.load_frozen(config))
    stored = LowPrior.from_pretrained(copy / "low").state_dict()
    assert all(torch.equal(weight, stored[name]) for name, weight in built.prior.state_dict().items())


def test_a_vqvae_starts_from_exported_weights(tiny_im2wav: Path) -> None:
    shape = im2wav.VqvaeConfig(downs=[4, 1], stride=4, embedding_width=8, codes=32, width=4, depth=1, decay=0.5)
    model = ModelConfig(init_path=str(tiny_im2wav), vqvae=shape)
    config = Config(recipe="i2a/im2wav", dataset=["mine"], stage=Stage.vqvae, model=model)
    built = task.build_task(config, task.load_frozen(config))
    assert parts.tokens_hash(built.vqvae) == parts.tokens_hash(VQVAE.from_pretrained(tiny_im2wav / "vqvae"))
    assert built.vqvae.config.decay == 0.5


def test_decoders_alone_do_not_start_from_other_weights() -> None:
    with pytest.raises(ConfigError, match="init_path"):
        ModelConfig(init_path="some/folder", vqvae=im2wav.VqvaeConfig(decoders_only=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_codes, "another VQ-VAE"),
        (rebuild_low(heads=3), "heads 3"),
        (change_settings(clip_hash="other"), "clip_hash other"),
        (lambda folder: shutil.rmtree(folder / "low"), "has no low"),
    ],
)
def test_other_initial_weights_are_refused(
    tiny_clip: Path, tiny_im2wav: Path, copy: Path, change: Callable[[Path], None], message: str
) -> None:
    change(copy)
    config = config_of_low(tiny_clip, tiny_im2wav, copy)
    with pytest.raises(UserError, match=message):
        task.build_task(config, task.load_frozen(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rebuild_low(image_width=8), "width 16"),
        (rebuild_low(positions=80), "80 positions"),
        (change_settings(clip_hash="other"), "other weights"),
        (rebuild_low(has_null=False), "guidance_dropout 0"),
    ],
)
def test_networks_of_two_models_are_refused(copy: Path, change: Callable[[Path], None], message: str) -> None:
    change(copy)
    with pytest.raises(UserError, match=message):
        inference.load_clip(str(copy), inference.load(str(copy), GenerationOptions(device="cpu", guidance_scale=2.0)))


def test_requests_are_checked_before_sampling(tiny_im2wav: Path) -> None:
    pipe = Im2WavPipeline.from_pretrained(tiny_im2wav, with_up=False)
    longest = 600 * 16000 - 1
    with pytest.raises(ValueError, match="less than 600"):  # its last coarse token ends at 600 s
        pipe.check(Request(torch.zeros(1, 1, 16), [0], longest))
    pipe.check(Request(torch.zeros(1, 1, 16), [0], longest // pipe.vqvae.hops[1] * pipe.vqvae.hops[1]))
    with pytest.raises(ValueError, match="width 8"):
        pipe.check(Request(torch.zeros(1, 1, 8), [0], 16000))


@pytest.mark.parametrize("stage", [Stage.low, Stage.vqvae])  # of the latter, the decoders alone
def test_a_run_resumes_beside_the_tokens_that_it_began_with(stage: Stage, tiny_clip: Path, copy: Path) -> None:
    """The encoders were trained anew at the same path; other decoders there do not matter."""
    vqvae, low = VqvaeConfig(decoders_only=True), LowConfig(width=24, depth=3, heads=2, blocks=8)
    model = ModelConfig(clip=str(tiny_clip), vqvae_path=str(copy), vqvae=vqvae, low=low)
    data = FilmsConfig(window=WINDOW)
    config = Config(recipe="i2a/im2wav", dataset=["mine"], stage=stage, preprocess=data, model=model)

    def build() -> Any:
        built: Any = task.build_task(config, task.load_frozen(config))
        built.scales = LossScales(1.0, 1.0, 1.0)
        return built

    content = saved(build())
    build().on_load_checkpoint(content)
    change_weights(copy / "vqvae", "decoders.")
    build().on_load_checkpoint(content)
    change_weights(copy / "vqvae", "encoders.")
    with pytest.raises(UserError, match="model.vqvae_path .*: these are not the weights that the run began with"):
        build().on_load_checkpoint(content)
