"""What a clip costs by default and the seed's way: pytest -m benchmark -s tests/benchmarks/test_denoising.py

All presets run in turn on the same networks, with equal type, threads and batch (one clip, two with guidance; a
distilled pipeline has none); that `reference` gives the seed's result is tested with the goldens. Times are processor
time of one thread, since the wall time of a shared machine is noise; on a GPU, wall time.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CALLS = {"turbo": 4, "cached turbo": 4, "balanced": 20, "reference": 201}  # of the U-Net: PNDM repeats its second step
CACHED, INTERVAL = "cached turbo", 2  # with `cache_interval=2`: two of the calls are of the outer layers alone
STAGES = ("text", "denoising", "VAE", "vocoder")
CAPTION = "A bell rings twice, then rain falls"
EPSILON_RUN = Path("ckpts/tta/tiny_epsilon/pipeline")  # trained as the recipe's README says under "Speed"


class Stages:
    """Processor seconds of each stage of one call of the pipeline, and how often the U-Net ran."""

    def __init__(self, pipe: Any) -> None:
        self.batch = 1 if pipe.config.distilled else 2  # with guidance
        self.starts: list[float] = []  # of the U-Net's calls
        self.marks: list[float] = []
        self.handles = [
            pipe.unet.register_forward_pre_hook(self._count),
            pipe.vae.decoder.register_forward_pre_hook(lambda *_: self._mark()),
            pipe.vae.decoder.register_forward_hook(lambda *_: self._mark()),
        ]

    def _mark(self) -> None:
        self.marks.append(time.process_time())

    def _count(self, _: Any, inputs: tuple[Any, ...]) -> None:
        assert len(inputs[0]) == self.batch
        if not self.starts:
            self._mark()
        self.starts.append(time.process_time())

    def __enter__(self) -> "Stages":
        self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._mark()
        for handle in self.handles:
            handle.remove()

    def seconds(self) -> dict[str, float]:
        """By stage."""
        spans = [end - start for start, end in zip(self.marks, self.marks[1:], strict=False)]
        return dict(zip(STAGES, spans, strict=True))

    def calls(self) -> list[float]:
        """Of each U-Net call with the sampler's step after it, but the last."""
        return [end - start for start, end in zip(self.starts, self.starts[1:], strict=False)]


def one_clip(pipe: Any, preset: str, steps: int | None = None) -> Stages:
    import torch

    if preset.endswith("turbo"):
        from sonolume.models.tta.audioldm.distill_task import distilled

        pipe = distilled(pipe, pipe.unet, {"steps": 4, "guidance_scale": 4.0})
    else:
        pipe.use_preset(preset)
    scale = 1.0 if pipe.config.distilled else 4.0
    interval = INTERVAL if preset == CACHED else 1
    with Stages(pipe) as stages:
        pipe(CAPTION, num_inference_steps=steps, guidance_scale=scale, cache_interval=interval,
             generator=torch.Generator().manual_seed(0))  # fmt: skip
    return stages


def interleaved(pipe: Any, runs: int, steps: dict[str, int | None]) -> dict[str, list[Stages]]:
    """`runs` clips with each preset in turn, after a short one that is not counted."""
    one_clip(pipe, "balanced", 2)
    done: dict[str, list[Stages]] = {preset: [] for preset in CALLS}
    for _ in range(runs):
        for preset in CALLS:
            done[preset].append(one_clip(pipe, preset, steps[preset]))
    return done


def medians(runs: list[Stages]) -> dict[str, float]:
    return {stage: statistics.median(run.seconds()[stage] for run in runs) for stage in STAGES}


def show(title: str, table: dict[str, dict[str, float]], print_table: Callable[..., None]) -> None:
    rows = [
        [preset, str(CALLS[preset]), *(f"{spans[stage]:.2f}" for stage in STAGES), f"{sum(spans.values()):.2f}"]
        for preset, spans in table.items()
    ]
    pairs = ("reference", "balanced"), ("balanced", "turbo"), ("balanced", CACHED), ("reference", "turbo")
    for first, second in pairs:
        slow, fast = table[first], table[second]
        ratios = [f"{slow['denoising'] / fast['denoising']:.2f}x", f"{sum(slow.values()) / sum(fast.values()):.2f}x"]
        calls = f"{CALLS[first] / CALLS[second]:.2f}x"
        rows.append([f"{first} / {second}", calls, "", ratios[0], "", "", ratios[1]])
    print_table(title, ["preset", "U-Net calls", *STAGES, "whole clip"], rows)


