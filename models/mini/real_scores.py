"""A judge on real renderings of scenes that it never met: nothing generated can be scored better than these are."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from sonolume.config.base import RunConfig
from sonolume.models import inference
from sonolume.models.evaluation import results
from sonolume.models.evaluation.embedders.base import hash_of
from sonolume.models.evaluation.heldout import TEST_SEED
from sonolume.models.evaluation.protocol import fingerprint
from sonolume.models.evaluation.results import Result
from sonolume.models.mini.scores import CHANCE
from sonolume.modules.judges import WEIGHTS_FILE
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld import WORLD, world
from sonolume.preprocessors.miniworld.scene import Scene

HEADLINES = ("single", "over: both")


def find_judge(config: RunConfig, args: argparse.Namespace) -> Path:
    """--checkpoint, else the run's own folder, else the shipped judge of this name."""
    return Path(inference.find_checkpoint(args.checkpoint, config, f"pretrained/mini/{config.exp_name}"))


def test_scenes(count: int) -> list[Scene]:
    return list(world.scenes("test", count, TEST_SEED))


def write(
    args: argparse.Namespace, judge: Path, scenes: Sequence[Scene], shares: Mapping[str, Share], judged: str
) -> None:
    """report.json and report.md in --output_dir, which are printed, too.

    Args:
        judged: "sounds" or "pictures".
    """
    asked = [scene.uid for scene in scenes]
    name = f"{judge.name}@{hash_of(judge / 'config.json', judge / WEIGHTS_FILE)}"
    result = Result(
        fingerprint([], asked, len(scenes), seed=TEST_SEED, world=WORLD, judged=f"real {judged}"),
        facts={"judge": name, "real renderings": len(scenes), "world": WORLD},
    )
    for score, share in shares.items():
        result.add_share(score, share, CHANCE[score], headline=score in HEADLINES)
    folder = inference.make_folder(args.output_dir)
    report = results.write(result, folder)
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(report)
