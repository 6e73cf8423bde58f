"""Sounds -> pictures through AudioToken, or the tags that its BEATs hears."""

import argparse
import sys
from pathlib import Path

from sonolume.config.a2i.audiotoken import Config
from sonolume.models import inference as device
from sonolume.models.a2i import inference, sounds, tags
from sonolume.models.a2i.audiotoken.encoder import load, load_beats
from sonolume.models.a2i.loading import read_settings
from sonolume.modules.beats.beats import BEATs
from sonolume.utils import paths
from sonolume.utils.errors import UserError

SHIPPED = "pretrained/mini/audiotoken"  # where the run has no exported folder
SHIPPED_BEATS = "pretrained/mini/beats"


def run(config: Config, args: argparse.Namespace) -> None:
    """A picture of every sound (`models/a2i/inference.run`), or with --tags what is heard in it."""
    if args.tags:
        files = sounds.find(args.audio, config.recipe)
        beats = find_beats(config, args.checkpoint)
        beats.to(device.pick_device(args.device))  # type: ignore[arg-type]
        print_tags(beats, files)
    else:
        inference.run(config, args, load, SHIPPED)


def find_beats(config: Config, checkpoint: str | None) -> BEATs:
    """That of --checkpoint, else the config's, else the shipped miniature one (which is said on stderr)."""
    if checkpoint is not None:
        where = device.find_checkpoint(checkpoint, config, SHIPPED)
        folder, settings = read_settings(where, config.recipe)
        return load_beats(settings.get("beats", ""), f"{folder}: beats")
    if paths.resolve(config.model.beats).is_dir():
        return load_beats(config.model.beats)
    print(f"no BEATs at {config.model.beats}: using the shipped miniature one, {SHIPPED_BEATS} "
          "(another: model.beats=FOLDER)", file=sys.stderr)  # fmt: skip
    return load_beats(SHIPPED_BEATS, "the shipped")


def print_tags(beats: BEATs, files: list[Path]) -> None:
    """The tags of each file; of several, one that cannot be read is told on stderr and passed over.

    Raises:
        UserError: none of them can be read.
    """
    left_out = 0
    for path in files:
        try:
            tags.print_tags(beats, [path])
        except UserError as error:
            if len(files) == 1:
                raise
            left_out += 1
            print(f"left out: {error}", file=sys.stderr)
    if left_out == len(files):
        raise UserError(f"none of the {left_out} sounds can be used")
    if left_out:
        print(f"{left_out} of {len(files)} sounds were left out", file=sys.stderr)
