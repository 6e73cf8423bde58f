"""ControlNet with sounds: a fresh one changes nothing, a trained one does, and one of another width is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from sonolume.bins import inference
from sonolume.models.a2i import loading
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.utils import audio, cli

SOUND = torch.sin(torch.arange(16000) / 10) / 2
STEPS: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np"}


@pytest.fixture
def pipe(tiny_stable_diffusion: Path, formula_encoder: Callable[..., Any]) -> AudioToImagePipeline:
    sd = loading.load_stable_diffusion(str(tiny_stable_diffusion), "x", torch.float32)
    sd.set_progress_bar_config(disable=True)
    return AudioToImagePipeline(formula_encoder(), sd)


def controlnet(pipe: AudioToImagePipeline) -> ControlNetModel:
    torch.manual_seed(0)
    return ControlNetModel.from_unet(pipe.sd.unet, conditioning_embedding_out_channels=(8, 8, 8))  # 4 px a latent one


def draw(pipe: AudioToImagePipeline, **options: Any) -> np.ndarray:
    return pipe([SOUND], generator=torch.Generator().manual_seed(0), **STEPS, **options).images


def test_a_fresh_one_changes_no_pixel_and_another_one_does(pipe: AudioToImagePipeline) -> None:
    plain, sketch = draw(pipe), Image.fromarray(np.eye(64, dtype=np.uint8) * 255).convert("RGB")
    with pytest.raises(ValueError, match="use_controlnet"):
        draw(pipe, control_image=sketch)
    network = controlnet(pipe)
    pipe.use_controlnet(network)
    np.testing.assert_array_equal(draw(pipe, control_image=sketch), plain)
    torch.nn.init.normal_(network.controlnet_mid_block.weight)
    assert np.abs(draw(pipe, control_image=sketch) - plain).max() > 1e-3
    np.testing.assert_array_equal(draw(pipe, control_image=sketch, control_strength=0.0), plain)
    np.testing.assert_array_equal(draw(pipe), plain)
    with pytest.raises(ValueError, match="exclude each other"):
        draw(pipe, control_image=sketch, init_image=sketch)


def test_another_width_is_refused(
    pipe: AudioToImagePipeline, build_stable_diffusion: Callable[..., Path], tmp_path: Path
) -> None:
    other = loading.load_stable_diffusion(str(build_stable_diffusion(tmp_path, width=16)), "x", torch.float32)
    with pytest.raises(ValueError, match="width 16, Stable Diffusion has 32"):
        pipe.use_controlnet(ControlNetModel.from_unet(other.unet, conditioning_embedding_out_channels=(8, 8, 8)))


def test_flags(root: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import UNet2DConditionModel

    audio.save_wav(in_folder / "a.wav", SOUND.numpy(), 16000)
    Image.new("RGB", (80, 60)).save(in_folder / "sketch.png")
    unet: Any = UNet2DConditionModel.from_pretrained(root / "pretrained/mini/stable_diffusion/unet")
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8)).save_pretrained("control")
    given = ["--config", str(root / "egs/a2i/audiotoken/tiny.json"), "--audio", "a.wav", "--num_steps", "1"]
    given += ["--checkpoint", str(root / "pretrained/mini/audiotoken"), "--output_dir", "out", "--device", "cpu"]
    assert cli.run(inference.main, [*given, "--controlnet", "control", "--control_image", "sketch.png"]) == 0
    assert cli.run(inference.main, given) == 0
    first, second = (np.asarray(Image.open(path)) for path in sorted(Path("out").glob("*.png")))
    np.testing.assert_array_equal(first, second)
    capsys.readouterr()
    for wrong, message in (
        (["--controlnet", "control"], "--controlnet needs --control_image"),
        (["--control_image", "sketch.png"], "--control_image needs --controlnet"),
        (["--controlnet", "nowhere/x/y", "--control_image", "sketch.png"], "--controlnet nowhere/x/y: no such folder"),
        (["--controlnet", "out", "--control_image", "sketch.png"], "no exported model"),
    ):
        assert cli.run(inference.main, [*given, *wrong]) == 2
        assert message in capsys.readouterr().err
