"""Evaluate Im2Wav: sounds generated from pictures and films of a test set, and the reconstructions of its VQ-VAE.

In the miniature world, frozen judges of sound score the sounds of still pictures, and onsets those of films, next to
chance and upper bounds. Recordings are compared by any embedders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sonolume.config.i2a.im2wav import Config, EvaluationOptions, Stage
from sonolume.models import runtime
from sonolume.models.evaluation import figures, held_out
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.folders import score_folder
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.metrics import add_scores_with_baselines
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import SOUND, Files, Samples, generate_files
from sonolume.models.i2a.im2wav import round_trip
from sonolume.models.i2a.im2wav.generator import Generator
from sonolume.models.i2a.im2wav.inference import SHIPPED, load, load_clip
from sonolume.models.mini import judges
from sonolume.modules.mel import MelSpectrogram
from sonolume.modules.metrics import onsets
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.pictures import delayed_wave, film, film_onsets
from sonolume.preprocessors.miniworld.scene import COUNTABLE, Scene
from sonolume.utils import audio
from sonolume.utils.image import open_image

WORLD_EMBEDDERS = ("mini:sound_judge", "mini:sound_judge_second", "mel:")


def run(config: Config, options: EvaluationOptions) -> None:
    """Generate and score sounds, or score a folder; write report.json, report.md and sheets of samples."""
    if options.generated is not None or options.reference is not None:
        score_folder(options, options.output_dir, options.device, options.batch_size)
        return
    if config.stage is Stage.vqvae:
        from sonolume.models.i2a.im2wav import evaluate_vqvae

        evaluate_vqvae.run(config, options)
        return
    where = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    pipe = load(where, options, with_up=config.stage is Stage.up)
    generator = Generator(pipe, load_clip(where, pipe), where, options, str(config.stage))
    if not options.imagehear and held_out.uses_miniworld(config, options.checkpoint, where, SHIPPED):
        evaluate_world(config, options, generator)
    else:
        from sonolume.models.i2a.im2wav import evaluate_recordings

        evaluate_recordings.run(config, options, generator)


def evaluate_world(config: Config, options: EvaluationOptions, generator: Generator) -> None:
    """Score sounds of still pictures by the judges, and sounds of films by their onsets, on unseen scenes."""
    held_out.check_sample_rate(generator.pipe.sample_rate)
    folder, mini = runtime.make_folder(options.output_dir), config.preprocess.miniworld
    stills = held_out.scenes_with_files(mini, options.num_samples, folder / "real", folder / "pictures", pairs=False)
    embedders = load_all(options.embedder or WORLD_EMBEDDERS, generator.pipe.low.device)
    for embedder in embedders:
        embedder.require("sounds")
    columns = make_stills(generator, stills)
    made = columns.pop("generated")
    films = make_films(generator, stills, folder)

    facts = [embedder.facts() for embedder in embedders]
    conditions = measurement_conditions(
        facts, list(stills.captions), len(made), seed=options.seed, sample_rate=generator.pipe.sample_rate,
        judges=judges.versions(*judges.SOUND_JUDGES), world=WORLD, films=len(films.scenes),
    )  # fmt: skip
    report = Report(conditions, facts=generator.facts() | {"of": stills.source["source"]})
    mels = {name: _mels(files, stills.captions) for name, files in {**columns, "real": stills.sounds}.items()}
    judges.add_sound_shares(report, stills.scenes, _mels(made, stills.captions), mels)
    add_film_scores(report, films)
    if options.audio_to_image:
        round_trip.add_scores(report, options, stills, made)
    samples = Samples(SOUND, made, stills.sounds, stills.captions, inputs=stills.pictures)
    cache, size = options.cache_dir or folder / EMBEDDINGS, options.batch_size
    baselines = {"VQ-VAE": columns["VQ-VAE"]}
    add_scores_with_baselines(report, replace(samples, captions={}, inputs={}), baselines, embedders, cache, size)
    finish(report, folder, figures.sample_sheets(folder, report, samples))


def make_stills(generator: Generator, tests: HeldOut) -> dict[str, dict[str, Path]]:
    """Generate one sound for each still picture; also drafts, sounds without guidance, and reconstructions."""
    inputs = {uid: path.name for uid, path in tests.pictures.items()}
    samples = generator.pipe.window

    def encode(uid: str) -> Tensor:
        return generator.encoder.encode_pictures([open_image(tests.pictures[uid])])  # (1, V)

    found = {"generated": generator.generate("generated", inputs, encode, samples, tests.source)}
    found["guidance 1"] = generator.generate("unguided", inputs, encode, samples, tests.source, guidance_scale=1.0)
    if generator.level == "up":
        found["draft"] = generator.generate("draft", inputs, encode, samples, tests.source, level="low")
    found["VQ-VAE"] = generator.reconstruct("reconstructed", tests.sounds, tests.source)
    return found


@dataclass(frozen=True)
class Films:
    """Scenes of counted kinds with the sounds of their films, by column, and the onsets that the films show."""

    scenes: list[Scene]
    sounds: dict[str, dict[str, Path]]
    onsets: list[list[float]]  # seconds


def make_films(generator: Generator, tests: HeldOut, folder: Path) -> Films:
    """Generate one sound for the film of each scene of a counted kind, and for the middle frame of the film alone."""
    scenes = {scene.uid: scene for scene in tests.scenes if scene.events[0].kind in COUNTABLE}
    source, inputs, samples = tests.source | {"films": True}, dict.fromkeys(scenes, "film"), generator.pipe.window

    def frames(uid: str) -> Tensor:
        pictures = [Image.fromarray(frame) for frame in film(scenes[uid], round(generator.pipe.fps))]
        return generator.encoder.encode_pictures(pictures)  # (F, V)

    def middle(uid: str) -> Tensor:
        pictures = film(scenes[uid], round(generator.pipe.fps))
        return generator.encoder.encode_pictures([Image.fromarray(pictures[len(pictures) // 2])])  # (1, V)

    sounds = {"generated": generator.generate("films", inputs, frames, samples, source)}
    sounds["middle frame"] = generator.generate("films_middle_frame", inputs, middle, samples, source)
    render = lambda uids, _: [delayed_wave(scenes[uid]) for uid in uids]  # noqa: E731
    real = generate_files(folder / "films_real", inputs, source, render, generator.pipe.sample_rate, title="render")
    sounds["VQ-VAE"] = generator.reconstruct("films_reconstructed", real, source)
    return Films(list(scenes.values()), sounds | {"real": real}, [film_onsets(one)[0] for one in scenes.values()])


def add_film_scores(report: Report, films: Films) -> None:
    """Add the agreement of the onsets in sounds of films with those that the films show."""
    uids = [scene.uid for scene in films.scenes]
    if not uids:
        return
    detected = {
        name: [onsets.detect_onsets(audio.load(files[uid], onsets.SAMPLE_RATE)) for uid in uids]
        for name, files in films.sounds.items()
    }
    values = {name: _agreement(found, films.onsets) for name, found in detected.items()}
    made = values.pop("generated")
    chance = onsets.shuffled_agreement(detected["generated"], films.onsets) if len(uids) > 1 else None
    note = f"of counted kinds, within {onsets.TOLERANCE:g} s of what the film shows; chance: the onsets of other films"
    report.add_mean("onset F1 of films", made, uids, chance=chance, note=note, baselines=values, headline=True)


def _agreement(detected: Sequence[list[float]], shown: Sequence[list[float]]) -> Tensor:
    """F1 of every sound, (N,)."""
    pairs = zip(detected, shown, strict=True)
    return torch.tensor([onsets.onset_agreement(found, wanted)[2] for found, wanted in pairs])


def _mels(files: Files, uids: Mapping[str, str]) -> Tensor:
    """Mels (N, M, T) of sound files."""
    mel = MelSpectrogram()
    return torch.cat([mel(torch.from_numpy(audio.load(files[uid], onsets.SAMPLE_RATE))[None]) for uid in uids])
