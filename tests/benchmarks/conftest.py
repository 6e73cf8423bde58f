"""What the benchmarks share: tables, and text-to-audio networks of the published size with random weights."""

from collections.abc import Callable
from typing import Any

import pytest

FRAMES = 624  # mel frames of a published clip, 9.984 s
VAE_LEVELS = {"4x5x39": [1, 1, 2, 2, 4], "4x10x78": [1, 2, 2, 4]}  # ch_mult of the two published autoencoders


@pytest.fixture(scope="session")
def print_table() -> Callable[[str, list[str], list[list[str]]], None]:
    """print_table(title, header, rows): columns as wide as they need."""

    def show(title: str, header: list[str], rows: list[list[str]]) -> None:
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        print(f"\n\n{title}")
        for row in [header, *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    return show


@pytest.fixture(scope="session")
def build_vae() -> Callable[..., Any]:
    """build_vae(size="4x5x39", shrink=1): the published autoencoder, of 1/shrink of its channels."""

    def build(size: str = "4x5x39", shrink: int = 1) -> Any:
        from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
        from sonolume.models.tta.autoencoderkl import model as autoencoder

        config = AutoencoderKLConfig(ch=128 // shrink, ch_mult=VAE_LEVELS[size], norm_num_groups=32 // shrink)
        return autoencoder.build(config).eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def build_text_encoder() -> Callable[..., Any]:
    """build_text_encoder(shrink=1): t5-base, of 1/shrink of its width; its tokenizer here is ByT5's, without files."""

    def build(shrink: int = 1) -> Any:
        from transformers import T5Config, T5EncoderModel

        config = T5Config(
            vocab_size=32128, d_model=768 // shrink, d_kv=64 // shrink, d_ff=3072 // shrink, num_layers=12, num_heads=12
        )
        return T5EncoderModel(config).eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def build_pipeline(build_vae: Callable[..., Any], build_text_encoder: Callable[..., Any]) -> Callable[..., Any]:
    """build_pipeline(shrink=1): the published 4x5x39 pipeline with HiFi-GAN, of 1/shrink of all channels."""

    def build(shrink: int = 1) -> Any:
        import torch
        from transformers import ByT5Tokenizer, SpeechT5HifiGan, SpeechT5HifiGanConfig

        from sonolume.config.tta.audioldm import AudioLDMConfig, NoiseSchedulerConfig
        from sonolume.models.tta.audioldm.components import build_unet, noise_settings
        from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
        from sonolume.modules.sampling import preset

        torch.manual_seed(0)
        unet = AudioLDMConfig(model_channels=256 // shrink, context_dim=768 // shrink, use_checkpoint=False)
        vocoder = SpeechT5HifiGanConfig(
            upsample_initial_channel=512 // shrink, upsample_rates=[8, 8, 2, 2], upsample_kernel_sizes=[16, 16, 4, 4],
            normalize_before=False,
        )  # fmt: skip
        noise = noise_settings(NoiseSchedulerConfig())
        pipe = TextToAudioPipeline(
            build_vae(shrink=shrink), build_text_encoder(shrink), ByT5Tokenizer(), build_unet(unet).eval(),
            preset("balanced", "epsilon", noise)[0], SpeechT5HifiGan(vocoder).eval(), frames=FRAMES, noise=noise,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return build
