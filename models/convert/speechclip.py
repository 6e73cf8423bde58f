"""SpeechCLIP's published parallel branch -> the folder that the stage encoder of s2i/wavy exports.

A published .ckpt of Lightning holds the trained weights, the frozen HuBERT and CLIP, and its config as an object of a
class of its own. Tested on fabricated files with the published names and shapes; no published file could be opened.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.s2i.wavy import Stage
from sonolume.models import pretrained
from sonolume.models.convert import common, layout
from sonolume.models.s2i.wavy import encoder as wavy
from sonolume.modules.speech_clip import SpeechEncoder
from sonolume.utils import checkpoint
from sonolume.utils.errors import UserError

PACKAGES = ("avssl", "pytorch_lightning", "argparse")  # whose objects a published file holds beside its weights
HUBERT = {(25, 1024): "facebook/hubert-large-ll60k", (13, 768): "facebook/hubert-base-ls960"}  # by states and width
CLIP = {768: "openai/clip-vit-large-patch14", 512: "openai/clip-vit-base-patch32"}  # by the width of its vectors
NUM_HEADS = 8  # of published files, where the config does not say it
LARGE = 1024  # width of the HuBERT whose hidden states are normalised
NAMES = {  # beginning of an official name -> ours
    "audio_encoder.weightedsum_layer.weights": "layer_weights", "parallel_branch.cls": "cls",
    "parallel_branch.self_att.model.": "pool.", "parallel_branch.linear_proj.": "proj.",
    "criterion.temperature": "logit_scale",
}  # fmt: skip
TRANSFORMER = ("model_settings", "parallel_branch", "transformer_args")  # place in the stored config


def convert(source: Path, folder: Path, hubert: str | None, image_encoder: str | None) -> None:
    """Convert a checkpoint to an exported folder.

    Args:
        source: the file, or a folder that holds it alone.
        hubert, image_encoder: folders or hub ids that the folder refers to (default: by the widths of the weights).

    Raises:
        UserError: a file is missing, damaged, of another network, or not as published.
    """
    path = find(source)
    encoder, config = read(path)
    settings = {
        "stage": str(Stage.encoder), wavy.HUBERT: _hubert(path, encoder, hubert),
        wavy.IMAGE_ENCODER: _image_encoder(path, encoder, image_encoder),
    }  # fmt: skip
    facts = {
        "system": "speechclip", "file": path.name, "hubert": _stored(config, "audio_encoder", "name"),
        "clip": _stored(config, "clip", "name"), "data": _stored(config, "data", "dataset", "name"),
    }  # fmt: skip
    what = f"SpeechCLIP's parallel branch, {encoder.config['width']} wide"
    with common.converted_folder(folder, path, what, facts) as temporary:
        wavy.save(temporary, encoder, settings)


def find(source: Path) -> Path:
    """Find the one .ckpt of a folder; a UserError if there are several."""
    found = layout.find_files(source, "*.ckpt")
    if len(found) > 1:
        raise UserError(f"{source}: holds {len(found)} checkpoints: name one, such as {found[0]}")
    return found[0]


def read(path: Path) -> tuple[SpeechEncoder, Any]:
    """Read the network of an official file, in eval mode, and its stored config; raises as `convert`."""
    content = checkpoint.read(path, mapped=True, packages=PACKAGES)
    weights = content.get("state_dict", content)
    if not isinstance(weights, dict) or not all(isinstance(one, Tensor) for one in weights.values()):
        raise UserError(f"{path}: no weights under 'state_dict': name a published .ckpt of SpeechCLIP")
    weights = {str(name).removeprefix("module."): weight for name, weight in weights.items()}
    branches = {name.partition(".")[0] for name in weights}
    if "parallel_branch" not in branches and "cascaded_branch" in branches:
        raise UserError(f"{path}: SpeechCLIP's cascaded branch, which makes keywords and no vector of the recording: "
                        "name a checkpoint of the parallel branch")  # fmt: skip
    if "parallel_branch" not in branches:
        raise UserError(f"{path}: this is {common.kind_of(weights)}, not SpeechCLIP's parallel branch")
    hyper_parameters = content.get("hyper_parameters", {})
    config = _stored(hyper_parameters, "config") or hyper_parameters
    try:
        return _build(_rename(weights), config), config
    except ValueError as error:
        raise UserError(f"{path}: not SpeechCLIP's parallel branch as published: {error}") from error


def _rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the trained weights under our names."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        ours = next((new + name.removeprefix(old) for old, new in NAMES.items() if name.startswith(old)), None)
        if ours is not None:
            found[ours] = weight.float()
        elif name.startswith("parallel_branch."):
            raise ValueError(f"it holds {name}")
    return found


def _build(weights: dict[str, Tensor], config: Any) -> SpeechEncoder:
    """Build the encoder of trained weights; a ValueError if they are of another network."""
    for name in ("layer_weights", "cls", "pool.layers.0.linear1.weight", "proj.weight"):
        if name not in weights:
            raise ValueError(f"it has no {name}")
    for part, key in (("audio_encoder", "trainable"), ("clip", "image_encoder_trainable")):
        if _stored(config, part, key):
            raise ValueError(f"its {part} was trained, too ({part}.{key})")
    for key, value in {"norm_first": False, "activation": "gelu"}.items():
        if (found := _stored(config, *TRANSFORMER, key)) not in (None, value):
            raise ValueError(f"{key} is {found}, not {value}")
    width, heads = weights["cls"].shape[-1], int(_number(config, *TRANSFORMER, "nhead", default=NUM_HEADS))
    if width % heads:
        raise ValueError(f"its width {width} is not divisible by {heads} heads")
    normalize = _stored(config, "audio_encoder", "normalize_hiddenstates")
    temperature = _number(config, "cl_loss", "args", "temperature", default=0.07)
    weights.setdefault("logit_scale", torch.tensor(math.log(1 / temperature)))  # a fixed one is not stored
    with torch.device("meta"):
        encoder = SpeechEncoder(
            len(weights["layer_weights"]), width, len(weights["proj.weight"]),
            normalize_layers=width == LARGE if normalize is None else bool(normalize),
            layers=len({name.split(".")[2] for name in weights if name.startswith("pool.layers.")}),
            num_heads=heads,
            ff_size=len(weights["pool.layers.0.linear1.weight"]), temperature=temperature,
        )  # fmt: skip
    return common.fill(encoder, weights)


def _stored(content: Any, *keys: str) -> Any:
    """Value at a place in a stored config of dictionaries and objects, or None."""
    for key in keys:
        entries = vars(content) if isinstance(content, checkpoint.StoredObject) else content
        content = entries.get(key) if isinstance(entries, dict) else None
    return content


def _number(content: Any, *keys: str, default: float) -> float:
    """Positive number at a place in a stored config; a ValueError if something else is there."""
    found = _stored(content, *keys)
    if found is not None and (not isinstance(found, int | float) or not 0 < found < math.inf):
        raise ValueError(f"{keys[-1]} is {found!r:.40}")
    return default if found is None else found


def _hubert(path: Path, encoder: SpeechEncoder, chosen: str | None) -> str:
    """Name the HuBERT of an encoder, and check it if it is a local folder."""
    count, width = encoder.config["num_states"], encoder.config["width"]
    own = f"{path}: reads {count} hidden states of width {width}"
    if chosen is None:
        if (count, width) not in HUBERT:
            raise UserError(f"{own}, not those of HuBERT large or base: name its HuBERT with --hubert")
        return HUBERT[count, width]
    if not Path(chosen).is_dir():
        return chosen
    settings = pretrained.model_settings(chosen, f"--hubert {chosen}", ("hubert",))
    found = settings.get("num_hidden_layers", 12) + 1, settings.get("hidden_size", 768)  # defaults of transformers
    if found != (count, width):
        raise UserError(f"{own}, --hubert {chosen} has {found[0]} of width {found[1]}")
    return str(Path(chosen).resolve())


def _image_encoder(path: Path, encoder: SpeechEncoder, chosen: str | None) -> str:
    """Name the CLIP of an encoder, and check it if it is a local folder."""
    width = encoder.config["output_size"]
    own = f"{path}: its vectors have width {width}"
    if chosen is None:
        if width not in CLIP:
            raise UserError(f"{own}, not {' or '.join(map(str, CLIP))}: name its CLIP with --image_encoder")
        return CLIP[width]
    if not Path(chosen).is_dir():
        return chosen
    settings = pretrained.model_settings(chosen, f"--image_encoder {chosen}", ("clip", "clip_vision_model"))
    found = settings.get("projection_dim", 512)  # default of transformers
    if found != width:
        raise UserError(f"{own}, those of --image_encoder {chosen} have {found}")
    return str(Path(chosen).resolve())
