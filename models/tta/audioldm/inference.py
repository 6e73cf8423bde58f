"""Texts -> wav, spectrogram and json files."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import numpy as np
import torch
import transformers.utils.logging
from PIL import Image
from tqdm import tqdm

from sonolume.config.options import TURBO, SamplingOptions, changed
from sonolume.config.tta.audioldm import Config, InferenceOptions
from sonolume.models import runtime
from sonolume.models.progress import OnStep, Step
from sonolume.models.tta.audioldm import run_config
from sonolume.models.tta.audioldm.pipeline import LONGEST, TextToAudioPipeline
from sonolume.modules import sampling
from sonolume.modules.inpainting import FADE_SECONDS, Spans, default_strength, mask_samples, runs
from sonolume.utils import audio, checkpoint, files, paths
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.image import plot_mel, spectrogram_png
from sonolume.utils.text import message

SHIPPED = "pretrained/mini/text_to_audio"

NOT_WITH_TURBO = (  # guidance is built in there; editing was not measured with it
    "guidance_scale", "guidance_rescale", "guidance_interval", "negative_text", "scheduler", "lora", "init_audio",
)  # fmt: skip
TURBO_STEPS = (1, 2, 4)
NOTED_FLAGS = (  # written to the json as they were given
    "negative_text", "guidance_rescale", "guidance_interval", "window_overlap", "init_audio", "continuation", "lora",
    "dtype", "batch_size", "compile",
)  # fmt: skip

Job = tuple[str, int]  # text and seed


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline for any number of generations, and its own sampler, to which each generation returns."""

    pipe: TextToAudioPipeline
    source: str  # folder or hub id
    scheduler: Any
    num_steps: int

    def choose_sampler(self, options: InferenceOptions) -> None:
        """Switch to the sampler of --preset and --scheduler; by default to turbo, or back to the pipeline's own."""
        preset = default_preset(self.pipe, options)
        if preset != TURBO:
            self.pipe.unload_turbo()
            self.pipe.scheduler = self.scheduler
            self.pipe.register_to_config(num_steps=self.num_steps)
        runtime.choose_sampler(self.pipe, preset, options.scheduler)


def default_preset(pipe: TextToAudioPipeline, options: SamplingOptions) -> str | None:
    """The preset of a command: --preset, else turbo if the pipeline has its LoRA and no flag needs the full sampler.

    None is the pipeline's own sampler. A flag that rules turbo out is named on stderr.
    """
    if options.preset or pipe.turbo_file is None:
        return options.preset
    given = changed(options, NOT_WITH_TURBO)
    if options.num_steps not in (None, *TURBO_STEPS):
        given = [*given, "num_steps"]
    if given:
        runtime.report_no_turbo(options, given[0], "1, 2 or 4")
    return None if given else TURBO


def run(config: Config, options: InferenceOptions) -> None:
    """Generate `num_samples` sounds of every text and print the path of each wav."""
    for path in generate(load_model(config, options), options):
        print(path)


def load_model(config: Config, options: InferenceOptions) -> LoadedModel:
    """Load the pipeline of --checkpoint, with --lora, --device and --dtype."""
    source = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    pipe = load(source, options.device, options.dtype)
    if options.lora is not None:
        from sonolume.models import lora

        lora.load(pipe, options.lora, options.lora_scale)
    runtime.speed_up(pipe.unet)
    if pipe.vocoder is None:
        message(f"{source} has no vocoder: Griffin-Lim reconstructs the waves, at lower quality")
    return LoadedModel(pipe, source, pipe.scheduler, pipe.config.num_steps)


def generate(model: LoadedModel, options: InferenceOptions, on_step: OnStep | None = None) -> Iterator[Path]:
    """Generate `num_samples` sounds of every text; yield the path of each wav, next to a spectrogram and a json."""
    pipe = model.pipe
    model.choose_sampler(options)
    runtime.compile_unet(pipe.unet, options.compile, pipe.device)
    if options.lora is None and not _is_fine_tuned(Path(model.source)):
        runtime.report_unknown_words(pipe.text_encoder, [*options.text, options.negative_text])
    arguments = call_arguments(pipe, options)
    folder = runtime.make_folder(options.output_dir)
    jobs = [(text, options.seed + number) for text in options.text for number in range(options.num_samples)]
    rounds = [jobs[start : start + options.batch_size] for start in range(0, len(jobs), options.batch_size)]
    for number, batch in enumerate(tqdm(rounds, unit="batch", disable=len(rounds) < 2)):
        callbacks = _callbacks(on_step, number, len(rounds)) if on_step else {}
        yield from _generate(model, batch, arguments | callbacks, options, folder)


