"""A Stable Diffusion of a few thousand random weights."""

from collections.abc import Callable
from pathlib import Path

import pytest

WIDTH = 32  # of the text encoder


def write_tokenizer(folder: Path, longest: int = 77) -> None:
    """CLIP's own class on a vocabulary of letters; files written by hand, so that no hub is asked."""
    from transformers import CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789,.<>*!?'-"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], pad_token="<|endoftext|>",
        model_max_length=longest,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)


def make_stable_diffusion(folder: Path, prediction: str = "epsilon", width: int = WIDTH) -> Path:
    """A folder of a stock StableDiffusionPipeline; pictures of 32 x 32."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    write_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 16), layers_per_block=1, cross_attention_dim=width, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    vae.quant_conv.weight.data[4:], vae.quant_conv.bias.data[4:] = 0, -20  # small variance, as in trained ones
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        prediction_type=prediction,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae, CLIPTextModel(text).eval(), tokenizer, unet, scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,  # type: ignore[arg-type]
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock Stable Diffusion folder of random weights, 32 wide, pictures of 32 x 32; tests copy it to damage it."""
    return make_stable_diffusion(tmp_path_factory.mktemp("stable diffusion") / "tiny")


@pytest.fixture(scope="session")
def build_stable_diffusion() -> Callable[..., Path]:
    """build_stable_diffusion(folder, prediction="epsilon", width=32)."""
    return make_stable_diffusion


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(main, *argv): the one line with which a command fails."""
    from sonolume.utils import cli

    def call(main: Callable[..., None], *argv: str) -> str:
        capsys.readouterr()
        assert cli.run(main, list(argv)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert "Traceback" not in "".join(lines) and [line for line in lines if line.startswith("error")] == lines[-1:]
        return lines[-1]

    return call
