"""Round trips through two recipes, such as text -> sound -> picture: where the class of a sample is lost.

This module depends on no recipe. A recipe generates the files of every station and compares the end with the start as
usual; the legs between stations are scored here.
"""

from collections.abc import Mapping
from pathlib import Path

from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import embed
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.samples import Files
from sonolume.modules.metrics.interval import Share
from sonolume.utils.manifest import AUDIO_SUFFIXES


def classify(files: Files, embedder: Embedder, cache: Path | None, batch_size: int) -> dict[str, str]:
    """Map Uids to the most likely class of their sound or picture; files that cannot be used are absent."""
    is_sound = next(iter(files.values())).suffix.lower() in AUDIO_SUFFIXES
    medium = "sounds" if is_sound else "pictures"
    found = embed(list(files.values()), medium, embedder, cache, batch_size, keep_empty=True)
    if found.logits is None:
        raise ValueError(f"{embedder.name} has no classes")
    index = dict(zip(found.kept, found.logits.argmax(dim=1).tolist(), strict=True))
    return {uid: embedder.labels[index[path]] for uid, path in files.items() if path in index}


def add_legs(
    report: Report,
    labels: Mapping[str, str],
    stations: Mapping[str, Files],
    baselines: Mapping[str, Mapping[str, Files]],
    embedder: Embedder,
    cache: Path | None,
    batch_size: int,
) -> list[str]:
    """Add the share of classes that each leg keeps, and return the Uids that have another class at the end.

    Args:
        labels: the class that each trip starts with; trips without one are ignored.
        stations: title -> files; the files of the first station are not used: its classes are `labels`.
        baselines: column -> stations of other trips from the same starts, such as from real sounds.
        embedder: classifies all these media, as `mini:world` does.
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
