"""A trained speech encoder and a stock IP-Adapter -> the exported folder of s2i/wavy with the head image.

Experimental, see models/s2i/wavy/image_head.py. Tested on fabricated files with the names and shapes of
ip-adapter_sd15; the published file could not be opened.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sonolume.config.s2i.wavy import Head, Stage
from sonolume.models.a2i.loading import CLASSES, read_settings
from sonolume.models.convert import common
from sonolume.models.s2i.wavy import encoder as wavy
from sonolume.models.s2i.wavy.image_encoder import load_image_encoder
from sonolume.models.s2i.wavy.image_head import check_width, mean_norm
from sonolume.modules.decoupled_attention import cross_attention_sizes
from sonolume.modules.ip_adapter import IPAdapter
from sonolume.modules.speech_clip import SpeechEncoder
from sonolume.utils import checkpoint, files, paths
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.text import message

FILES = ("models/ip-adapter_sd15.safetensors", "models/ip-adapter_sd15.bin")  # in the published repository
SINGLE_VECTOR = {"proj.weight", "proj.bias", "norm.weight", "norm.bias"}  # of an IP-Adapter that reads one vector
MOST_PICTURES = 256  # on which the length of image vectors is measured
TEXT_LENGTH = 77  # tokens that the text encoder of Stable Diffusion reads, where its tokenizer does not say it


def convert(
    source: str, folder: Path, ip_adapter: str, stable_diffusion: str, images: Path | None, prompt: str
) -> None:
    """Write an exported folder.

    Args:
        source: exported folder or hub id of stage 1.
        ip_adapter: file, or folder or hub id that holds one of `FILES`.
        stable_diffusion: folder or hub id.
        images: pictures to measure the length of image vectors on (default: the length in the settings of `source`).

    Raises:
        UserError: a part is missing, damaged, or does not fit the others.
    """
    key = "ENCODER_FOLDER"
    stage_1, settings = read_settings(paths.locate(source, key, flag=True), [wavy.RECIPE], key)
    if settings.get("stage") != Stage.encoder:
        raise UserError(f"{source}: has a head already: name the folder of stage 1")
    speech_encoder: Any = checkpoint.load_network(
        SpeechEncoder, str((stage_1 / wavy.SPEECH_ENCODER).absolute()), "the speech encoder"
    )
    path = find(ip_adapter)
    head = read(path, stable_diffusion)
    _check_space(speech_encoder, head, path)
    image_encoder = settings.get(wavy.IMAGE_ENCODER)
    message(f"experimental: {path.name} must have been trained on the vectors of {image_encoder}, which the width "
            f"{head.config['input_size']} alone does not prove")  # fmt: skip
    here = Path(stable_diffusion)
    made = settings | {
        "stage": str(Stage.head), "head": str(Head.image), "prompt": prompt, "guidance_scale": 7.5,
        "stable_diffusion": str(here.resolve()) if here.is_dir() else stable_diffusion,
        wavy.IMAGE_NORM: _norm(stage_1, settings, speech_encoder, images),
    }  # fmt: skip
    facts = {"system": "ip-adapter", "file": path.name, "encoder": source}
    with common.converted_folder(folder, path, f"the speech encoder {source} with an IP-Adapter", facts) as temporary:
        wavy.save(temporary, speech_encoder, made, head)
        for part in (wavy.HUBERT, wavy.IMAGE_ENCODER):
            if (stage_1 / str(settings.get(part))).is_dir() and not Path(str(settings[part])).is_absolute():  # trained
                shutil.copytree(stage_1 / settings[part], temporary / settings[part])


def find(source: str) -> Path:
    """Find the file of an IP-Adapter; a UserError if there is none."""
    given = Path(source).expanduser()
    if given.is_file():
        return given
    folder = paths.download(paths.locate(source, "--ip_adapter", flag=True), "--ip_adapter", list(FILES))
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"--ip_adapter {source}: no {' or '.join(FILES)} in it: name the file itself")
    return found


def read(path: Path, stable_diffusion: str) -> IPAdapter:
    """Read an IP-Adapter for a Stable Diffusion, of which only the settings are read; raises as `convert`."""
    image_proj, attention = _parts(path)
    if set(image_proj) != SINGLE_VECTOR:
        raise UserError(f"{path}: this IP-Adapter reads more than one vector of a picture (Plus, Full Face, FaceID): "
                        "choose a plain one, such as ip-adapter_sd15")  # fmt: skip
    (size, vector), width = image_proj["proj.weight"].shape, len(image_proj["norm.weight"])
    layers, own_width, text_length = _unet(stable_diffusion)
    if width != own_width:
        raise UserError(f"{path}: was trained for text states of width {width}, --stable_diffusion {stable_diffusion} "
                        f"has {own_width}: choose another one")  # fmt: skip
    weights = {f"project.{name.replace('proj.', 'image_embeds.')}": weight for name, weight in image_proj.items()}
    for name, weight in attention.items():  # "1.to_k_ip.weight": the cross-attentions have odd numbers
        number, _, rest = name.partition(".")
        place = int(number) // 2 if number.isdecimal() else name
        weights[f"projections.{place}.{rest.replace('_ip', '')}"] = weight
    with torch.device("meta"):
        head = IPAdapter(layers, width, text_length, size // width + 1, vector)
    try:
        return common.fill(head, {name: weight.float() for name, weight in weights.items()})
    except ValueError as error:
        raise UserError(f"{path}: not an IP-Adapter for --stable_diffusion {stable_diffusion}: {error}") from error


def _parts(path: Path) -> list[dict[str, Tensor]]:
    """Read the image projection and the attention: in safetensors by their names, in a .bin two dictionaries."""
    content: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        try:
            for name, weight in load_file(path).items():
                part, _, rest = name.partition(".")
                content.setdefault(part, {})[rest] = weight
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cut or damaged ({first_line(error)}): copy or download it again") from error
    else:
        content = checkpoint.read(path)
    found = [content.get(part) for part in ("image_proj", "ip_adapter")]
    for part in found:
        if not isinstance(part, dict) or not part or not all(isinstance(one, Tensor) for one in part.values()):
            raise UserError(f"{path}: no IP-Adapter, which has weights under 'image_proj' and 'ip_adapter'")
    return found  # type: ignore[return-value]


def _unet(stable_diffusion: str) -> tuple[dict[str, int], int, int]:
    """Sizes of the cross-attentions of a Stable Diffusion, width of its text states, and their number."""
    key = "--stable_diffusion"
    where = paths.locate(stable_diffusion, key, flag=True)
    checkpoint.check_download(where, key, *CLASSES)
    folder = paths.download(where, key, "*.json")
    settings = files.read_json(folder / "unet" / "config.json", "the settings of a U-Net")
    try:
        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.from_config(settings)
    except checkpoint.DAMAGED as error:
        raise UserError(f"{key} {stable_diffusion}: its unet cannot be built: {first_line(error)}") from error
    tokenizer = files.read_json(folder / "tokenizer" / "tokenizer_config.json", "the settings of a tokenizer")
    return cross_attention_sizes(unet), unet.config.cross_attention_dim, tokenizer.get("model_max_length", TEXT_LENGTH)


def _check_space(speech_encoder: Any, head: Any, path: Path) -> None:
    """Raise a UserError unless the speech encoder makes vectors like those that the IP-Adapter reads."""
    if speech_encoder.config["image_size"]:
        raise UserError("the speech encoder was trained with a projector (image_encoder.projection_dim), whose vectors "
                        "no IP-Adapter reads: train stage 1 against a CLIP, with projection_dim 0")  # fmt: skip
    try:
        check_width(head.config["input_size"], speech_encoder.config["output_size"])
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _norm(stage_1: Path, settings: dict[str, Any], speech_encoder: Any, pictures: Path | None) -> float:
    """Mean length of the image encoder's vectors: measured on pictures, or as the settings of stage 1 say."""
    if pictures is None:
        if not isinstance(settings.get(wavy.IMAGE_NORM), int | float):
            raise UserError("the length of the image encoder's vectors is unknown: name pictures to measure it on, "
                            "--images FOLDER")  # fmt: skip
        return float(settings[wavy.IMAGE_NORM])
    found = files.pictures_in(pictures)
    if not found:
        raise UserError(f"--images {pictures}: no pictures in it")
    key = f"{stage_1 / wavy.SETTINGS_FILE}: {wavy.IMAGE_ENCODER}"
    images = load_image_encoder(wavy.source_of(stage_1, settings, wavy.IMAGE_ENCODER), key)
    wavy.check_images(images, speech_encoder, key)
    return mean_norm(images, found[:: -(-len(found) // MOST_PICTURES)])
