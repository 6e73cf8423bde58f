"""Models of transformers by hub id or folder, with a name that changes when they do."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor
from transformers import PretrainedConfig
from transformers.utils import logging

from sonolume.models.evaluation.embedders.base import hash_of
from sonolume.utils import checkpoint, hub
from sonolume.utils.errors import UserError, first_line

UNREADABLE = (*checkpoint.DAMAGED, SafetensorError, pickle.UnpicklingError)
PARTS_OF_A_MODEL = {".json", ".safetensors", ".bin", ".txt", ".model"}
UNUSED = ("masked_spec_embed",)  # weights that only training needs


class Source(NamedTuple):
    """Where a model is, from `ID`, `ID@REVISION` or `FOLDER`."""

    kind: str
    where: str
    revision: str | None

    @classmethod
    def of(cls, kind: str, text: str) -> "Source":
        """Raises a UserError for a folder that is not there; a folder is looked for as `hub.locate` does."""
        here = Path(text).expanduser()
        if here.is_dir():
            return cls(kind, str(here.resolve()), None)
        name, _, revision = text.partition("@")
        return cls(kind, hub.locate(name, f"embedder {kind}:", "give a folder or an id of the hub"), revision or None)

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}"


def load_model(model_class: Any, source: Source, device: torch.device | str) -> tuple[Any, str]:
    """A frozen model in evaluation mode and its name.

    Raises:
        UserError: it is not there, of another type, damaged, or lacks weights.
    """
    try:
        settings, _ = PretrainedConfig.get_config_dict(source.where, revision=source.revision)
        found, wanted = settings.get("model_type"), model_class.config_class.model_type
        if found != wanted:
            raise UserError(f"embedder {source}: holds a model of type {found}, not {wanted}")
        with _only_errors():  # weights of heads that are not needed here are no news
            model, info = model_class.from_pretrained(
                source.where, revision=source.revision, dtype=torch.float32, output_loading_info=True
            )
    except UNREADABLE as error:
        raise UserError(f"embedder {source} cannot be loaded: {first_line(error)}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(UNUSED))
    if missing:
        raise UserError(f"embedder {source}: lacks {len(missing)} weights, such as {missing[0]}: not a whole model")
    return model.eval().requires_grad_(False).to(device), _name(source)


def load_part(loader: Any, source: Source, **settings: Any) -> Any:
    """A tokenizer or a processor that lies beside the model; raises a UserError where it cannot be loaded."""
    try:
        return loader.from_pretrained(source.where, revision=source.revision, **settings)
    except UNREADABLE as error:
        what = loader.__name__.removeprefix("Auto")
        raise UserError(f"embedder {source}: its {what} cannot be loaded: {first_line(error)}") from error


def pooled(output: Any) -> Tensor:
    """(B, d): some releases of transformers return the tensor itself, others an output that holds it."""
    return output if isinstance(output, Tensor) else output.pooler_output


@contextmanager
def _only_errors() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _name(source: Source) -> str:
    """Folders are told apart by what they hold, not by where they lie; models of the hub by their commit."""
    if not hub.is_local(source.where):
        cached = try_to_load_from_cache(source.where, "config.json", revision=source.revision)
        if not isinstance(cached, str):
            raise UserError(f"embedder {source}: its version is unknown, because it is not in the hub's cache")
        return f"{source}@{Path(cached).parent.name}"  # .../snapshots/COMMIT/config.json
    folder = Path(source.where)
    files = sorted(path for path in folder.iterdir() if path.suffix in PARTS_OF_A_MODEL and path.is_file())
    return f"{source.kind}:{folder.name}@{hash_of(*files)}"
