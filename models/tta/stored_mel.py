"""Mel settings that are stored with a model."""

from pathlib import Path
from typing import Any

from sonolume.utils import files, paths

MEL_FILE = "mel.json"  # fields of `MelSettings`; of an autoencoder also "frames"


def read(located: str) -> dict[str, Any]:
    """Fields of `MelSettings`, and "frames" if known, of a model or pipeline folder; {} if it has none, or on the hub.

    Args:
        located: a local folder or a hub id.

    Raises:
        UserError: the file is broken.
    """
    folder = Path(located)
    if paths.is_local(located) and (folder / MEL_FILE).is_file():
        return files.read_json(folder / MEL_FILE)
    if paths.is_local(located) and (folder / "model_index.json").is_file():
        index = files.read_json(folder / "model_index.json")
        return index.get("mel", {}) | {name: index[name] for name in ("frames",) if name in index}
    return {}
