"""Evaluate Im2Wav on recordings: sounds of prepared videos and pictures, or of the pictures of ImageHear."""

from pathlib import Path

import torch
from torch import Tensor

from sonolume.config.i2a.im2wav import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation import figures, held_out
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.metrics import Scorer, add_onset_scores, add_scores_with_baselines
from sonolume.models.evaluation.report import Conditions, Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import SOUND, Files, Samples, choose
from sonolume.models.i2a.im2wav import imagehear
from sonolume.models.i2a.im2wav.generator import Generator
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.sound_pictures import pictures_of
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image

CUSTOMARY = "--embedder clap:laion/clap-htsat-unfused --embedder ast:MIT/ast-finetuned-audioset-10-10-0.4593"


def run(config: Config, options: EvaluationOptions, generator: Generator) -> None:
    """Generate one sound for each input and score them; write report.json, report.md and sheets of samples.

    Raises:
        UserError: no embedder, or no inputs.
    """
    if options.audio_to_image:
        raise UserError("--audio_to_image is for the miniature world, where a judge scores the pictures")
    if not options.embedder:
        raise UserError(f"--embedder is needed to score sounds of recordings; customary: {CUSTOMARY}")
    embedders = load_all(options.embedder, generator.pipe.low.device)
    for embedder in embedders:
        embedder.require("sounds")
    inputs = imagehear_inputs(options) if options.imagehear else prepared(config, options.num_samples)
    folder = runtime.make_folder(options.output_dir)
    made = generate(generator, inputs)
    baselines = {}
    if inputs.sounds:
        baselines["VQ-VAE"] = generator.reconstruct("reconstructed", inputs.sounds, inputs.source)
    facts = generator.facts() | {"of": inputs.source["source"]}
    report = Report(conditions(inputs, made, embedders, options), facts=facts)
    samples = Samples(SOUND, made, inputs.sounds, inputs.captions, inputs.labels, inputs.pictures)
    cache, size = options.cache_dir or folder / EMBEDDINGS, options.batch_size
    add_scores_with_baselines(report, samples, baselines, embedders, cache, size)
    if options.imagehear:
        add_class_accuracy(report, made, embedders, cache, size)
    if inputs.videos:
        videos = {uid: made[uid] for uid in inputs.videos if uid in made}
        add_onset_scores(report, videos, inputs.sounds)
    finish(report, folder, figures.sample_sheets(folder, report, samples))


def prepared(config: Config, count: int) -> HeldOut:
    """Choose at most `count` prepared rows of the test split, or of the validation split where there is none."""
    rows = {
        uid: row
        for uid, row in held_out.read_splits(config.preprocess, config.dataset).items()
        if row.audio and row.audio.is_file() and (row.video or row.image)
    }
    chosen = choose(rows, count)
    if not chosen:
        raise UserError(f"{', '.join(config.dataset)}: no sound with a video or picture to test on: see report.json")
    return HeldOut(
        source={"source": ", ".join(config.dataset)},
        pictures={uid: pictures_of(row)[0][1] for uid, row in chosen.items() if row.image and not row.video},
        videos={uid: row.video for uid, row in chosen.items() if row.video},
        sounds={uid: row.audio for uid, row in chosen.items() if row.audio},
        captions={uid: row.captions[0] for uid, row in chosen.items() if row.captions},
        labels={uid: row.label for uid, row in chosen.items() if row.label},
    )


def imagehear_inputs(options: EvaluationOptions) -> HeldOut:
    """Choose at most `num_samples` pictures of the folder --imagehear."""
    assert options.imagehear is not None
    pictures = choose(imagehear.read(options.imagehear), options.num_samples)
    names = {uid: imagehear.class_of(uid) for uid in pictures}
    captions = {uid: f"the sound of {name}" for uid, name in names.items()}
    return HeldOut(captions, {}, {"source": "ImageHear"}, pictures)


def generate(generator: Generator, inputs: HeldOut) -> dict[str, Path]:
    """Generate a sound of one window for each input: of the first seconds of a video, or of a picture."""
    pipe, encoder = generator.pipe, generator.encoder
    seconds = pipe.window / pipe.sample_rate

    def encode_video(uid: str) -> Tensor:
        vectors = encoder.encode_video(inputs.videos[uid], pipe.fps, seconds=seconds)  # (F, V)
        index = torch.arange(round(seconds * pipe.fps)).clamp(max=len(vectors) - 1)
        return vectors[index]

    def encode_picture(uid: str) -> Tensor:
        return encoder.encode_pictures([open_image(inputs.pictures[uid])])  # (1, V)

    found: dict[str, Path] = {}
    for name, paths, encode in (
        ("videos", inputs.videos, encode_video), ("pictures", inputs.pictures, encode_picture),
    ):  # fmt: skip
        if paths:
            names = {uid: path.name for uid, path in paths.items()}
            found |= generator.generate(f"generated_{name}", names, encode, pipe.window, inputs.source)
    return found


def add_class_accuracy(report: Report, made: Files, embedders: list[Embedder], cache: Path, batch_size: int) -> None:
    """Add the share of sounds whose likeliest AudioSet class belongs to the class of their picture.

    Counted for embedders with AudioSet's classes; the mapping of classes becomes part of the conditions.
    """
    report.conditions["classes"] = {name: list(classes) for name, classes in imagehear.CLASSES.items()}
    for embedder in (one for one in embedders if set(imagehear.CLASSES["dog"]) <= set(one.labels)):
        found = Scorer(Report({}), embedder, cache, batch_size).embed(made, SOUND, "generated")
        assert found.logits is not None
        top = [embedder.labels[index] for index in found.logits.argmax(dim=1).tolist()]
        right = [name in imagehear.CLASSES[imagehear.class_of(uid)] for uid, name in zip(found.kept, top, strict=True)]
        share = Share(sum(right), len(right))
        report.add_share(f"ImageHear accuracy {embedder.name}", share, chance=1 / len(imagehear.CLASSES), headline=True)


def conditions(inputs: HeldOut, made: Files, embedders: list[Embedder], options: EvaluationOptions) -> Conditions:
    """Everything that must agree before two reports are compared."""
    shown = {**inputs.pictures, **inputs.videos}
    contents = [content_hash(path) for path in shown.values()]
    return measurement_conditions(
        [embedder.facts() for embedder in embedders], list(shown), len(made), seed=options.seed,
        inputs=content_hash(contents), references=content_hash([content_hash(path) for path in inputs.sounds.values()]),
    )  # fmt: skip
