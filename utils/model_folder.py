"""Where a model is loaded from: a folder or an id of the model hub, and which classes it may name.

diffusers and transformers import what the settings of a folder name, and may run code that lies in it. Therefore every
name in those files is compared with the classes below before a library reads them, in folders as in downloads.
Exported folders carry a copy of this file: it needs the standard library only, and raises ValueErrors.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
INDEX = "model_index.json"
SETTINGS = (INDEX, "config.json", "audio_to_image.json", "im2wav.json")  # of all kinds of folders
HUB_ERRORS = {  # exception of huggingface_hub -> its meaning
    "OfflineModeIsEnabled": "not downloaded before, and downloads are off (HF_HUB_OFFLINE) or the hub does not answer",
    "GatedRepoError": "ask for access on its page, and log in (hf auth login)",
    "RepositoryNotFoundError": "no model of this name, or a private one (hf auth login)",
}
PIPELINES = ("TextToAudioPipeline", "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
SCHEDULERS = (
    "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE",
    "DPMSolverSinglestep", "EDMDPMSolverMultistep", "EDMEuler", "EulerAncestralDiscrete", "EulerDiscrete",
    "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "HeunDiscrete", "IPNDM",
    "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep",
)  # fmt: skip
COMPONENTS: dict[str, tuple[str, tuple[str, ...]]] = {  # of a pipeline -> library and classes
    "vae": ("diffusers", ("AutoencoderKL",)),
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "scheduler": ("diffusers", tuple(f"{name}Scheduler" for name in SCHEDULERS)),
    "text_encoder": ("transformers", ("T5EncoderModel", "CLIPTextModel", "CLIPTextModelWithProjection")),
    "tokenizer": (
        "transformers", ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast", "ByT5Tokenizer",
                         "PreTrainedTokenizerFast", "TokenizersBackend"),
    ),
    "vocoder": ("transformers", ("SpeechT5HifiGan",)),
    "safety_checker": ("stable_diffusion", ("StableDiffusionSafetyChecker",)),
    "feature_extractor": ("transformers", ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil",
                                           "CLIPFeatureExtractor", "SeamlessM4TFeatureExtractor")),
    "image_encoder": ("transformers", ("CLIPVisionModelWithProjection",)),
}  # fmt: skip
OTHERS = {  # of single networks, which are no part of a pipeline -> classes, besides those above
    "tokenizer": ("Wav2Vec2CTCTokenizer",),
    "feature_extractor": (
        "Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor", "ViTFeatureExtractor",
        *(f"{kind}ImageProcessor{suffix}" for kind in ("ViT", "DeiT", "Bit", "Beit") for suffix in ("", "Fast", "Pil")),
    ),
}  # fmt: skip
WHOLE_MODELS = ("CLIPModel", "T5Model", "T5ForConditionalGeneration")  # whose weights an encoder may be read from
CLASS_KEYS = {  # settings that name a class -> component of that kind; "" is the network of the folder itself
    "_class_name": "", "architectures": "", "tokenizer_class": "tokenizer", "auto_map": "code",
    "feature_extractor_type": "feature_extractor", "image_processor_type": "feature_extractor",
}  # fmt: skip


def find_folder(source: str | os.PathLike[str], base: Path | None = None) -> Path | None:
    """Return the folder that `source` names, as an absolute path, or None if it is an id of the model hub.

    A relative path is relative to `base`, by default the working directory. Of a missing path `owner/name`, only one
    whose `owner` is no folder is an id.

    Raises:
        ValueError: a file, or a missing folder.
    """
    given = os.fspath(source)
    path = os.path.join(base or Path.cwd(), os.path.expanduser(given))
    if os.path.isdir(path):
        return Path(os.path.abspath(path))
    if os.path.exists(path):
        raise ValueError(f"{given}: is a file, not the folder of a model")
    is_in_folder = "/" in given and os.path.isdir(os.path.dirname(path))
    if HUB_ID.fullmatch(given) and not given.startswith(".") and not is_in_folder:
        return None
    raise ValueError(f"{given}: no such folder")


def hub_error(error: Exception) -> str:
    """Describe in one line why huggingface_hub has no model of a name."""
    names = {type(one).__name__ for one in (error, error.__cause__)}
    lines = str(error).strip().splitlines() or [type(error).__name__]
    own = re.sub(r"^Got: \w+: ", "", lines[0])[:200]
    reason = next((HUB_ERRORS[name] for name in HUB_ERRORS if name in names), own)
    return f"neither a folder nor available from the hub: {reason}"


def settings_file(folder: Path) -> Path | None:
    """Return the file that names the class of the model in an exported folder, or None if there is none."""
    return next((folder / name for name in SETTINGS if (folder / name).is_file()), None)


def class_in(settings: Any) -> str:
    """Name the class of the model, or the recipe, from the content of a settings file; "" if it names neither."""
    content = settings if isinstance(settings, dict) else {}
    found = content.get("_class_name") or content.get("architectures") or content.get("recipe")
    name = str(found[-1] if isinstance(found, list) else found or "")[:80]
    return name if name.isprintable() else repr(name)  # messages show it


def describe_kind(found: str) -> str:
    """Word a result of `class_in`, the name of a class or of a recipe, for messages."""
    return f"a model of {found}" if "/" in found else found or "no exported model"


def wrong_kind(found: str, wanted: str) -> str:
    """Say that a folder holds `found`, a result of `class_in`, in place of `wanted`."""
    if not found:
        return f"{describe_kind(wanted)} expected, but the folder holds {describe_kind(found)}"
    return f"holds {describe_kind(found)}, not {describe_kind(wanted)}"


def check_class(folder: Path, *names: str) -> None:
    """Check that one of the classes (or recipes) `names` wrote a folder, and every class that the folder names.

    Raises:
        ValueError: another one, none, or settings that are damaged, or name a class or module that is not allowed.
    """
    path = settings_file(folder)
    found = class_in(_read(path)) if path else ""
    if found not in names:
        raise ValueError(f"{folder}: {wrong_kind(found, names[0])}")
    check_names(folder, *names)


def check_names(folder: Path, *names: str) -> None:
    """Check that a folder names `names` and, of a pipeline, `COMPONENTS` only.

    Raises:
        ValueError: another class or module, code in the folder of a component, or settings that are damaged.
    """
    if (folder / INDEX).is_file():
        _check_index(folder / INDEX, names)
        for component, (_, classes) in COMPONENTS.items():
            _check_settings(folder / component, (*classes, *WHOLE_MODELS))
            if code := next((folder / component).glob("*.py"), None):
                raise ValueError(f"{code}: code in the folder of a component, refused")
    else:
        _check_settings(folder, names, OTHERS)


def _check_index(path: Path, names: tuple[str, ...]) -> None:
    """Check model_index.json, which names a library and a class of each component."""
    for key, value in _read(path).items():
        library, allowed = COMPONENTS.get(key, ("", ()))
        if key == "_class_name":  # diffusers' own pipelines are named by a string, ours with their module
            *module, kind = value if isinstance(value, list) and value else [value]
            allowed = names
            fits = kind in names and (module in ([], ["pipeline"]) or kind not in PIPELINES)
        elif key in COMPONENTS:
            fits = value == [None, None] or value in [[library, name] for name in allowed]
        else:
            fits = not isinstance(value, list)
        if not fits:
            raise _refusal(path, key, value, allowed)


def _check_settings(folder: Path, classes: tuple[str, ...], others: dict[str, tuple[str, ...]] | None = None) -> None:
    """Check config.json of one network, and that of its tokenizer or image processor, as far as they exist.

    Args:
        others: classes that are allowed besides `COMPONENTS`.
    """
    for path in sorted(folder.glob("*config.json")):
        for key, value in _read(path).items():
            if key not in CLASS_KEYS or value is None:
                continue
            component = CLASS_KEYS[key]
            allowed = COMPONENTS.get(component, ("", ()))[1] if component else classes
            allowed += (others or {}).get(component, ())
            if not all(name in allowed for name in (value if isinstance(value, list) else [value])):
                raise _refusal(path, key, value, allowed)


def _refusal(path: Path, key: str, value: Any, allowed: tuple[str, ...]) -> ValueError:
    """Error for a class that a file names although it is none of `allowed`."""
    known = f"not {', '.join(allowed[:2])}{' ...' * (len(allowed) > 2)}" if allowed else "which is not allowed"
    return ValueError(f"{path}: names {key} {str(value)[:80]!r}, {known}: get the model from where it was published")


def _read(path: Path) -> dict[str, Any]:
    """Read a settings file; a ValueError names a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise ValueError(f"{path}: damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: damaged: holds a {type(content).__name__}")
    return content
