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
from torch import Tensor

from sonolume.config.tta.audioldm import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation import figures, held_out
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.folders import score_folder
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.metrics import add_scores_with_baselines
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import SOUND, Files, Samples, generate_files, weights_version
from sonolume.models.mini import judges
from sonolume.models.tta.audioldm.inference import SHIPPED, default_preset, load
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules import sampling
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import DURATION, WORLD
from sonolume.utils import audio
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError

WORLD_EMBEDDERS = ("mini:sound_judge", "mini:sound_judge_second", "mel:")
DEFAULT_EMBEDDERS = ("mel:",)
CUSTOMARY = "--embedder clap:laion/clap-htsat-unfused --embedder ast:MIT/ast-finetuned-audioset-10-10-0.4593"
MAX_TOKENS = 512


def run(config: Config, options: EvaluationOptions) -> None:
    """Generate and score sounds, or score a folder; write report.json, report.md and sheets of samples."""
    if options.generated is not None:
        score_folder(options, options.output_dir, options.device, options.batch_size)
        return
    where = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    in_world = options.reference is None and held_out.uses_miniworld(config, options.checkpoint, where, SHIPPED)
    pipe, size = load(where, options.device), options.batch_size
    runtime.speed_up(pipe.unet)
    numbers = {name: getattr(options, name) for name in ("num_steps", "guidance_scale", "cache_interval")}
    settings = sampling_settings(pipe, where, default_preset(pipe, options), **numbers)
    folder, rate = runtime.make_folder(options.output_dir), pipe.mel_settings.sample_rate
    if in_world:
        tests = held_out.scenes_with_files(config.preprocess.miniworld, options.num_samples, folder / "reference")
    else:
        place = folder / "reference"
        tests = held_out.recordings(config, options.reference, options.num_samples, place, rate, pipe.duration)
        tests = readable(pipe, tests)
    if not options.embedder and not in_world:
        print(f"scored by mel: only, which is no published metric; customary, if downloading is possible: {CUSTOMARY}",
              file=sys.stderr)  # fmt: skip
    embedders = load_all(options.embedder or (WORLD_EMBEDDERS if in_world else DEFAULT_EMBEDDERS), pipe.device)
    for embedder in embedders:
        embedder.require("sounds")
    made = generate_sounds(pipe, tests, settings, folder / "generated", size, options.seed)
    rebuilt = reconstruct_sounds(pipe, tests, settings, folder / "reconstructed", size)

    asked = [f"{uid}: {caption}" for uid, caption in tests.captions.items()]
    if tests.scenes:
        more: dict[str, Any] = {"judges": judges.versions(*judges.SOUND_JUDGES), "world": WORLD}
    else:
        more = {"reference_contents": content_hash([content_hash(path) for path in tests.sounds.values()])}
    conditions = measurement_conditions(
        [embedder.facts() for embedder in embedders], asked, len(made),
        seed=options.seed, sample_rate=rate, window=clip_seconds(pipe, tests), **more,
    )  # fmt: skip
    sampling = {name: value for name, value in settings.items() if name not in ("model", "versions")}
    facts = {"model": where, "weights": settings["model"], "captions": len(tests.captions), **sampling}
    report = Report(conditions, facts=facts | {"seed": options.seed, "of": tests.source["source"]})
    report.leave_out(tests.left_out)
    if tests.scenes:
        made_mels, vae_mels, real_mels = (_mels(pipe, files, tests) for files in (made, rebuilt, tests.sounds))
        judges.add_sound_shares(report, tests.scenes, made_mels, {"VAE": vae_mels, "real": real_mels})
    samples = Samples(SOUND, made, tests.sounds, tests.captions, {} if tests.scenes else tests.labels)
    cache = options.cache_dir or folder / EMBEDDINGS
    add_scores_with_baselines(report, samples, {"VAE": rebuilt}, embedders, cache, size)
    finish(report, folder, figures.sample_sheets(folder, report, samples))


def readable(pipe: TextToAudioPipeline, tests: HeldOut) -> HeldOut:
    """Leave out the captions that the text encoder would truncate; raises a UserError if none is left."""
    limit = min(pipe.tokenizer.model_max_length, MAX_TOKENS)
    return tests.without_long_captions(lambda text: len(pipe.tokenizer(text).input_ids), limit, "the text encoder")


