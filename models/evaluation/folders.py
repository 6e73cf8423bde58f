"""A folder of generated sounds or pictures against real ones, by metrics that know no recipe.

What the files are decides: sounds, or videos for their sound tracks, or else pictures.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sonolume.models import inference
from sonolume.models.embedders.base import Embedder
from sonolume.models.embedders.load import check, load
from sonolume.models.evaluation import onsets, pictures, results, showing, sounds
from sonolume.models.evaluation.gathering import gather
from sonolume.models.evaluation.pictures import Pictures
from sonolume.models.evaluation.protocol import fingerprint
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
    embedders = [load(spec, device) for spec in args.embedder]
    what = "sounds" if isinstance(files, Sounds) else "pictures"
    for embedder in embedders:
        embedder.require(what)
    folder = inference.make_folder(args.output_dir)
    asked = files.reference or files.captions.values() or files.labels
    conditions = fingerprint([embedder.facts() for embedder in embedders], asked, len(files.generated))
    result = Result(conditions, facts={"generated": str(args.generated), "reference": str(args.reference or "none")})
    result.facts |= gathered.facts
    result.counts |= gathered.counts
    result.left_out += gathered.left_out
    score(result, files, embedders, args.cache_dir or folder / CACHE, args.batch_size)
    path = results.write(result, folder, showing.sheets(folder, result, files))
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(path)


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
