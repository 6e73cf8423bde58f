"""Official files on disk: how a file, a run's folder or a folder of published runs is named. Imports nothing slow.

Amphion publishes `ckpts/tta/RUN/checkpoints/step-*.pt` and `ckpts/tta/hifigan_checkpoints/g_*`.
"""

import re
from pathlib import Path

from sonolume.utils import paths
from sonolume.utils.errors import UserError

RUNS = {  # network -> latent size -> name of the published run
    "vae": {"4_5_39": "autoencoder_kl_debug", "4_10_78": "autoencoder_kl_debug_latent_size_4_10_78"},
    "audioldm": {size: f"audioldm_debug_latent_size_{size}" for size in ("4_5_39", "4_10_78")},
    "hifigan": {"": "hifigan_checkpoints"},
}
LATENTS = tuple(RUNS["vae"])
FILES = {"step-0570000_loss-0.2521.pt": "4_5_39", "step-0325000_loss-0.1936.pt": "4_10_78"}  # the published U-Nets
WEIGHTS = {"vae": "step-*.pt", "audioldm": "step-*.pt", "hifigan": "g_*"}


def find_files(source: Path, *patterns: str) -> list[Path]:
    """Return the file itself, or the files of a folder that match the first pattern with any match, sorted.

    Raises:
        UserError: no such file, no match, or a folder that needs no conversion; so do all functions of this module.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    if kind := paths.kind_of(source):  # the config.json of a published vocoder names none
        raise UserError(f"{source}: holds {kind} already: nothing to convert")
    found = next((found for pattern in patterns if (found := sorted(source.glob(pattern)))), [])
    if not found:
        raise UserError(f"{source}: no {' or '.join(patterns)} in it; it holds: {_list(source)}")
    return found


def weights_file(source: Path, network: str) -> Path:
    """Find the weights of a network ("vae", "audioldm", "hifigan") in a file, a run's folder, or that of all runs."""
    runs = [run for name in RUNS[network].values() if (run := _root(source) / name).is_dir()]
    if len(runs) > 1:
        raise UserError(f"{source}: both published sizes are there, name one: {' or '.join(map(str, runs))}")
    return _newest(runs[0] if runs else source, WEIGHTS[network])


def _newest(run: Path, pattern: str) -> Path:
    """Find the newest weights of a run: the last line of its list `checkpoint`, else the highest step."""
    found = find_files(run / "checkpoints" if (run / "checkpoints").is_dir() else run, pattern)
    listing = found[0].with_name("checkpoint")  # written by the official trainer
    lines = listing.read_text(encoding="utf-8", errors="replace").split() if listing.is_file() else []
    listed = [path for path in found if lines and path.name == Path(lines[-1]).name]
    return listed[0] if listed else max(found, key=lambda path: (step_of(path) or 0, path.name))


def step_of(path: Path) -> int | None:
    """Parse the training step: 570000 of `step-0570000_loss-0.2521.pt`, 1250000 of `g_01250000`."""
    found = re.match(r"(?:step-|g_)(\d+)", path.name)
    return int(found[1]) if found else None


def latent_of(path: Path) -> str | None:
    """Derive the latent size of a published U-Net, which its weights do not show, from its name or its run's."""
    runs = {run: latent for latent, run in RUNS["audioldm"].items()}
    return next((runs[name] for name in path.absolute().parts if name in runs), FILES.get(path.name))


def published(source: Path, latent: str | None) -> dict[str, str]:
    """Find the files of "vae", "unet" and, if it exists, "vocoder" of one published size; None if there is only one."""
    if not source.is_dir():
        what = "is a file, not the folder of the published runs" if source.exists() else "no such folder"
        raise UserError(f"{source}: {what}")
    root = _root(source)
    complete = [size for size in LATENTS if all((root / RUNS[kind][size]).is_dir() for kind in ("vae", "audioldm"))]
    if latent is None and len(complete) > 1:
        raise UserError(f"{root}: both published sizes are there: choose with --latent {' or --latent '.join(LATENTS)}")
    wanted = [latent] if latent else complete or list(LATENTS)
    if wanted[0] not in complete:
        pairs = " or ".join(f"{RUNS['audioldm'][size]} with {RUNS['vae'][size]}" for size in wanted)
        raise UserError(f"{root}: not the published layout: expected {pairs}; it holds: {_list(root)}")
    parts = {"vae": ("vae", wanted[0]), "unet": ("audioldm", wanted[0]), "vocoder": ("hifigan", "")}
    runs = {part: root / RUNS[network][size] for part, (network, size) in parts.items()}
    return {part: str(_newest(run, WEIGHTS[parts[part][0]])) for part, run in runs.items() if run.is_dir()}


def _root(source: Path) -> Path:
    """Return the folder of the published runs: `source`, its `tta`, or its `ckpts/tta`."""
    names = [name for runs in RUNS.values() for name in runs.values()]
    roots = (source, source / "tta", source / "ckpts" / "tta")
    return next((root for root in roots if any((root / name).is_dir() for name in names)), source)


def _list(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
