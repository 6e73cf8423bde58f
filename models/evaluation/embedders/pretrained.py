"""Models of transformers by hub id or folder, with a name that changes when their weights do."""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging

from sonolume.utils import checkpoint, hub
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError, first_line

UNREADABLE = (*checkpoint.DAMAGED, SafetensorError, pickle.UnpicklingError)
HASHED_SUFFIXES = {".json", ".safetensors", ".bin", ".txt", ".model"}  # files of a folder that determine the model
UNUSED_WEIGHTS = ("masked_spec_embed",)  # needed in training only


class Source(NamedTuple):
    """Location of a model, written `ID`, `ID@REVISION` or `FOLDER`."""

    kind: str
    where: str
    revision: str | None

    @classmethod
    def parse(cls, kind: str, text: str) -> "Source":
        """Parse a source; raises a UserError for a folder that does not exist."""
        folder = Path(text).expanduser()
        if folder.is_dir():
            return cls(kind, str(folder.resolve()), None)
        name, _, revision = text.partition("@")
        return cls(kind, hub.locate(name, f"embedder {kind}:", "give a folder or an id of the hub"), revision or None)

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}"


def load_model(model_class: Any, source: Source, device: torch.device | str) -> tuple[Any, str]:
    """Load a frozen model in evaluation mode, and its name for reports.

    Raises:
        UserError: the model is missing, damaged, of another type, or lacks weights.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # heads that are not used here are reported as missing otherwise
    try:
        settings, _ = PretrainedConfig.get_config_dict(source.where, revision=source.revision)
        found, expected = settings.get("model_type"), model_class.config_class.model_type
        if found != expected:
            raise UserError(f"embedder {source}: holds a model of type {found}, not {expected}")
        model, info = model_class.from_pretrained(
            source.where, revision=source.revision, dtype=torch.float32, output_loading_info=True
        )
    except UNREADABLE as error:
        raise UserError(f"embedder {source} cannot be loaded: {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(UNUSED_WEIGHTS))
    if missing:
        raise UserError(f"embedder {source}: {len(missing)} weights are missing, such as {missing[0]}")
    return model.eval().requires_grad_(False).to(device), _versioned_name(source)


def load_processor(loader: Any, source: Source, **settings: Any) -> Any:
    """Load the tokenizer or processor of a model; raises a UserError if it cannot be loaded."""
    try:
        return loader.from_pretrained(source.where, revision=source.revision, **settings)
    except UNREADABLE as error:
        what = loader.__name__.removeprefix("Auto")
        raise UserError(f"embedder {source}: its {what} cannot be loaded: {first_line(error)}") from error


def pooled(output: Any) -> Tensor:
    """Return the pooled features (B, d): transformers 5 returns an output object where 4 returned the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _versioned_name(source: Source) -> str:
    """Name a local model by the content of its folder, a hub model by its commit."""
    if not hub.is_local(source.where):
        path = try_to_load_from_cache(source.where, "config.json", revision=source.revision)
        if not isinstance(path, str):
            raise UserError(f"embedder {source}: its version is unknown because it is not in the hub's cache")
        return f"{source}@{Path(path).parent.name}"  # .../snapshots/COMMIT/config.json
    folder = Path(source.where)
    files = sorted(path for path in folder.iterdir() if path.suffix in HASHED_SUFFIXES and path.is_file())
    return f"{source.kind}:{folder.name}@{content_hash(*files)}"
