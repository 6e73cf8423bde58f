"""Evaluate text to audio: one sound for each caption of a test set, scored against real recordings.

In the miniature world, frozen judges of sound score the sounds, next to chance and upper bounds: real renderings of the
same scenes and their reconstructions by the VAE and the vocoder. Recordings are compared by any embedders.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from sonolume.config.tta.audioldm import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation import figures, held_out
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import check, load_all
from sonolume.models.evaluation.folders import score_folder
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.metrics import add_scores_with_baselines
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import SOUND, Files, Samples, generate_files, wave_saver
from sonolume.models.mini import judges
from sonolume.models.tta.audioldm.inference import SHIPPED, load
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import DURATION, WORLD
from sonolume.utils import audio, hub
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError

WORLD_EMBEDDERS = ("mini:sound_judge", "mini:sound_judge_second", "mel:")
DEFAULT_EMBEDDERS = ("mel:",)
CUSTOMARY = "--embedder clap:laion/clap-htsat-unfused --embedder ast:MIT/ast-finetuned-audioset-10-10-0.4593"
MAX_TOKENS = 512


def run(config: Config, options: EvaluationOptions) -> None:
    """Generate and score sounds, or score a folder; write report.json, report.md and sheets of samples."""
    for spec in options.embedder:
        check(spec)
    if options.generated is not None:
        score_folder(options, runtime.pick_device(options.device), options.batch_size)
        return
    where = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    in_world = options.reference is None and held_out.uses_miniworld(config, options.checkpoint, where, SHIPPED)
    pipe = load(where, options.device)
    settings = sampling_settings(pipe, where, options.preset, options.num_steps, options.guidance_scale)
    folder = runtime.make_folder(options.output_dir)
    tests = _held_out(config, options, pipe, folder / "reference", in_world)
    seconds = clip_seconds(pipe, tests)
    embedders = load_all(_embedders(options, in_world), pipe.device)
    for embedder in embedders:
        embedder.require("sounds")
    size = options.batch_size
    made = generate_sounds(pipe, tests, settings, folder / "generated", size, options.seed)
    rebuilt = reconstruct_sounds(pipe, tests, settings, folder / "reconstructed", size)

    conditions = _conditions(tests, made, embedders, options.seed, pipe.mel_settings.sample_rate, seconds)
    sampling = {name: value for name, value in settings.items() if name not in ("model", "versions")}
    facts = {"model": where, "weights": settings["model"], "captions": len(tests.captions), **sampling}
    report = Report(conditions, facts=facts | {"seed": options.seed, "of": tests.source["source"]})
    report.leave_out(tests.left_out)
    if tests.scenes:
        made_mels, *others = (_mels(pipe, files, tests, seconds) for files in (made, rebuilt, tests.sounds))
        judges.add_sound_shares(report, tests.scenes, made_mels, dict(zip(("VAE", "real"), others, strict=True)))
    labels = {} if tests.scenes else tests.labels
    samples = Samples(SOUND, made, tests.sounds, tests.captions, labels)
    cache = options.cache_dir or folder / EMBEDDINGS
    add_scores_with_baselines(report, samples, {"VAE": rebuilt}, embedders, cache, size)
    finish(report, folder, figures.sample_sheets(folder, report, samples))


def _embedders(options: EvaluationOptions, in_world: bool) -> list[str]:
    if not options.embedder and not in_world:
        print(f"scored by mel: only, which is no published metric; customary, if downloading is possible: {CUSTOMARY}",
              file=sys.stderr)  # fmt: skip
    return options.embedder or list(WORLD_EMBEDDERS if in_world else DEFAULT_EMBEDDERS)


def _held_out(
    config: Config, options: EvaluationOptions, pipe: TextToAudioPipeline, folder: Path, in_world: bool
) -> HeldOut:
    """Collect captions that the text encoder can read, with their sounds in `folder`."""
    if in_world:
        return held_out.scenes_with_files(config.preprocess.miniworld, options.num_samples, folder)
    rate, seconds = pipe.mel_settings.sample_rate, pipe.duration
    tests = held_out.recordings(config, options.reference, options.num_samples, folder, rate, seconds)
    return readable(pipe, tests)


def readable(pipe: TextToAudioPipeline, tests: HeldOut) -> HeldOut:
    """Leave out the captions that the text encoder would truncate; raises a UserError if none is left."""
    limit = min(pipe.tokenizer.model_max_length, MAX_TOKENS)
    return tests.without_long_captions(lambda text: len(pipe.tokenizer(text).input_ids), limit, "the text encoder")


def clip_seconds(pipe: TextToAudioPipeline, tests: HeldOut) -> float:
    """Duration of the sounds that are generated: of a scene, else one clip of the pipeline."""
    return DURATION if tests.scenes else pipe.duration


def sampling_settings(
    pipe: TextToAudioPipeline, where: str, preset: str | None, num_steps: int | None, guidance_scale: float | None
) -> dict[str, Any]:
    """Apply a preset, and collect everything that determines a sound besides its caption and seed.

    Raises:
        UserError: an unknown preset.
    """
    if preset:
        try:
            pipe.use_preset(preset)
        except ValueError as error:
            raise UserError(f"--preset: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return {
        "model": _version(where),
        "num_steps": num_steps or pipe.config.num_steps,
        "guidance_scale": pipe.config.guidance_scale if guidance_scale is None else guidance_scale,
        "preset": preset or "the model's",
        "scheduler": type(pipe.scheduler).__name__,
        "versions": runtime.versions(),
    }


def _version(where: str) -> str:
    """Return the hash of all weights and settings of a folder, or the commit of a hub id."""
    if not hub.is_local(where):
        return Path(snapshot_download(where, local_files_only=True)).name
    suffixes = ("json", "safetensors", "bin")
    return content_hash(*sorted(path for suffix in suffixes for path in Path(where).rglob(f"*.{suffix}")))


def generate_sounds(
    pipe: TextToAudioPipeline, tests: HeldOut, settings: Mapping[str, Any], folder: Path, batch_size: int, seed: int
) -> dict[str, Path]:
    """Generate one sound for each caption."""
    seconds = clip_seconds(pipe, tests)

    def generate(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        output = pipe(
            [tests.captions[uid] for uid in uids],
            num_inference_steps=settings["num_steps"],
            guidance_scale=settings["guidance_scale"],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            duration=seconds,
        )
        waves = np.asarray(output.audios)
        if not np.isfinite(waves).all():
            raise UserError(f"{settings['model']}: generated NaN for {uids[0]} or another caption of its batch")
        return list(waves)

    size = batch_size if pipe.config.text_mask else 1  # unmasked, the padding of a batch would change the sounds
    save = wave_saver(pipe.mel_settings.sample_rate)
    return generate_files(folder, tests.captions, settings, generate, save, batch_size=size, seed=seed)


@torch.no_grad()
def reconstruct_sounds(
    pipe: TextToAudioPipeline, tests: HeldOut, settings: Mapping[str, Any], folder: Path, batch_size: int
) -> dict[str, Path]:
    """Reconstruct the real sounds by the VAE and the vocoder: the upper bound of the latent model."""
    rate, seconds = pipe.mel_settings.sample_rate, clip_seconds(pipe, tests)

    def reconstruct(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        waves = [audio.load(tests.sounds[uid], rate) for uid in uids]
        mels = MelSpectrogram(pipe.mel_settings)(_padded(waves, round(seconds * rate)))  # (B, M, T)
        latents = pipe.vae.encode(mels[:, None].to(pipe.device)).latent_dist.mode()      # (B, z, h, w)
        rebuilt = pipe.vocode(pipe.vae.decode(latents).sample[:, 0]).cpu().numpy()       # (B, n)
        return [new[: len(wave)] for new, wave in zip(rebuilt, waves, strict=True)]

    inputs = {uid: str(path.relative_to(folder.parent)) for uid, path in tests.sounds.items()}
    made_by = {"model": settings["model"], "versions": settings["versions"], **tests.source}
    save = wave_saver(rate)
    return generate_files(folder, inputs, made_by, reconstruct, save, batch_size=batch_size, title="reconstruct")


def _padded(waves: list[np.ndarray], size: int) -> Tensor:
    """Pad or cut waves to (B, size)."""
    return torch.from_numpy(np.stack([np.pad(wave[:size], (0, max(0, size - len(wave)))) for wave in waves]))


@torch.no_grad()
def _mels(pipe: TextToAudioPipeline, files: Files, tests: HeldOut, seconds: float) -> Tensor:
    """Compute the mels (N, M, T) of sound files, in the order of the captions."""
    rate, mel = pipe.mel_settings.sample_rate, MelSpectrogram(pipe.mel_settings)
    waves = [audio.load(files[uid], rate) for uid in tests.captions]
    return torch.cat([mel(some) for some in _padded(waves, round(seconds * rate)).split(64)])


def _conditions(
    tests: HeldOut, made: Files, embedders: list[Embedder], seed: int, sample_rate: int, seconds: float
) -> dict[str, Any]:
    asked = [f"{uid}: {caption}" for uid, caption in tests.captions.items()]
    if tests.scenes:
        more: dict[str, Any] = {"judges": judges.sound_judge_versions(), "world": WORLD}
    else:
        more = {"reference_contents": content_hash([content_hash(path) for path in tests.sounds.values()])}
    return measurement_conditions(
        [embedder.facts() for embedder in embedders], asked, len(made),
        seed=seed, sample_rate=sample_rate, window=seconds, **more,
    )  # fmt: skip
