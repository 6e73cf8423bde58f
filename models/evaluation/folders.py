"""A folder of generated sounds against recordings, by metrics that know no recipe."""

import argparse
import json
from pathlib import Path

from sonolume.models import inference
from sonolume.models.embedders.load import check, load
from sonolume.models.evaluation import results
from sonolume.models.evaluation.pairing import by_uid
from sonolume.models.evaluation.protocol import fingerprint
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.sounds import Sounds, score
from sonolume.utils import manifest
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

CACHE = "embeddings"  # in the output folder, unless --cache_dir names another


def run(args: argparse.Namespace) -> None:
    """Score --generated against --reference by every --embedder; write report.json and report.md.

    Raises:
        UserError: no embedder, nothing to score, or an input that cannot be used.
    """
    if not args.embedder:
        raise UserError("--generated needs --embedder KIND:SOURCE, such as clap:laion/clap-htsat-unfused or mel:")
    for spec in args.embedder:
        check(spec)
    sounds = gather(args.generated, args.reference)
    device = inference.pick_device(args.device)
    embedders = [load(spec, device) for spec in args.embedder]
    folder = inference.make_folder(args.output_dir)
    conditions = fingerprint(
        [embedder.name for embedder in embedders],
        sounds.reference or sounds.captions.values(),
        len(sounds.generated),
        inference.versions(),
        heard=[embedder.facts() for embedder in embedders],
    )
    result = Result(conditions, facts={"generated": str(args.generated), "reference": str(args.reference or "none")})
    for embedder in embedders:
        score(result, sounds, embedder, args.cache_dir or folder / CACHE, args.batch_size)
    path = results.write(result, folder)
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(path)


def gather(generated: Path, reference: Path | None) -> Sounds:
    """Sounds by Uid (file name without suffix). Captions are the reference's, else those in the json beside a sound.

    Raises:
        UserError: a folder or manifest that cannot be read, or holds no sounds.
    """
    root = generated if generated.is_dir() else generated.parent
    made = by_uid(manifest.find_sounds(generated), root)
    rows = [] if reference is None else [row for row in manifest.read_manifest(reference) if row.audio]
    if reference is not None and not rows:
        raise UserError(f"--reference {reference}: names no sounds")
    captions = {uid: text for uid, path in made.items() if (text := _text_beside(path))}
    captions |= {row.uid: row.captions[0] for row in rows if row.captions}
    labels = {row.uid: row.label for row in rows if row.label}
    return Sounds(made, {row.uid: _audio(row) for row in rows}, captions, labels)


def _audio(row: Row) -> Path:
    assert row.audio is not None
    return row.audio


def _text_beside(sound: Path) -> str:
    """What run_inference.sh wrote into the json beside a sound; "" without one."""
    path = sound.with_suffix(".json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    text = content.get("text") if isinstance(content, dict) else None
    return text if isinstance(text, str) else ""