def _callbacks(on_step: OnStep, number: int, rounds: int) -> dict[str, Any]:
    """Arguments of the pipeline's call that report the steps of the batch `number` of `rounds`."""

    def denoised(pipe: TextToAudioPipeline, step: int, t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        done, latents = number * pipe.num_timesteps + step + 1, tensors["latents"]
        preview = partial(preview_mel, pipe, latents)
        on_step(Step(done, rounds * pipe.num_timesteps, "denoising step", preview))
        return {}

    def vocoded(done: int, total: int) -> None:
        on_step(Step(number * total + done, rounds * total, "vocoder window"))

    return {"callback_on_step_end": denoised, "callback_on_vocoder_window": vocoded}


@torch.no_grad()
def preview_mel(pipe: TextToAudioPipeline, latents: torch.Tensor) -> Image.Image:
    """Decode the first clip of unfinished latents (B, z, h, w) into a picture of its spectrogram."""
    clip = latents[:1, ..., : pipe.config.frames // pipe.factor]
    return plot_mel(pipe.decode_latents(clip)[0].float().cpu().numpy())


def _is_fine_tuned(folder: Path) -> bool:
    """True if a pipeline was trained on captions of other data than the miniature world."""
    path = folder / run_config.FILE
    return path.is_file() and not files.read_json(path).get("preprocess", {}).get("miniworld", {}).get("train_scenes")


def load(where: str, device: str = "auto", dtype: str = "float32", **components: Any) -> TextToAudioPipeline:
    """Load a pipeline from a folder or a hub id.

    Args:
        components: networks that are loaded already, by their names in the pipeline.

    Raises:
        UserError: damaged or of another kind.
    """
    if paths.is_local(where):
        checkpoint.check_folder(Path(where), TextToAudioPipeline.__name__)
    place = runtime.pick_device(device)
    diffusers.utils.logging.disable_progress_bar()  # of loading, which takes a second
    transformers.utils.logging.disable_progress_bar()
    try:
        pipe = TextToAudioPipeline.from_pretrained(where, dtype=runtime.pick_dtype(dtype, place), **components)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: cannot be loaded: {first_line(error)}") from error
    return pipe.to(place)


def call_arguments(pipe: TextToAudioPipeline, options: InferenceOptions) -> dict[str, Any]:
    """Arguments of the pipeline's call, with defaults filled in.

    Raises:
        UserError: --init_audio is not readable, or --continuation has no --duration beyond its end.
    """
    wave, mask = None, options.mask
    if options.init_audio is not None:
        rate = pipe.mel_settings.sample_rate
        wave = audio.load(options.init_audio, rate, seconds=LONGEST + 1)
        if options.continuation:
            seconds = len(wave) / rate
            if options.duration is None or options.duration <= seconds:
                raise UserError(f"--continuation needs a --duration above the {seconds:g} s of {options.init_audio}")
            mask = [*mask, (seconds, None)]
    return {
        "negative_prompt": options.negative_text,
        "num_inference_steps": options.num_steps or pipe.config.num_steps,
        "guidance_scale": pipe.config.guidance_scale if options.guidance_scale is None else options.guidance_scale,
        "guidance_rescale": options.guidance_rescale,
        "guidance_interval": tuple(options.guidance_interval),
        "cache_interval": options.cache_interval or pipe.default_cache_interval,
        "duration": options.duration,
        "window_overlap": options.window_overlap,
        "windows_at_once": options.batch_size,
        "init_audio": wave,
        "strength": options.strength,
        "mask": mask or None,
    }


def _generate(
    model: LoadedModel, jobs: list[Job], arguments: dict[str, Any], options: InferenceOptions, folder: Path
) -> Iterator[Path]:
    """Generate a batch, and write wav, spectrogram and json of each sound."""
    pipe = model.pipe
    texts, seeds = zip(*jobs, strict=True)
    try:
        output = pipe(list(texts), generator=sampling.generators(seeds), **arguments)
    except ValueError as error:
        reason = str(error)
        name = f"--init_audio {options.init_audio}: " if reason.startswith("init_audio ") else ""
        raise UserError(name + reason.removeprefix("init_audio ")) from error
    assert output.mels is not None and output.gains is not None
    if not output.mels.isfinite().all():
        raise UserError(f"the result is NaN with --dtype {options.dtype} at these settings: try float32")
    facts, mel = _describe(pipe, arguments, options, model.source, len(output.audios[0])), pipe.mel_settings
    rows = zip(jobs, output.mels.cpu().numpy(), output.audios, output.gains.tolist(), strict=True)
    for (text, seed), log_mel, wave, gain in rows:
        with runtime.new_result(folder, text, seed, ".wav") as path:
            generated = _generated_part(wave, arguments["mask"], mel.sample_rate)
            level = runtime.save_sound(path, wave, mel.sample_rate, gain, generated)
            spectrogram_png(path.with_suffix(".png"), log_mel, mel.sample_rate, mel.hop_size, mel.fmin, mel.fmax)
            files.write_json(path.with_suffix(".json"), {"text": text, "seed": seed} | facts | level)
        yield path


def _generated_part(wave: np.ndarray, mask: Spans | None, sample_rate: int) -> np.ndarray:
    """Samples of a wave (n,) inside the mask, without the cross-faded ends of its spans; all without a mask."""
    if mask is None:
        return wave
    fade = round(FADE_SECONDS * sample_rate)
    spans = runs(mask_samples(mask, len(wave), sample_rate))
    return np.concatenate([wave[start + fade : end - fade] for start, end in spans])


def _describe(
    pipe: TextToAudioPipeline, arguments: dict[str, Any], options: InferenceOptions, where: str, samples: int
) -> dict[str, Any]:
    """Everything that decides the sounds except text and seed, for the json."""
    rate, mask = pipe.mel_settings.sample_rate, arguments["mask"]
    kept = [] if mask is None else runs(~mask_samples(mask, samples, rate))
    flags = {name: getattr(options, name) for name in NOTED_FLAGS}
    return runtime.describe(
        model=where,
        **{name: str(value) if isinstance(value, Path) else value for name, value in flags.items()},
        num_steps=arguments["num_inference_steps"],
        guidance_scale=arguments["guidance_scale"],
        cache_interval=arguments["cache_interval"],
        scheduler=type(pipe.scheduler).__name__,
        preset=None if options.scheduler else TURBO if pipe.config.distilled else options.preset or "balanced",
        duration=samples / rate,
        strength=None if options.init_audio is None else default_strength(options.strength, mask),
        mask=mask,
        kept=[[start / rate, end / rate] for start, end in kept],
        lora_scale=None if options.lora is None else options.lora_scale,
        sample_rate=rate,
        vocoder="Griffin-Lim" if pipe.vocoder is None else type(pipe.vocoder).__name__,
        refine=0 if pipe.vocoder is None else pipe.config.refine,
        device=str(pipe.device),
    )
