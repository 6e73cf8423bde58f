"""Does the sound have what the text says? One sample for each caption of a test set, scored beside real recordings.

In the miniature world, frozen judges of sound tell what they hear, beside chance and the upper bounds: real renderings
of the same scenes, and their reconstructions by the VAE and the vocoder. On recordings, any embedders compare.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from sonolume.config.tta.audioldm import Config
from sonolume.models import inference
from sonolume.models.evaluation import beside, folders, generation, heldout, results, showing
from sonolume.models.evaluation.embedders.base import Embedder, hash_of
from sonolume.models.evaluation.embedders.load import check, load_all
from sonolume.models.evaluation.protocol import digest, fingerprint
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.sounds import Sounds, score
from sonolume.models.mini import hearing
from sonolume.models.tta.audioldm import test_set
from sonolume.models.tta.audioldm.inference import SHIPPED, load
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.audioldm.test_set import TestSet
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import WORLD
from sonolume.utils import audio, hub
from sonolume.utils.errors import UserError

IN_WORLD = ("mini:sound_judge", "mini:sound_judge_second", "mel:")
ON_RECORDINGS = ("mel:",)
USUAL = "--embedder clap:laion/clap-htsat-unfused --embedder ast:MIT/ast-finetuned-audioset-10-10-0.4593"
LONGEST_TEXT = 512  # tokens


def run(config: Config, args: argparse.Namespace) -> None:
    """Generate, listen, and write report.json, report.md and samples.png; or score a folder of sounds."""
    if args.generated is not None:
        folders.run(args)
        return
    for spec in args.embedder or ():
        check(spec)
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    in_world = args.reference is None and heldout.is_world(
        config, config.preprocess, args.checkpoint, where, SHIPPED
    )
    pipe = load(where, args.device)
    settings = settings_of(pipe, where, args)
    folder = inference.make_folder(args.output_dir)
    tests = _test_set(config, args, pipe, folder, in_world)
    embedders = load_all(_embedders(args, in_world), pipe.device)
    for embedder in embedders:
        embedder.require("sounds")
    made = generate(pipe, tests, settings, args, folder / "generated")
    rebuilt = reconstruct(pipe, tests, settings, args, folder / "reconstructed")
    result = Result(_conditions(tests, made, embedders, args), facts=_facts(tests, settings, where, args))
    result.left_out += tests.left_out
    _compare(result, tests, made, rebuilt, embedders, args.cache_dir or folder / folders.CACHE, args.batch_size)
    if tests.scenes:
        _judge(result, pipe, tests, made, rebuilt)
    sounds = Sounds(made, tests.reference, tests.captions)
    report = results.write(result, folder, showing.sheets(folder, result, sounds))
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(report)


def _embedders(args: argparse.Namespace, in_world: bool) -> list[str]:
    if args.embedder:
        return list(dict.fromkeys(args.embedder))
    if not in_world:
        print(f"scored by mel: alone, which is no published metric; usual, if they may be downloaded: {USUAL}",
              file=sys.stderr)  # fmt: skip
    return list(IN_WORLD if in_world else ON_RECORDINGS)


def _test_set(
    config: Config, args: argparse.Namespace, pipe: TextToAudioPipeline, folder: Path, in_world: bool
) -> TestSet:
    """Captions that the text encoder can read, with their sounds."""
    if in_world:
        return test_set.of_world(config.preprocess.miniworld, args.num_samples, folder)
    rate = pipe.mel_settings.sample_rate
    data = (config.preprocess, config.dataset, args.reference)
    tests = test_set.of_recordings(*data, args.num_samples, folder, rate, pipe.duration)
    leave_out_long(pipe, tests)
    return tests


def leave_out_long(pipe: TextToAudioPipeline, tests: TestSet) -> None:
    """Take out the captions that the text encoder cannot read to their end, with their sounds.

    Raises:
        UserError: it can read none.
    """
    limit = min(pipe.tokenizer.model_max_length, LONGEST_TEXT)
    for uid in [uid for uid, text in tests.captions.items() if len(pipe.tokenizer(text).input_ids) > limit]:
        tests.left_out.append((uid, f"its caption has more than {limit} tokens, which the text encoder takes"))
        del tests.captions[uid]
        tests.reference.pop(uid, None)
    if not tests.captions:
        raise UserError(f"{tests.source['source']}: all captions are longer than {limit} tokens")


def settings_of(pipe: TextToAudioPipeline, where: str, args: argparse.Namespace) -> dict[str, Any]:
    """All that decides a sound, beside its caption and its seed."""
    if args.preset:
        try:
            pipe.use_preset(args.preset)
        except ValueError as error:
            raise UserError(f"--preset: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return {
        "model": _version(where),
        "num_steps": args.num_steps or pipe.config.num_steps,
        "guidance_scale": pipe.config.guidance_scale if args.guidance_scale is None else args.guidance_scale,
        "preset": args.preset or "the model's",
        "scheduler": type(pipe.scheduler).__name__,
        "versions": inference.versions(),
    }


def _version(where: str) -> str:
    """A hash of all weights and settings of a folder, the commit of a hub id."""
    if not hub.is_local(where):
        return Path(snapshot_download(where, local_files_only=True)).name
    return hash_of(*sorted(path for kind in ("json", "safetensors", "bin") for path in Path(where).rglob(f"*.{kind}")))


def generate(
    pipe: TextToAudioPipeline, tests: TestSet, settings: dict[str, Any], args: argparse.Namespace, folder: Path
) -> dict[str, Path]:
    """One sound for each caption."""

    def make(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        made = pipe(
            [tests.captions[uid] for uid in uids],
            num_inference_steps=settings["num_steps"],
            guidance_scale=settings["guidance_scale"],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            duration=tests.seconds,
        )
        waves = np.asarray(made.audios)
        if not np.isfinite(waves).all():
            raise UserError(f"{settings['model']}: gave no numbers (NaN) for {uids[0]} or its neighbours")
        return list(waves)

    return generation.generate(
        folder, tests.captions, settings, make, test_set.saver(pipe.mel_settings.sample_rate),
        batch_size=args.batch_size if pipe.config.text_mask else 1,  # unmasked, texts would hear each other's padding
        seed=args.seed,
    )  # fmt: skip


@torch.no_grad()
def reconstruct(
    pipe: TextToAudioPipeline, tests: TestSet, settings: dict[str, Any], args: argparse.Namespace, folder: Path
) -> dict[str, Path]:
    """The real sounds through the VAE and the vocoder: the best that the latent model could reach."""
    rate = pipe.mel_settings.sample_rate

    def make(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        waves = [audio.load(tests.reference[uid], rate) for uid in uids]
        mels = MelSpectrogram(pipe.mel_settings)(_padded(waves, round(tests.seconds * rate)))  # (B, M, T)
        latents = pipe.vae.encode(mels[:, None].to(pipe.device)).latent_dist.mode()            # (B, z, h, w)
        rebuilt = pipe.vocode(pipe.vae.decode(latents).sample[:, 0]).cpu().numpy()             # (B, n)
        return [new[: len(wave)] for new, wave in zip(rebuilt, waves, strict=True)]

    inputs = {uid: str(path.relative_to(folder.parent)) for uid, path in tests.reference.items()}
    made_by = {"model": settings["model"], "versions": settings["versions"], **tests.source}
    return generation.generate(
        folder, inputs, made_by, make, test_set.saver(rate), batch_size=args.batch_size, title="reconstruct"
    )


def _padded(waves: list[np.ndarray], size: int) -> Tensor:
    """(B, size)."""
    return torch.from_numpy(np.stack([np.pad(wave[:size], (0, max(0, size - len(wave)))) for wave in waves]))


def _conditions(
    tests: TestSet, made: Mapping[str, Path], embedders: list[Embedder], args: argparse.Namespace
) -> dict[str, Any]:
    asked = [f"{uid}: {caption}" for uid, caption in tests.captions.items()]
    contents = [] if tests.scenes else [hash_of(path) for path in tests.reference.values()]
    more = {"judges": hearing.judges(), "world": WORLD} if tests.scenes else {"reference_contents": digest(contents)}
    return fingerprint(
        [embedder.facts() for embedder in embedders], asked, len(made),
        seed=args.seed, sample_rate=tests.sample_rate, window=tests.seconds, **more,
    )  # fmt: skip


def _facts(tests: TestSet, settings: dict[str, Any], where: str, args: argparse.Namespace) -> dict[str, Any]:
    """For the reader."""
    told = {name: value for name, value in settings.items() if name not in ("model", "versions")}
    return {"model": where, "weights": settings["model"], "captions": len(tests.captions), **told,
            "seed": args.seed, "of": tests.source["source"]}  # fmt: skip


def _compare(
    result: Result,
    tests: TestSet,
    made: Mapping[str, Path],
    rebuilt: Mapping[str, Path],
    embedders: list[Embedder],
    cache: Path,
    batch_size: int,
) -> None:
    """What the embedders tell, beside the reconstructions, the real sounds, and sounds of other captions as chance."""
    sounds = Sounds(made, tests.reference, tests.captions, tests.labels)

    def scored(those: Sounds) -> Result:
        other = Result({})
        for embedder in embedders:
            score(other, those, embedder, cache, batch_size)
        return other

    for embedder in embedders:
        score(result, sounds, embedder, cache, batch_size)
    beside.put_beside(result, scored(replace(sounds, generated=rebuilt)), "VAE")
    beside.put_beside(result, scored(replace(sounds, generated=tests.reference, reference={})), "real")
    if len(made) > 1:
        beside.put_chance(result, scored(replace(sounds, generated=beside.shifted(made, list(made)))))


@torch.no_grad()
def _judge(
    result: Result,
    pipe: TextToAudioPipeline,
    tests: TestSet,
    made: Mapping[str, Path],
    rebuilt: Mapping[str, Path],
) -> None:
    """What the judges of the miniature world hear, in front of all other scores."""
    mel, rate, size = MelSpectrogram(pipe.mel_settings), tests.sample_rate, round(tests.seconds * tests.sample_rate)

    def heard(files: Mapping[str, Path]) -> Tensor:
        """(N, M, T)"""
        sounds = [audio.load(files[uid], rate) for uid in tests.captions]
        return torch.cat([mel(some) for some in _padded(sounds, size).split(64)])

    others = result.scores
    result.scores = []
    hearing.add_shares(result, tests.scenes, heard(made), {"VAE": heard(rebuilt), "real": heard(tests.reference)})
    result.scores += others
