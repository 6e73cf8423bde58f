"""What a training needs besides its config, checked before torch is imported, which takes seconds."""

import os
from pathlib import Path

from sonolume.config.base import DataConfig, RunConfig
from sonolume.utils.errors import UserError

LAUNCHERS = ("WORLD_SIZE", "NODE_RANK", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # set one of these


def last_checkpoint(run_dir: Path) -> Path:
    """Return the file from which a run resumes."""
    return run_dir / "checkpoints" / "last.ckpt"


def check_run(run_dir: Path, resume: bool) -> None:
    """Raise a UserError if a new run finds another one in its folder, or a resumed one finds none."""
    last = last_checkpoint(run_dir)
    if last.exists() and not resume:
        raise UserError(f"{last}: a run exists already: continue it with --resume or choose another exp_name=...")
    if resume and not last.exists():
        raise UserError(f"{last}: nothing to resume: no checkpoint was saved there yet")


def check_nodes(num_nodes: int) -> None:
    """Raise a UserError for several machines without a launcher, whose other processes would be awaited for an hour."""
    if num_nodes > 1 and not any(name in os.environ for name in LAUNCHERS):
        raise UserError(f"train.num_nodes {num_nodes}: start this command on every machine with torchrun or SLURM")


def check_data(config: RunConfig) -> None:
    """Raise a UserError if a data set of the config is not prepared; some recipes generate their data instead."""
    section = getattr(config, "preprocess", None)
    if isinstance(section, DataConfig):
        from sonolume.preprocessors import prepared  # reads sounds, which other commands do not need

        prepared.check_prepared(section, config.dataset)
