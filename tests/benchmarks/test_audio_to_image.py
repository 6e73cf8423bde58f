"""Eight sounds to pictures, ours and the seed's way: pytest -m benchmark -s tests/benchmarks/test_audio_to_image.py

The seed keeps its networks, but calls `from_pretrained` for every picture, which then reads the scheduler and, if the
folder has one, the safety checker; and it draws pictures one by one. We read everything once and draw a batch. Both
sides load the networks once. Same folder, sampler, steps, type and threads, pictures asserted equal. Processor time of
one thread; on a GPU, wall time.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

CLIPS, STEPS = 8, 10
SHIPPED = Path("pretrained/mini/stable_diffusion")


class Token:
    """An encoder that costs nothing and is the same on both sides, so that only the rest is measured."""

    sample_rate, min_seconds, window, prompt, num_tokens = 16000, 0.2, 5.0, "a photo of <*>", 1

    def __init__(self, width: int) -> None:
        from sonolume.models.a2i.sound_encoder import LongSounds

        self.width, self.long_sounds = width, LongSounds.mean

    def to(self, device: Any) -> None:
        """Nothing to move."""

    def use_preset(self, name: str) -> None:
        """The same for all."""

    def encode_audio(self, waves: Sequence[Any]) -> Any:
        import torch

        tokens = [torch.randn(self.width, generator=torch.Generator().manual_seed(int(wave[0]))) for wave in waves]
        return 0.02 * torch.stack(tokens)[:, None]

    def encode_prompt(self, audio_tokens: Any, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Any:
        from sonolume.modules.audiotoken import inject, tokenise

        ids = tokenise(tokenizer, prompts).to(text_encoder.device)
        return inject(text_encoder, ids, audio_tokens.to(text_encoder.device, text_encoder.dtype)).last_hidden_state


def clips() -> list[Any]:
    import torch

    return [torch.full((8000,), 1.0 + number) for number in range(CLIPS)]


def load(folder: Path, device: str, dtype: Any) -> Any:
    from sonolume.models.a2i.loading import load_stable_diffusion
    from sonolume.models.a2i.pipeline import AudioToImagePipeline

    sd = load_stable_diffusion(str(folder), "--stable_diffusion", dtype).to(device)
    sd.set_progress_bar_config(disable=True)
    pipe = AudioToImagePipeline(Token(sd.text_encoder.config.hidden_size), sd)
    pipe.use_preset("reference")
    return pipe


def generators(*seeds: int) -> list[Any]:
    import torch

    return [torch.Generator().manual_seed(seed) for seed in seeds]


def ours(folder: Path, device: str, dtype: Any) -> list[Any]:
    pipe = load(folder, device, dtype)
    return pipe(clips(), num_inference_steps=STEPS, generator=generators(*range(CLIPS))).images


def seeds_way(folder: Path, device: str, dtype: Any) -> list[Any]:
    """As AudioToken's inference.py: networks loaded once, a pipeline built around them for every picture, batch 1."""
    from diffusers import StableDiffusionPipeline

    from sonolume.models.a2i.pipeline import AudioToImagePipeline

    first, images = load(folder, device, dtype), []
    parts = {name: getattr(first, name) for name in ("tokenizer", "text_encoder", "vae", "unet")}
    for number, wave in enumerate(clips()):
        sd = StableDiffusionPipeline.from_pretrained(folder, **parts).to(device)
        sd.set_progress_bar_config(disable=True)
        pipe = AudioToImagePipeline(first.encoder, sd)
        pipe.use_preset("reference")
        images += pipe([wave], num_inference_steps=STEPS, generator=generators(number)).images
    return images


