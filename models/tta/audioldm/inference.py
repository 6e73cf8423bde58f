"""Texts -> wav, spectrogram and json files."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import transformers.utils.logging
from tqdm import tqdm

from sonolume.config.tta.audioldm import Config
from sonolume.models import inference
from sonolume.models.tta.audioldm.pipeline import LONGEST, TextToAudioPipeline
from sonolume.modules.inpainting import given_strength, renewed_samples, spans_of
from sonolume.utils import audio, checkpoint, files, hub
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.spectrogram import spectrogram_png

SHIPPED = "pretrained/mini/text_to_audio"


def run(config: Config, args: argparse.Namespace) -> None:
    """Generate `num_samples` sounds of every text and print the path of each wav."""
    texts = read_texts(args.text, args.text_file)
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    pipe = load(where, args.device, args.dtype)
    _choose_sampler(pipe, args)
    if args.lora is not None:
        from sonolume.models import lora

        lora.load(pipe, args.lora, args.lora_scale)
    options = read_options(pipe, args)
    if pipe.vocoder is None:
        print(f"{where} has no vocoder: Griffin-Lim makes the waves, which sounds hollow", file=sys.stderr)
    folder = inference.make_folder(args.output_dir)
    jobs = [(text, args.seed + number) for text in texts for number in range(args.num_samples)]
    rounds = list(batches(jobs, args.batch_size, apart=not pipe.config.text_mask))
    for batch in tqdm(rounds, unit="batch", disable=len(rounds) < 2):
        _generate(pipe, batch, options, where, folder, args)


def batches(jobs: list[tuple[str, int]], size: int, apart: bool) -> Iterator[list[tuple[str, int]]]:
    """At most `size` jobs (text, seed) at once.

    Args:
        apart: no two texts in one batch: without a mask, the shorter would hear the longer one's padding.
    """
    groups = itertools.groupby(jobs, key=lambda job: job[0] if apart else None)
    for _, group in groups:
        same = list(group)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def read_texts(given: list[str] | None, file: Path | None) -> list[str]:
    """Texts from flags and from a file, one a line.

    Raises:
        UserError: none at all, an empty one, or a file that is not UTF-8 text.
    """
    texts = list(given or [])
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"--text_file {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--text_file {file}: not UTF-8 text (byte {error.start})") from error
        texts += [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError('tta/audioldm needs --text "..." (or --text_file FILE)')
    if not all(text.strip() for text in texts):
        raise UserError("--text is empty: say what should be heard")
    return texts


def load(where: str, device: str = "auto", dtype: str = "float32") -> TextToAudioPipeline:
    """A pipeline from a folder or a hub id.

    Raises:
        UserError: damaged or of another kind.
    """
    if hub.is_local(where):
        checkpoint.check_folder(Path(where), TextToAudioPipeline.__name__)
    place = inference.pick_device(device)
    if dtype == "float16" and place.type == "cpu":
        raise UserError("--dtype float16 is for GPUs: on a CPU use bfloat16 or float32")
    diffusers.utils.logging.disable_progress_bar()  # of loading, which takes a second; denoising keeps its own
    transformers.utils.logging.disable_progress_bar()
    try:
        pipe = TextToAudioPipeline.from_pretrained(where, dtype=inference.DTYPES[dtype])
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: cannot be loaded: {first_line(error)}") from error
    return pipe.to(place)


def _choose_sampler(pipe: TextToAudioPipeline, args: argparse.Namespace) -> None:
    try:
        if args.preset:
            pipe.use_preset(args.preset)
        if args.scheduler:
            pipe.use_scheduler(args.scheduler)
    except ValueError as error:
        raise UserError(str(error)) from error


def read_options(pipe: TextToAudioPipeline, args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say, as arguments of the pipeline's call.

    Raises:
        UserError: --init_audio is not readable, or --continuation without a --duration beyond its end.
    """
    wave, mask = None, args.mask
    if args.init_audio is not None:
        rate = pipe.mel_settings.sample_rate
        wave = audio.load(args.init_audio, rate, seconds=LONGEST + 1)
        if args.continuation:
            seconds = len(wave) / rate
            if args.duration is None or args.duration <= seconds:
                raise UserError(f"--continuation needs a --duration above the {seconds:g} s of {args.init_audio}")
            mask = [*(mask or []), (seconds, None)]
    return {
        "negative_prompt": args.negative_text,
        "num_inference_steps": args.num_steps or pipe.config.num_steps,
        "guidance_scale": pipe.config.guidance_scale if args.guidance_scale is None else args.guidance_scale,
        "guidance_rescale": args.guidance_rescale,
        "guidance_interval": tuple(args.guidance_interval),
        "duration": args.duration,
        "window_overlap": args.window_overlap,
        "windows_at_once": args.batch_size,
        "init_audio": wave,
        "strength": args.strength,
        "mask": mask,
    }


