"""Where Amphion's text-to-audio weights lie: `ckpts/tta/RUN/checkpoints/step-*.pt` and `hifigan_checkpoints/g_*`.

Looks at names only and imports nothing slow.
"""

import json
import re
from pathlib import Path

from sonolume.utils.errors import UserError

RUNS = {  # network -> latent size -> name of the published run
    "vae": {"4_5_39": "autoencoder_kl_debug", "4_10_78": "autoencoder_kl_debug_latent_size_4_10_78"},
    "audioldm": {
        "4_5_39": "audioldm_debug_latent_size_4_5_39",
        "4_10_78": "audioldm_debug_latent_size_4_10_78",
    },
    "hifigan": {"": "hifigan_checkpoints"},
}
LATENTS = tuple(RUNS["vae"])
FILES = {"step-0570000_loss-0.2521.pt": "4_5_39", "step-0325000_loss-0.1936.pt": "4_10_78"}  # the published U-Nets
WEIGHTS = {"vae": "step-*.pt", "audioldm": "step-*.pt", "hifigan": "g_*"}


def weights_file(source: Path, network: str) -> Path:
    """The file of weights that a user means by a file, a run's folder, or the root of the published folders.

    Args:
        network: "vae", "audioldm" or "hifigan".

    Raises:
        UserError: nothing there, two published sizes to choose from, or a folder that needs no conversion.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    if is_model_folder(source):
        raise UserError(f"{source}: is a folder of diffusers or transformers already: nothing to convert")
    runs = [_root(source) / name for name in RUNS[network].values()]
    there = [run for run in runs if run.is_dir()]
    if len(there) > 1:
        raise UserError(f"{source}: both published sizes are there, name one: {' or '.join(map(str, there))}")
    return newest(there[0] if there else source, WEIGHTS[network])


def newest(run: Path, pattern: str) -> Path:
    """The newest weights of a run: the last line of its list `checkpoint`, else the highest step.

    Raises:
        UserError: it has none.
    """
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    found = sorted(folder.glob(pattern), key=lambda path: (step_of(path) or 0, path.name))
    if not found:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise UserError(f"{folder}: no {pattern} in it; it holds: {names}")
    kept = folder / "checkpoint"  # the trainer's list of files
    lines = kept.read_text(encoding="utf-8", errors="replace").split() if kept.is_file() else []
    last = folder / Path(lines[-1]).name if lines else found[-1]
    return last if last in found else found[-1]


def step_of(path: Path) -> int | None:
    """570000 of `step-0570000_loss-0.2521.pt`, 1250000 of `g_01250000`."""
    found = re.match(r"(?:step-|g_)(\d+)", path.name)
    return int(found[1]) if found else None


def latent_of(path: Path) -> str | None:
    """Which latent size a published U-Net is of, by its name or its run's; None if they say nothing.

    Both have the same shapes, so nothing else tells them apart.
    """
    runs = {run: latent for latent, run in RUNS["audioldm"].items()}
    return next((runs[name] for name in path.absolute().parts if name in runs), FILES.get(path.name))


def published(source: Path, latent: str | None) -> dict[str, str]:
    """The weights of one published size: {"vae": FILE, "unet": FILE, "vocoder": FILE if it is there}.

    Raises:
        UserError: the pair of networks is not there, or both sizes are and `latent` does not choose.
    """
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
        names = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:8]) or "no folder"
        raise UserError(f"{root}: not the published layout: expected {pairs}; found {names}")
    runs = {"vae": RUNS["vae"][wanted[0]], "unet": RUNS["audioldm"][wanted[0]]}
    given = {part: str(newest(root / run, "step-*.pt")) for part, run in runs.items()}
    vocoder = root / RUNS["hifigan"][""]
    return given | ({"vocoder": str(newest(vocoder, "g_*"))} if vocoder.is_dir() else {})


def _root(source: Path) -> Path:
    """The folder of the published runs: `source`, its `tta`, or its `ckpts/tta`."""
    names = [name for runs in RUNS.values() for name in runs.values()]
    for root in (source, source / "tta", source / "ckpts" / "tta"):
        if any((root / name).is_dir() for name in names):
            return root
    return source


def is_model_folder(folder: Path) -> bool:
    """True for what `save_pretrained` wrote (a published vocoder's config.json is of another kind)."""
    if (folder / "model_index.json").is_file():
        return True
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or none of this kind
        return False
    return isinstance(config, dict) and bool({"_class_name", "architectures"} & set(config))