@pytest.fixture
def one_thread() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here: its table is test_clips_per_second_on_a_gpu")
    torch.set_num_threads(1)


def full_runs(pipe: Any, title: str, runs: int, print_table: Callable[..., None]) -> None:
    done = interleaved(pipe, runs, dict.fromkeys(CALLS, None))
    for preset, calls in CALLS.items():
        assert [len(run.starts) for run in done[preset]] == [calls] * runs
    show(
        f"{title}; processor seconds, median of {runs}",
        {preset: medians(done[preset]) for preset in CALLS},
        print_table,
    )


@pytest.mark.benchmark
def test_miniature(root: Path, print_table: Callable[..., None], one_thread: None) -> None:
    from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
    from sonolume.modules.sampling import preset

    trained = (root / EPSILON_RUN).is_dir()
    folder = root / EPSILON_RUN if trained else root / "pretrained/mini/text_to_audio"
    pipe = TextToAudioPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if not trained:  # the shipped weights predict a velocity: the same networks and the same time, but only noise
        pipe.scheduler = preset("balanced", "epsilon", {})[0]
        pipe.register_to_config(noise={})
    full_runs(pipe, f"the miniature world, 2.56 s ({folder.relative_to(root)})", 5, print_table)


@pytest.mark.benchmark
def test_a_quarter_of_the_published_width(
    build_pipeline: Callable[..., Any], print_table: Callable[..., None], one_thread: None
) -> None:
    title = "latent 4x5x39, 9.984 s, a quarter of all channels, random weights"
    full_runs(build_pipeline(shrink=4), title, 3, print_table)


@pytest.mark.benchmark
def test_published_size(
    build_pipeline: Callable[..., Any], print_table: Callable[..., None], one_thread: None
) -> None:
    """Few steps of each, counted up to the preset's calls: a full run takes four minutes of processor time."""
    calls, count = 8, 2
    done = interleaved(build_pipeline(), count, {"turbo": 4, CACHED: 4, "balanced": calls, "reference": calls - 1})
    table = {}
    for preset, runs in done.items():
        assert [len(run.starts) for run in runs] == [min(calls, CALLS[preset])] * count
        table[preset] = medians(runs)
        interval = INTERVAL if preset == CACHED else 1
        least = [min(min(run.calls()[first::interval]) for run in runs) for first in range(interval)]
        table[preset]["denoising"] = CALLS[preset] * statistics.mean(least)
    title = "latent 4x5x39, 9.984 s, published size, random weights; processor seconds, medians of"
    show(f"{title} {count}; denoising = calls x the least of {(calls - 1) * count}", table, print_table)


@pytest.mark.benchmark
def test_clips_per_second_on_a_gpu(build_pipeline: Callable[..., Any], print_table: Callable[..., None]) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is false")
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        pipe = build_pipeline().to("cuda", dtype)
        kind = str(dtype).removeprefix("torch.")
        rows += [gpu_row(pipe, f"reference, {kind}", "reference"), gpu_row(pipe, f"balanced, {kind}", "balanced")]
    pipe.unet.compile(dynamic=False)
    rows.append(gpu_row(pipe, "balanced, bfloat16, torch.compile", "balanced"))
    title = f"{torch.cuda.get_device_name()}: clips of 9.984 s per second, whole clip, published size"
    print_table(title, ["", "batch 1", "batch 8", "batch 32", "batch 1, denoising, s", "peak GiB"], rows)


def gpu_row(pipe: Any, name: str, preset: str) -> list[str]:
    import torch

    torch.cuda.reset_peak_memory_stats()
    pipe.use_preset(preset)
    speeds = [f"{batch / gpu_seconds(pipe, batch):.2f}" for batch in (1, 8, 32)]
    denoising = gpu_seconds(pipe, 1, output_type="latent")
    return [name, *speeds, f"{denoising:.3f}", f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"]


def gpu_seconds(pipe: Any, batch: int, runs: int = 3, output_type: str = "pt") -> float:
    """Wall seconds of one batch, median, after a run that is not counted (it compiles, and chooses kernels)."""
    import torch

    times = []
    for _ in range(runs + 1):
        generators = [torch.Generator().manual_seed(number) for number in range(batch)]
        torch.cuda.synchronize()
        start = time.perf_counter()
        pipe([CAPTION] * batch, guidance_scale=4.0, generator=generators, output_type=output_type)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