def _generate(
    pipe: TextToAudioPipeline,
    jobs: list[tuple[str, int]],
    options: dict[str, Any],
    where: str,
    folder: Path,
    args: argparse.Namespace,
) -> None:
    generators = [inference.generators(seed, 1)[0] for _, seed in jobs]
    try:
        made = pipe([text for text, _ in jobs], generator=generators, **options)
    except ValueError as error:
        reason = str(error)
        about = f"--init_audio {args.init_audio}: " if reason.startswith("init_audio ") else ""
        raise UserError(about + reason.removeprefix("init_audio ")) from error
    mels: Any = made.mels
    gains: Any = made.gains
    if not mels.isfinite().all():
        raise UserError(f"{where}: gave no numbers (NaN) with --dtype {args.dtype} at these settings: try float32")
    settings = pipe.mel_settings
    for (text, seed), mel, wave, gain in zip(jobs, mels.cpu().numpy(), made.audios, gains.tolist(), strict=True):
        path = inference.result_path(folder, text, seed, ".wav")
        level = inference.save_sound(path, wave, settings.sample_rate, gain)
        spectrogram_png(
            path.with_suffix(".png"), mel, settings.sample_rate, settings.hop_size, settings.fmin, settings.fmax
        )
        facts = _describe(pipe, options, args, len(wave))
        files.write_json(path.with_suffix(".json"), {"text": text, "seed": seed, "model": where} | facts | level)
        print(path)


def _describe(
    pipe: TextToAudioPipeline, options: dict[str, Any], args: argparse.Namespace, samples: int
) -> dict[str, Any]:
    """The json beside a sound: everything that decided it."""
    rate, mask, edited = pipe.mel_settings.sample_rate, options["mask"], args.init_audio is not None
    kept = [] if mask is None else spans_of(~renewed_samples(mask, samples, rate))
    return inference.describe(
        negative_text=args.negative_text,
        num_steps=options["num_inference_steps"],
        guidance_scale=options["guidance_scale"],
        guidance_rescale=args.guidance_rescale,
        guidance_interval=list(args.guidance_interval),
        scheduler=type(pipe.scheduler).__name__,
        preset=None if args.scheduler else args.preset or "balanced",
        duration=samples / rate,
        window_overlap=args.window_overlap,
        init_audio=str(args.init_audio) if edited else None,
        strength=given_strength(args.strength, mask) if edited else None,
        mask=mask,
        continuation=args.continuation,
        kept=[[start / rate, end / rate] for start, end in kept],
        lora=None if args.lora is None else str(args.lora),
        lora_scale=None if args.lora is None else args.lora_scale,
        sample_rate=rate,
        vocoder="Griffin-Lim" if pipe.vocoder is None else type(pipe.vocoder).__name__,
        polish=0 if pipe.vocoder is None else pipe.config.polish,
        dtype=args.dtype,
        device=str(pipe.device),
        batch_size=args.batch_size,
    )
