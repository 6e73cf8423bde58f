"""The round trip text -> sound -> picture: sounds generated from captions, and the scores of both legs.

The pictures of those sounds are drawn and compared as usual, by `evaluate`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sonolume.config.audio_to_image import EvaluationOptions
from sonolume.models.evaluation import figures
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import embed
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.metrics import add_scores
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.samples import SOUND, Files, Samples
from sonolume.models.tta.audioldm import evaluate as text_to_audio
from sonolume.models.tta.audioldm.inference import load
from sonolume.modules.metrics.interval import Share
from sonolume.utils import paths
from sonolume.utils.files import AUDIO_SUFFIXES

FOLDER = "from_text"
REAL = "real sound"  # column of the trips that start from real sounds


def generate_sounds(real: HeldOut, options: EvaluationOptions, folder: Path) -> tuple[HeldOut, dict[str, Any]]:
    """Generate a sound for each caption with --text_to_audio, at its own guidance scale.

    Returns:
        The examples with these sounds, and how they were generated, for the reader of the report.

    Raises:
        UserError: --text_to_audio is no such pipeline, or can read none of the captions.
    """
    where = paths.locate(str(options.text_to_audio), "--text_to_audio", flag=True)
    pipe = load(where, options.device)
    settings = text_to_audio.sampling_settings(pipe, where, options.preset, options.num_steps, None)
    tests = text_to_audio.readable(pipe, real)
    made_by = settings | real.source | {"seconds": text_to_audio.clip_seconds(pipe, real)}
    sounds = text_to_audio.generate_sounds(pipe, tests, made_by, folder / FOLDER, options.batch_size, options.seed)
    sampling = {name: settings[name] for name in ("num_steps", "guidance_scale", "scheduler")}
    source = real.source | {"text_to_audio": {"model": settings["model"], **sampling}}
    facts = {"text to audio": where} | {f"text to audio's {name}": value for name, value in sampling.items()}
    return replace(tests, sounds=sounds, source=source), facts


def add_legs(
    report: Report, tests: HeldOut, real: HeldOut, made: Files, baselines: Mapping[str, Files],
    embedders: Sequence[Embedder], cache: Path, batch_size: int,
) -> list[str]:  # fmt: skip
    """Score the legs by the embedders of sounds, and return the Uids that lost their class.

    Embedders that classify sounds and pictures compare the stations; embedders of sounds alone score the generated
    sounds of `tests`. `made` are their pictures; `baselines[REAL]` those of the real sounds.
    """
    lost = list[str]()
    stations: dict[str, Files] = {"caption": {}, "sound": tests.sounds, "picture": made}
    others = {REAL: {"sound": real.sounds, "picture": baselines[REAL]}} if REAL in baselines else {}
    for embedder in embedders:
        labels = {uid: label for uid, label in tests.labels.items() if label in embedder.labels}
        if {"sounds", "pictures"} <= set(embedder.takes) and labels:
            lost += add_kept_shares(report, labels, stations, others, embedder, cache, batch_size)
        elif "pictures" not in embedder.takes:
            samples = Samples(SOUND, tests.sounds, real.sounds, tests.captions, tests.labels)
            add_scores(report, samples, [embedder], cache, batch_size)
    return lost


def classify(files: Files, embedder: Embedder, cache: Path | None, batch_size: int) -> dict[str, str]:
    """Map Uids to the most likely class of their sound or picture; files that cannot be used are absent."""
    medium = "sounds" if next(iter(files.values())).suffix.lower() in AUDIO_SUFFIXES else "pictures"
    found = embed(list(files.values()), medium, embedder, cache, batch_size, keep_empty=True)
    if found.logits is None:
        raise ValueError(f"{embedder.name} has no classes")
    index = dict(zip(found.kept, found.logits.argmax(dim=1).tolist(), strict=True))
    return {uid: embedder.labels[index[path]] for uid, path in files.items() if path in index}


def add_kept_shares(
    report: Report, labels: Mapping[str, str], stations: Mapping[str, Files],
    baselines: Mapping[str, Mapping[str, Files]], embedder: Embedder, cache: Path | None, batch_size: int,
) -> list[str]:  # fmt: skip
    """Add the share of classes that each leg keeps, and return the Uids that have another class at the end.

    Args:
        labels: the class that each trip starts with; trips without one are ignored.
        stations: title -> files; the files of the first station are not used: its classes are `labels`.
        baselines: column -> stations of other trips from the same starts, such as from real sounds.
    """
    start, *titles = stations

    def classes_of(trip: Mapping[str, Files]) -> dict[str, Mapping[str, str]]:
        found = {title: classify(files, embedder, cache, batch_size) for title, files in trip.items() if title != start}
        return {start: labels, **found}

    classes, others = classes_of(stations), {column: classes_of(trip) for column, trip in baselines.items()}
    for first, second in zip([start, *titles], titles, strict=False):
        columns = {column: _share_kept(labels, trip[first], trip[second]) for column, trip in others.items()
                   if first in trip and second in trip}  # fmt: skip
        share = _share_kept(labels, classes[first], classes[second])
        note = f"classes by {embedder.name.partition('@')[0]}"
        report.add_share(f"kind kept, {first} to {second}", share, 1 / len(embedder.labels), columns, note=note)
    return [uid for uid, label in labels.items() if classes[titles[-1]].get(uid) != label]


def _share_kept(labels: Mapping[str, str], first: Mapping[str, str], second: Mapping[str, str]) -> Share:
    """Count the classes that are equal at both stations; a sample that is missing at the second counts as lost."""
    uids = [uid for uid in labels if uid in first]
    return Share(sum(first[uid] == second.get(uid) for uid in uids), len(uids))


def sheets(
    folder: Path, report: Report, tests: HeldOut, real: HeldOut, made: Files, baselines: Mapping[str, Files],
    lost: Sequence[str],
) -> list[str]:  # fmt: skip
    """Write sheets of all stations: of the first trips, and of those that lost their class, else the worst outliers."""
    stations: dict[str, Files] = {
        "sound made of the text": tests.sounds, "picture of that": made, REAL: real.sounds,
        "picture of that sound": baselines.get(REAL, {}), "picture of the text": baselines["caption"],
        "real picture": real.pictures,
    }  # fmt: skip
    shown = {title: files for title, files in stations.items() if files}
    return figures.trip_sheets(folder, shown, real.captions, lost or [uid for _, uid, _ in report.outliers])
