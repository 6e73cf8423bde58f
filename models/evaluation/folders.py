"""Score a folder of generated sounds or pictures: `run_eval.sh --generated --reference` of every recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sonolume.models import runtime
from sonolume.models.evaluation import figures, reconstruction
from sonolume.models.evaluation.collect import collect
from sonolume.models.evaluation.embedders.base import BATCH_SIZE
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.metrics import add_onset_scores, add_scores
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import Files
from sonolume.modules.mel import MelSettings
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError


class FolderScoring(Protocol):
    """The flags of run_eval.sh that score a folder."""

    generated: Path | None
    reference: Path | None
    embedder: list[str]
    device: str
    output_dir: Path
    cache_dir: Path | None


def score_folder(options: FolderScoring, batch_size: int = BATCH_SIZE, mel: MelSettings | None = None) -> None:
    """Write report.json, report.md and sheets of the samples.

    Args:
        mel: of recipes that reconstruct sounds: also score each sound by its distance to the reference of its Uid, and
            require no embedder.

    Raises:
        UserError: no embedder, nothing to score, or an input that cannot be used.
    """
    generated, reference, folder = options.generated, options.reference, options.output_dir
    if generated is None:
        flag = "embedder" if reference is None else "reference"
        raise UserError(f"--{flag} needs --generated FOLDER: the sounds or pictures that are scored")
    if mel is not None and reference is None:
        raise UserError("--generated needs --reference FOLDER_OR_MANIFEST: the sounds that were reconstructed")
    if mel is None and not options.embedder:
        raise UserError("--generated needs --embedder KIND:SOURCE, such as clap:laion/clap-htsat-unfused or mel:")
    report = Report({}, facts={"generated": str(generated), "reference": str(reference or "none")})
    samples = collect(generated, reference, report)
    embedders = load_all(options.embedder, runtime.pick_device(options.device))
    for embedder in embedders:
        embedder.require(samples.medium.plural)
    takes = {medium for embedder in embedders for medium in embedder.takes}
    uses_labels = "texts" in takes or any(embedder.labels for embedder in embedders)
    compared: list[Files | Mapping[str, str]] = [  # by Uid; empty if no embedder uses it
        samples.reference,
        samples.inputs if samples.other.plural in takes else {},
        samples.captions if "texts" in takes else {},
        samples.labels if uses_labels else {},
    ]
    if embedders and reference is not None and not any(compared):
        names, what = " and ".join(embedder.name for embedder in embedders), samples.medium.plural
        raise UserError(f"--reference {reference}: holds no {what}, and nothing else that {names} uses")
    if mel is not None:
        reconstruction.add_pair_distances(report, samples, mel)
    if embedders:
        uids = dict.fromkeys(uid for side in compared for uid in side)
        contents = [str((uid, *(_content(side.get(uid)) for side in compared))) for uid in uids]
        paired = sorted(samples.generated.keys() & uids.keys())
        report.conditions |= measurement_conditions(
            [embedder.facts() for embedder in embedders], contents, len(samples.generated),
            compared=samples.medium.plural, pairs=len(paired), pairs_hash=content_hash(paired),
        )  # fmt: skip
        add_scores(report, samples, embedders, options.cache_dir or folder / EMBEDDINGS, batch_size)
        if samples.videos:
            add_onset_scores(report, samples.generated, samples.reference)
    folder.mkdir(parents=True, exist_ok=True)
    finish(report, folder, figures.sample_sheets(folder, report, samples))


def _content(found: Path | str | None) -> str | None:
    """Return the hash of a file, or a text as it is."""
    if not isinstance(found, Path):
        return found
    try:
        return content_hash(found)
    except OSError:  # reported when it is embedded
        return "unreadable"
