"""Mel settings that are stored with a model."""

from pathlib import Path
from typing import Any

from sonolume.utils import files, hub

MEL_FILE = "mel.json"  # fields of `MelSettings`; of an autoencoder also "frames"


def read(located: str) -> dict[str, Any]:
    """Read the mel settings of a model folder, or of the pipeline folder that holds the model.

    Args:
        located: a local folder or a hub id.

    Returns:
        Fields of `MelSettings` and, if known, "frames"; {} if there are none.

    Raises:
        UserError: the file is broken.
    """
    folder = Path(located)
    if hub.is_local(located) and (folder / MEL_FILE).is_file():
        return files.read_json(folder / MEL_FILE)
    if hub.is_local(located) and (folder / "model_index.json").is_file():
        index = files.read_json(folder / "model_index.json")
        return index.get("mel", {}) | ({"frames": index["frames"]} if "frames" in index else {})
    return {}
