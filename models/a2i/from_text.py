"""The round trip text -> sound -> picture: what a text-to-audio model makes of the captions, and how it went on.

The pictures of those sounds are made and compared as those of real ones are.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonolume.models.a2i.test_pairs import TestPairs, only
from sonolume.models.evaluation import generation, round_trip
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.round_trip import Files
from sonolume.models.evaluation.sounds import Sounds, score
from sonolume.models.tta.audioldm import evaluate as text_to_audio
from sonolume.models.tta.audioldm.inference import load
from sonolume.models.tta.audioldm.test_set import TestSet
from sonolume.preprocessors.miniworld import DURATION
from sonolume.utils import hub
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import read_manifest

FOLDER = "from_text"
REAL = "real sound"  # column of the trips that start there


@dataclass(frozen=True)
class Trip:
    """`pairs` has generated sounds, one for each caption."""

    pairs: TestPairs
    facts: dict[str, Any]
    """what made them, for the reader"""


def captions_of(manifest: Path, count: int) -> TestPairs:
    """At most `count` rows with a caption, drawn by a hash of their Uids; their pictures where they name some.

    Raises:
        UserError: no row has a caption.
    """
    rows = {row.uid: row for row in read_manifest(manifest) if row.captions}
    if not rows:
        raise UserError(f"--captions {manifest}: not one row has a caption: there is nothing to start from")
    chosen = dict(sorted(rows.items(), key=lambda item: generation.seed_of(0, item[0]))[:count])
    pictures = {uid: row.image for uid, row in chosen.items() if row.image and row.image.is_file()}
    captions = {uid: row.captions[0] for uid, row in chosen.items()}
    labels = {uid: row.label for uid, row in chosen.items() if row.label}
    return TestPairs({}, pictures, captions, labels, {"source": str(manifest)})


def travel(pairs: TestPairs, args: argparse.Namespace, folder: Path) -> Trip:
    """A generated sound for each caption, in place of the real one.

    --num_steps and --preset hold here, too; the guidance is the model's own.

    Raises:
        UserError: --text_to_audio is no such pipeline, or can read none of the captions.
    """
    given = Path(args.text_to_audio).expanduser()
    where = str(given.resolve()) if given.is_dir() else hub.locate(args.text_to_audio, "--text_to_audio")
    pipe = load(where, args.device)
    asked = argparse.Namespace(**{**vars(args), "guidance_scale": None})
    settings = text_to_audio.settings_of(pipe, where, asked)
    seconds = DURATION if pairs.scenes else pipe.duration
    tests = TestSet(dict(pairs.captions), {}, pairs.source, pipe.mel_settings.sample_rate, seconds)
    text_to_audio.leave_out_long(pipe, tests)
    made_by = settings | pairs.source | {"seconds": seconds}
    sounds = text_to_audio.generate(pipe, tests, made_by, args, folder / FOLDER)
    left = only(pairs, tests.captions)
    names = ("model", "num_steps", "guidance_scale", "scheduler")
    source = pairs.source | {"text_to_audio": {name: settings[name] for name in names}}
    facts = {"text to audio": where} | {f"text to audio's {name}": settings[name] for name in names[1:]}
    return Trip(replace(left, sounds=sounds, source=source, left_out=pairs.left_out + tests.left_out), facts)


def add_legs(
    result: Result,
    trip: Trip,
    real: TestPairs,
    made: Files,
    columns: Mapping[str, Files],
    embedders: Sequence[Embedder],
    cache: Path,
    batch_size: int,
) -> list[str]:
    """How the legs went, by embedders that hear: the kind from station to station, where they tell kinds of sounds and
    of pictures; the sounds alone, where they do not look at pictures. Returns the Uids that lost their kind.

    Args:
        made: pictures of the generated sounds. columns: pictures of the same Uids; `REAL` of the real sounds.
    """
    pairs, lost = trip.pairs, list[str]()
    result.facts |= trip.facts
    stations: dict[str, Files] = {"caption": {}, "sound": pairs.sounds, "picture": made}
    beside = {REAL: {"sound": real.sounds, "picture": columns[REAL]}} if REAL in columns else {}
    for embedder in embedders:
        labels = {uid: label for uid, label in pairs.labels.items() if label in embedder.labels}
        if {"sounds", "pictures"} <= set(embedder.takes) and labels:
            lost += round_trip.add_legs(result, labels, stations, beside, embedder, cache, batch_size)
        elif "pictures" not in embedder.takes:
            score(result, Sounds(pairs.sounds, real.sounds, pairs.captions, pairs.labels), embedder, cache, batch_size)
    return lost


def sheets(
    folder: Path,
    result: Result,
    trip: Trip,
    real: TestPairs,
    made: Files,
    columns: Mapping[str, Files],
    lost: Sequence[str],
) -> list[str]:
    """All stations of the first trips, and of those that lost their kind, else of the worst by any score."""
    stations: dict[str, Files] = {
        "sound made of the text": trip.pairs.sounds, "picture of that": made, REAL: real.sounds,
        "picture of that sound": columns.get(REAL, {}), "picture of the text": columns["caption"],
        "real picture": real.reference,
    }  # fmt: skip
    shown = {title: files for title, files in stations.items() if files}
    return round_trip.sheets(folder, shown, real.captions, lost or [uid for _, uid, _ in result.outliers])