def clip_seconds(pipe: TextToAudioPipeline, tests: HeldOut) -> float:
    """Duration of the sounds that are generated: of a scene, else one clip of the pipeline."""
    return DURATION if tests.scenes else pipe.duration


def sampling_settings(
    pipe: TextToAudioPipeline, where: str, preset: str | None, num_steps: int | None, guidance_scale: float | None,
    cache_interval: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Apply a preset, and collect everything that determines a sound besides its caption and seed."""
    runtime.choose_sampler(pipe, preset)
    pipe.set_progress_bar_config(disable=True)
    return {
        "model": weights_version(where),
        "num_steps": num_steps or pipe.config.num_steps,
        "guidance_scale": pipe.config.guidance_scale if guidance_scale is None else guidance_scale,
        "cache_interval": cache_interval or pipe.default_cache_interval,
        "preset": preset or "the model's",
        "scheduler": type(pipe.scheduler).__name__,
        "versions": runtime.versions(),
    }


def generate_sounds(
    pipe: TextToAudioPipeline, tests: HeldOut, settings: Mapping[str, Any], folder: Path, batch_size: int, seed: int
) -> dict[str, Path]:
    """Generate one sound for each caption."""

    def generate(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        output = pipe(
            [tests.captions[uid] for uid in uids],
            num_inference_steps=settings["num_steps"],
            guidance_scale=settings["guidance_scale"],
            cache_interval=settings["cache_interval"],
            generator=sampling.generators(seeds),
            duration=clip_seconds(pipe, tests),
        )
        waves = np.asarray(output.audios)
        if not np.isfinite(waves).all():
            raise UserError(f"{settings['model']}: generated NaN for {uids[0]} or another caption of its batch")
        return list(waves)

    size = batch_size if pipe.config.text_mask else 1  # unmasked, the padding of a batch would change the sounds
    rate = pipe.mel_settings.sample_rate
    return generate_files(folder, tests.captions, settings, generate, rate, batch_size=size, seed=seed)


@torch.no_grad()
def reconstruct_sounds(
    pipe: TextToAudioPipeline, tests: HeldOut, settings: Mapping[str, Any], folder: Path, batch_size: int
) -> dict[str, Path]:
    """Reconstruct the real sounds by the VAE and the vocoder: the upper bound of the latent model."""

    def reconstruct(uids: list[str], _: list[int]) -> list[np.ndarray]:
        waves = _waves(pipe, [tests.sounds[uid] for uid in uids])
        mels = MelSpectrogram(pipe.mel_settings)(_padded(pipe, waves, tests))        # (B, M, T)
        latents = pipe.vae.encode(mels[:, None].to(pipe.device)).latent_dist.mode()  # (B, z, h, w)
        rebuilt = pipe.vocode(pipe.vae.decode(latents).sample[:, 0]).cpu().numpy()   # (B, n)
        return [new[: len(wave)] for new, wave in zip(rebuilt, waves, strict=True)]

    inputs = {uid: str(path.relative_to(folder.parent)) for uid, path in tests.sounds.items()}
    made_by = {"model": settings["model"], "versions": settings["versions"], **tests.source}
    rate = pipe.mel_settings.sample_rate
    return generate_files(folder, inputs, made_by, reconstruct, rate, batch_size=batch_size, title="reconstruct")


@torch.no_grad()
def _mels(pipe: TextToAudioPipeline, files: Files, tests: HeldOut) -> Tensor:
    """Compute the mels (N, M, T) of sound files, in the order of the captions."""
    waves, mel = _waves(pipe, [files[uid] for uid in tests.captions]), MelSpectrogram(pipe.mel_settings)
    return torch.cat([mel(some) for some in _padded(pipe, waves, tests).split(64)])


def _waves(pipe: TextToAudioPipeline, files: list[Path]) -> list[np.ndarray]:
    return [audio.load(path, pipe.mel_settings.sample_rate) for path in files]


def _padded(pipe: TextToAudioPipeline, waves: list[np.ndarray], tests: HeldOut) -> Tensor:
    """Pad or cut waves to the length of a clip, (B, n)."""
    size = round(clip_seconds(pipe, tests) * pipe.mel_settings.sample_rate)
    return torch.from_numpy(np.stack([np.pad(wave[:size], (0, max(0, size - len(wave)))) for wave in waves]))