def seconds(device: str) -> float:
    import torch

    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def compare(folder: Path, device: str, dtype: Any, runs: int, tolerance: int) -> list[list[str]]:
    """Rows of the table; the two ways take turns, the least time of each counts."""
    import numpy as np

    times: dict[str, list[float]] = {"the seed's way": [], "ours": []}
    made: dict[str, list[Any]] = {}
    seeds_way(folder, device, dtype) if device != "cpu" else ours(folder, device, dtype)  # not counted
    for _ in range(runs):
        for name, way in (("the seed's way", seeds_way), ("ours", ours)):
            start = seconds(device)
            made[name] = way(folder, device, dtype)
            times[name].append(seconds(device) - start)
    one, other = (np.stack([np.asarray(image).astype(int) for image in images]) for images in made.values())
    difference = int(np.abs(one - other).max())
    assert difference <= tolerance, f"the pictures differ by {difference} of 255"
    best = {name: min(found) for name, found in times.items()}
    rows = [[name, f"{found:.2f}", f"{found / CLIPS:.3f}"] for name, found in best.items()]
    slow, fast = best.values()
    return [*rows, ["ratio", f"{slow / fast:.2f}x", f"largest difference {difference} / 255"]]


@pytest.mark.benchmark
def test_the_shipped_miniature(root: Path, print_table: Callable[..., None]) -> None:
    import torch

    torch.set_num_threads(1)
    rows = compare(root / SHIPPED, "cpu", torch.float32, runs=3, tolerance=1)
    title = f"{SHIPPED}, {CLIPS} clips, PNDM {STEPS} steps, float32, 1 thread; processor seconds, least of 3"
    print_table(title, ["", "all", "a picture"], rows)


@pytest.mark.benchmark
def test_a_safety_checker_is_read_for_every_picture(tmp_path: Path, print_table: Callable[..., None]) -> None:
    """That of Stable Diffusion 1 (CLIP ViT-L/14), which the miniature has not; its file is in the system's cache."""
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPVisionConfig

    torch.set_num_threads(1)
    vision = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                              patch_size=14, projection_dim=768)  # fmt: skip
    with torch.device("meta"):
        checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=768))
    checker.to_empty(device="cpu").save_pretrained(tmp_path / "checker")
    times = []
    for _ in range(4):
        start = time.process_time()
        StableDiffusionSafetyChecker.from_pretrained(tmp_path / "checker")
        times.append(time.process_time() - start)
    size = sum(one.numel() for one in checker.parameters()) / 1e6
    row = [f"{size:.0f}", f"{min(times):.2f}"]
    print_table("reading a safety checker, processor seconds", ["M weights", "s"], [row])


@pytest.mark.benchmark
def test_real_size_on_a_gpu(tmp_path: Path, root: Path, print_table: Callable[..., None]) -> None:
    """Shapes of Stable Diffusion 1.x with random weights; the tokenizer is the miniature's."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is false")
    folder = real_size(tmp_path / "sd", root / SHIPPED)
    table = []
    for dtype, tolerance in ((torch.float32, 3), (torch.bfloat16, 32)):
        torch.cuda.reset_peak_memory_stats()
        kind = str(dtype).removeprefix("torch.")
        rows = compare(folder, "cuda", dtype, runs=2, tolerance=tolerance)
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most"
        table += [[kind, *row, peak if row[0] == "ours" else ""] for row in rows]
    title = f"{torch.cuda.get_device_name()}: Stable Diffusion 1.x shapes, {CLIPS} of 512 x 512, PNDM {STEPS} steps"
    print_table(title, ["", "", "all, s", "a picture, s", ""], table)


def real_size(folder: Path, miniature: Path) -> Path:
    """A stock folder of the published sizes (U-Net 860 M, text encoder 123 M, VAE 84 M), random weights."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(miniature / "tokenizer")
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                          bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
                              steps_offset=1)  # fmt: skip
    pipe = StableDiffusionPipeline(vae, CLIPTextModel(text), tokenizer, unet, scheduler, None, None,
                                   requires_safety_checker=False)  # type: ignore[arg-type]  # fmt: skip
    pipe.save_pretrained(folder)
    assert json.loads((folder / "unet" / "config.json").read_text())["cross_attention_dim"] == 768
    return folder
