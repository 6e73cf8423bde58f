"""Texts -> wav, spectrogram and json files."""

import argparse
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import transformers.utils.logging
from tqdm import tqdm

from sonolume.config.tta.audioldm import Config
from sonolume.models import inference
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.utils import audio, checkpoint, files, parts
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.spectrogram import spectrogram_png

SHIPPED = "pretrained/mini/text_to_audio"


def run(config: Config, args: argparse.Namespace) -> None:
    """Generate `num_samples` sounds of every text and print the path of each wav."""
    texts = read_texts(args.text, args.text_file)
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    pipe = load(where, args.device, args.dtype)
    _choose_sampler(pipe, args)
    folder = inference.make_folder(args.output_dir)
    jobs = [(text, args.seed + number) for text in texts for number in range(args.num_samples)]
    for start in tqdm(range(0, len(jobs), args.batch_size), unit="batch", disable=len(jobs) <= args.batch_size):
        _generate(pipe, jobs[start : start + args.batch_size], where, folder, args)


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
    if parts.is_local(where):
        checkpoint.check_folder(Path(where), TextToAudioPipeline.__name__)
    diffusers.utils.logging.disable_progress_bar()  # of loading, which takes a second; denoising keeps its own
    transformers.utils.logging.disable_progress_bar()
    try:
        pipe = TextToAudioPipeline.from_pretrained(where, dtype=inference.DTYPES[dtype])
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: cannot be loaded: {first_line(error)}") from error
    return pipe.to(inference.pick_device(device))


def _choose_sampler(pipe: TextToAudioPipeline, args: argparse.Namespace) -> None:
    try:
        if args.preset:
            pipe.use_preset(args.preset)
        if args.scheduler:
            pipe.use_scheduler(args.scheduler)
    except ValueError as error:
        raise UserError(str(error)) from error


def _generate(
    pipe: TextToAudioPipeline, jobs: list[tuple[str, int]], where: str, folder: Path, args: argparse.Namespace
) -> None:
    generators = [inference.generators(seed, 1)[0] for _, seed in jobs]
    try:
        mels: Any = pipe(
            [text for text, _ in jobs],
            negative_prompt=args.negative_text,
            num_inference_steps=args.num_steps,
            guidance_scale=args.guidance_scale,
            duration=args.duration,
            generator=generators,
            output_type="mel",
        ).audios
    except ValueError as error:
        raise UserError(str(error)) from error
    if not mels.isfinite().all():
        raise UserError(f"{where}: gave no numbers (NaN) with --dtype {args.dtype} at these settings: try float32")
    samples = round((args.duration or pipe.duration) * pipe.mel_settings.sample_rate)
    for (text, seed), mel, wave in zip(jobs, mels, pipe.vocode(mels)[:, :samples], strict=True):
        path = inference.result_path(folder, text, seed, ".wav")
        settings = pipe.mel_settings
        audio.save_wav(path, wave.cpu().numpy(), settings.sample_rate)
        spectrogram_png(
            path.with_suffix(".png"),
            mel.cpu().numpy(),
            settings.sample_rate,
            settings.hop_size,
            settings.fmin,
            settings.fmax,
        )
        facts = inference.describe(
            text=text,
            negative_text=args.negative_text,
            seed=seed,
            num_steps=args.num_steps or pipe.config.num_steps,
            guidance_scale=pipe.config.guidance_scale if args.guidance_scale is None else args.guidance_scale,
            scheduler=type(pipe.scheduler).__name__,
            preset=None if args.scheduler else args.preset or "balanced",
            duration=samples / pipe.mel_settings.sample_rate,
            sample_rate=pipe.mel_settings.sample_rate,
            vocoder="Griffin-Lim" if pipe.vocoder is None else type(pipe.vocoder).__name__,
            dtype=args.dtype,
            model=where,
        )
        files.write_json(path.with_suffix(".json"), facts)
        print(path)
