"""Steps that all converters of official checkpoints share."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import transformers.utils.logging
from torch import Tensor
from tqdm import tqdm

from sonolume.utils import checkpoint, files

SOURCE_FILE = "source.json"  # in a converted folder: its official file, and how that was trained
LIGHTNING = "a training checkpoint of Lightning: the model of a run is its folder pipeline/"


@contextmanager
def converted_folder(folder: Path, path: Path, what: str, source: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty folder for the converted model of `path`; it appears as `folder`, with `source`, when complete."""
    print(f"{path}: {what}: writing {folder} ...", file=sys.stderr)
    disable_progress_bars()
    with files.atomic_folder(folder) as temporary:
        yield temporary
        files.write_json(temporary / SOURCE_FILE, source)


def disable_progress_bars() -> None:
    """Silence the bars that the libraries show for every file."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def count_weights(model: Any) -> str:
    """Format the size of a model, as in "3.9 M weights"."""
    return f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M weights"


def fill(model: Any, weights: dict[str, Tensor]) -> Any:
    """Load all weights into a model on the meta device, and freeze it for evaluation.

    Raises:
        ValueError: a name or shape does not fit, or a weight is not finite.
    """
    if difference := checkpoint.first_difference(weights, model.state_dict()):
        raise ValueError(difference)
    for name, tensor in tqdm(weights.items(), desc="reading", unit="tensor", leave=False, delay=1):
        if not tensor.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinite values: its training had diverged")
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def first_names(content: Mapping[Any, Any]) -> str:
    """List the first keys of a mapping, for a message."""
    names = [str(name) for name in content]
    return ", ".join(names[:3] + ["..."] * (len(names) > 3)) or "nothing"


def is_weights(content: Any) -> bool:
    """Whether an object is a non-empty dictionary of tensors."""
    return isinstance(content, dict) and bool(content) and all(isinstance(one, Tensor) for one in content.values())


def strip_module(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that training on several GPUs leaves in front of all names."""
    return {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}
