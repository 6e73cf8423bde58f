"""Load frozen models of transformers from a folder or hub id; UserErrors name what is missing or damaged."""

import pickle
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import is_torchvision_available, logging

from sonolume.utils import checkpoint, files, paths
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.model_folder import CLASS_KEYS

UNREADABLE = (*checkpoint.DAMAGED, SafetensorError, StrictDataclassError, pickle.UnpicklingError)
OLD_CLASSES = ("CLIPFeatureExtractor", "SiglipFeatureExtractor")  # names of image processors in older folders
UNUSED_WEIGHTS = ("masked_spec_embed",)  # needed in training only


def model_settings(where: str, name: str, types: tuple[str, ...], revision: str | None = None) -> dict[str, Any]:
    """Read the config.json of a folder or hub id; a UserError, which begins with `name`, for other types."""
    try:
        settings, _ = transformers.PretrainedConfig.get_config_dict(where, revision=revision)
    except UNREADABLE as error:
        raise UserError(f"{name} cannot be loaded: {first_line(error)}") from error
    if (found := settings.get("model_type")) not in types:
        raise UserError(f"{name}: holds a model of type {found}, not {types[0]}")
    _check_classes(settings, name)
    for path in sorted(Path(where).glob("*config.json")) if paths.is_local(where) else []:  # tokenizer and processor
        _check_classes(files.read_json(path), f"{name}: {path.name}")
    return settings


def _check_classes(settings: dict[str, Any], name: str) -> None:
    """Refuse names of classes that are not transformers' own; see `model_folder` for the reason."""
    use_pil_processors()
    for key in CLASS_KEYS.keys() & settings.keys():
        value = settings[key]
        for given in value if isinstance(value, list) else [value]:
            known = given is None or given in OLD_CLASSES or isinstance(getattr(transformers, str(given), None), type)
            if key == "auto_map" or not known:
                raise UserError(f"{name}: names {key} {str(given)[:80]!r}: get the model from where it was published")


def use_pil_processors() -> None:
    """Use the PIL image processors that transformers would fall back to, without its warnings.

    Call it before transformers is asked for such a class, as by the first import of a pipeline of diffusers.
    Torchvision is no dependency.
    """
    if not is_torchvision_available():
        for name in ("CLIPImageProcessor", "SiglipImageProcessor"):
            setattr(transformers, name, getattr(transformers, f"{name}Pil"))


def load_model(
    model_class: Any, where: str, name: str, revision: str | None = None, dtype: torch.dtype = torch.float32,
    fresh: tuple[str, ...] = (), **options: Any,
) -> Any:  # fmt: skip
    """Load a frozen model in evaluation mode on the CPU.

    Args:
        fresh: beginnings of the names of weights that may be missing, and are random then.
        options: more arguments of `from_pretrained`, such as a part of the config.

    Raises:
        UserError: missing, damaged, or lacking weights, which transformers would replace by random numbers.
    """
    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # heads that are not used here are reported as missing otherwise
    logging.disable_progress_bar()
    try:
        options |= {"revision": revision, "dtype": dtype, "output_loading_info": True}
        model, info = model_class.from_pretrained(where, **options)
    except UNREADABLE as error:
        raise UserError(f"{name} cannot be loaded: {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
    needed = (key for key in info["missing_keys"] if not key.startswith(fresh))
    missing = sorted(key for key in needed if not key.endswith(UNUSED_WEIGHTS))
    if missing:
        raise UserError(f"{name}: {len(missing)} weights are missing, such as {missing[0]}")
    return model.eval().requires_grad_(False)


def load_processor(loader: Any, where: str, name: str, revision: str | None = None, **settings: Any) -> Any:
    """Load the tokenizer, image processor or feature extractor of a model."""
    try:
        return loader.from_pretrained(where, revision=revision, trust_remote_code=False, **settings)
    except UNREADABLE as error:
        what = loader.__name__.removeprefix("Auto")
        raise UserError(f"{name}: its {what} cannot be loaded: {first_line(error)}") from error
