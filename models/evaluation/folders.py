"""A folder of generated sounds or pictures against real ones, by metrics that know no recipe.

What the files are decides: sounds, or videos for their sound tracks, or else pictures.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sonolume.models import inference
from sonolume.models.evaluation import onsets, pictures, results, showing, sounds
from sonolume.models.evaluation.embedders.base import Embedder, hash_of
from sonolume.models.evaluation.embedders.load import check, load_all
from sonolume.models.evaluation.gathering import gather
from sonolume.models.evaluation.pictures import Pictures
from sonolume.models.evaluation.protocol import digest, fingerprint
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.sounds import Sounds
from sonolume.utils.errors import UserError

CACHE = "embeddings"  # in the output folder, unless --cache_dir names another


def run(args: argparse.Namespace) -> None:
    """Score --generated against --reference by every --embedder; write report.json, report.md and pictures for it.

    Raises:
        UserError: no embedder, nothing to score, or an input that cannot be used.
    """
    if not args.embedder:
        raise UserError("--generated needs --embedder KIND:SOURCE, such as clap:laion/clap-htsat-unfused or mel:")
    for spec in args.embedder:
        check(spec)
    gathered = gather(args.generated, args.reference)
    files = gathered.files
    device = inference.pick_device(args.device)
    embedders = load_all(args.embedder, device)
    what = "sounds" if isinstance(files, Sounds) else "pictures"
    for embedder in embedders:
        embedder.require(what)
    useful = _useful(files, embedders)
    if args.reference is not None and not any(useful):
        names = " and ".join(embedder.name for embedder in embedders)
        raise UserError(f"--reference {args.reference}: has no {what}, and nothing else that {names} can compare with")
    folder = inference.make_folder(args.output_dir)
    facts = {"generated": str(args.generated), "reference": str(args.reference or "none")}
    listened = [embedder.facts() for embedder in embedders]
    conditions = fingerprint(listened, generated=len(files.generated), **_conditions(useful, files, what))
    result = Result(conditions, facts=facts)
    result.facts |= gathered.facts
    result.counts |= gathered.counts
    result.left_out += gathered.left_out
    score(result, files, embedders, args.cache_dir or folder / CACHE, args.batch_size)
    path = results.write(result, folder, showing.sheets(folder, result, files))
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(path)


def _useful(files: Sounds | Pictures, embedders: Sequence[Embedder]) -> list[Mapping[str, Path | str]]:
    """What is known beside the generated files, by Uid, of which some embedder makes use."""
    takes = {taken for embedder in embedders for taken in embedder.takes}
    tells = "texts" in takes or any(embedder.labels for embedder in embedders)
    other, inputs = ("pictures", files.pictures) if isinstance(files, Sounds) else ("sounds", files.sounds)
    return [
        files.reference,
        inputs if other in takes else {},
        files.captions if "texts" in takes else {},
        files.labels if tells else {},
    ]


def _conditions(useful: Sequence[Mapping[str, Path | str]], files: Sounds | Pictures, what: str) -> dict[str, Any]:
    """For the fingerprint: the content of all that is compared with, and which of it has a generated file."""
    uids = list(dict.fromkeys(uid for side in useful for uid in side))
    paired = sorted(files.generated.keys() & set(uids))
    return {
        "reference": [str((uid, *(_content(side.get(uid)) for side in useful))) for uid in uids],
        "compared": what,
        "pairs": len(paired),
        "pairs_hash": digest(paired),
    }


def _content(found: Path | str | None) -> str | None:
    if not isinstance(found, Path):
        return found
    try:
        return hash_of(found)
    except OSError:  # listed later
        return "unreadable"


def score(
    result: Result, files: Sounds | Pictures, embedders: Sequence[Embedder], cache: Path | None, batch_size: int
) -> None:
    """Add all that the embedders can tell, and the onsets of sounds that were made from videos."""
    for embedder in embedders:
        if isinstance(files, Sounds):
            sounds.score(result, files, embedder, cache, batch_size)
        else:
            pictures.score(result, files, embedder, cache, batch_size)
    if isinstance(files, Sounds) and files.videos:
        onsets.score(result, files.generated, files.reference)
