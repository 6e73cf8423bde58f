"""Parts, converted or trained here -> one pipeline folder."""

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import diffusers
import transformers.utils.logging
from diffusers import UNet2DConditionModel

from sonolume.models.convert import amphion, layout
from sonolume.models.tta.audioldm.components import TextEncoder
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.models.tta.hifigan import model as hifigan
from sonolume.modules.mel import MelSettings
from sonolume.modules.schedulers import objective_of, preset
from sonolume.utils import checkpoint, files, hub
from sonolume.utils.errors import UserError, first_line

POSITIONS = 2  # at most so many channels of a U-Net are coordinates
NORMALISATION = ("scaling_factor", "latents_mean", "latents_std")


@dataclass
class Part:
    model: Any
    where: str  # where it came from, as given
    facts: dict[str, Any]  # of a U-Net: objective, noise, text_mask, latent, vae; of the others: their mel settings


def text_to_audio(folder: Path, given: dict[str, str]) -> None:
    """Write a `TextToAudioPipeline`.

    Args:
        given: vae, unet, text_encoder and, if wanted, vocoder: folders, hub ids, or official files and runs.
            text_mask: "true" or "false" (default: as the U-Net was trained); preset: of the sampler.

    Raises:
        UserError: a part is absent, damaged, or does not fit the others.
    """
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    vae, unet = load_vae(given["vae"]), load_unet(given["unet"])
    _check_latents(vae, unet)
    mel = {field.name: vae.facts[field.name] for field in fields(MelSettings)}
    vocoder = load_vocoder(given["vocoder"], MelSettings(**mel)) if given.get("vocoder") else None
    masked = _flag("text_mask", given.get("text_mask"), unet.facts["text_mask"])
    text = TextEncoder(given["text_encoder"], masked, "text_encoder")
    if unet.model.config.cross_attention_dim != text.model.config.d_model:
        raise UserError(
            f"the U-Net {unet.where} takes text states of width {unet.model.config.cross_attention_dim}, "
            f"the text encoder {given['text_encoder']} gives {text.model.config.d_model}"
        )
    try:
        scheduler, steps = preset(given.get("preset", "balanced"), unet.facts["objective"], unet.facts["noise"])
    except ValueError as error:
        raise UserError(f"preset: {error}") from error
    pipe = TextToAudioPipeline(
        vae=vae.model, text_encoder=text.model, tokenizer=text.tokenizer, unet=unet.model, scheduler=scheduler,
        vocoder=vocoder and vocoder.model, mel=mel, frames=vae.facts["frames"], noise=unet.facts["noise"],
        text_mask=masked, num_steps=steps, polish=_polish(given.get("vocoder")),
    )  # fmt: skip
    _say(vae, unet, vocoder, given["text_encoder"], masked)
    with files.atomic_folder(folder) as temporary:
        pipe.save_pretrained(temporary)
        files.write_json(temporary / amphion.SOURCE_FILE, {name: value for name, value in given.items() if value})


def _say(vae: Part, unet: Part, vocoder: Part | None, text_encoder: str, masked: bool) -> None:
    """One line on each part, before the slow step."""
    for name, where in (("vae", vae.where), ("unet", unet.where), ("text_encoder", text_encoder)):
        print(f"{name}: {where}", file=sys.stderr)
    print(f"vocoder: {vocoder.where if vocoder else 'none given, Griffin-Lim will do'}", file=sys.stderr)
    print(f"text_mask: {str(masked).lower()}", file=sys.stderr)
    print("writing the pipeline ...", file=sys.stderr)


def load_vae(source: str) -> Part:
    """An autoencoder with its mel settings and frames.

    Raises:
        UserError: absent, damaged, or nothing says which mels it was trained on.
    """
    if official := _official(source, "vae"):
        converted = amphion.read("vae", official)
        return Part(converted.model, str(official), converted.mel)
    where = _locate(source, "vae")
    vae = autoencoderkl.load(where, "vae")
    mel = _stored(Path(where), autoencoderkl.MEL_FILE) or _pipeline_facts(Path(where))
    if not mel:
        raise UserError(f"vae {source}: no {autoencoderkl.MEL_FILE} in it, so its mel settings are not known")
    return Part(vae, source, mel)


def load_unet(source: str) -> Part:
    """A U-Net and how it was trained: objective, noise schedule, text mask.

    Raises:
        UserError: absent, damaged, or nothing says how it was trained.
    """
    if official := _official(source, "audioldm"):
        converted = amphion.read("audioldm", official)
        return Part(converted.model, str(official), converted.source)
    where = Path(_locate(source, "unet"))
    pipeline = where if (where / "model_index.json").is_file() else where.parent
    facts = _stored(where, amphion.SOURCE_FILE) if pipeline != where else {}
    if not facts and (pipeline / "model_index.json").is_file():
        facts, where = _training_of(pipeline), pipeline / "unet"
    if not {"objective", "noise", "text_mask"} <= set(facts):
        raise UserError(
            f"unet {source}: nothing there says how it was trained: give a local pipeline folder that holds it, a "
            f"folder that bins/convert.py wrote ({amphion.SOURCE_FILE}), or an official checkpoint"
        )
    checkpoint.check_folder(where, "UNet2DConditionModel")
    try:
        unet = UNet2DConditionModel.from_pretrained(where)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"unet {source}: cannot be loaded: {first_line(error)}") from error
    return Part(unet.eval().requires_grad_(False), source, facts)


def load_vocoder(source: str, settings: MelSettings) -> Part:
    """A vocoder that takes these mels.

    Raises:
        UserError: absent, damaged, or of other mel settings.
    """
    official = _official(source, "hifigan")
    if not official:
        return Part(hifigan.load(_locate(source, "vocoder"), "vocoder", settings), source, {})
    converted = amphion.read("hifigan", official)
    for name, value in converted.mel.items():
        if value != getattr(settings, name):
            raise UserError(
                f"vocoder {source}: takes mels with {name} {value}, the autoencoder makes {getattr(settings, name)}"
            )
    return Part(converted.model, str(official), converted.mel)


def _polish(source: str | None) -> int:
    """Rounds of Griffin-Lim that the pipeline which holds the vocoder makes after it."""
    return _stored(Path(_locate(source, "vocoder")), "model_index.json").get("polish", 0) if source else 0


def _official(source: str, network: str) -> Path | None:
    """The official weights that `source` names; None if it is a folder of `save_pretrained` or a hub id."""
    path = Path(source).expanduser()
    return layout.weights_file(path, network) if path.exists() and not layout.is_model_folder(path) else None


def _locate(source: str, key: str) -> str:
    """A folder relative to the working directory, as flags are, or a hub id."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else hub.locate(source, key)


def _stored(folder: Path, name: str) -> dict[str, Any]:
    """The content of a json file; {} where there is none."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: broken JSON ({error})") from error


def _pipeline_facts(folder: Path) -> dict[str, Any]:
    """Mel settings and frames of a pipeline folder, or of the one that `folder` is a part of."""
    index = _stored(folder, "model_index.json") or _stored(folder.parent, "model_index.json")
    return MelSettings(**index["mel"]).__dict__ | {"frames": index["frames"]} if "frames" in index else {}


def _training_of(pipeline: Path) -> dict[str, Any]:
    """How the U-Net of a pipeline folder was trained, and how its latents are normalised."""
    index, sampler = (_stored(pipeline, name) for name in ("model_index.json", "scheduler/scheduler_config.json"))
    if not {"noise", "text_mask"} <= set(index) or "_class_name" not in sampler:
        return {}
    objective = objective_of(getattr(diffusers, sampler["_class_name"]).from_config(sampler))
    vae = _stored(pipeline, "vae/config.json")
    return {"objective": objective, "noise": index["noise"], "text_mask": index["text_mask"], "vae": vae}


def _check_latents(vae: Part, unet: Part) -> None:
    """Make sure that the U-Net was trained on such latents as the autoencoder gives."""
    config: Any = unet.model.config
    channels = vae.model.config.latent_channels
    if config.out_channels != channels or not 0 <= config.in_channels - channels <= POSITIONS:
        raise UserError(
            f"the U-Net {unet.where} takes latents of {config.out_channels} channels, "
            f"the autoencoder {vae.where} makes {channels}"
        )
    size = latent_size(vae)
    if unet.facts.get("latent", size) != size:
        raise UserError(
            f"the U-Net {unet.where} was trained on latents {unet.facts['latent']}, "
            f"the autoencoder {vae.where} makes {size}"
        )
    trained = unet.facts.get("vae") or {"scaling_factor": 1.0}  # official latents are not scaled
    for name in NORMALISATION:
        if getattr(vae.model.config, name) != trained.get(name):
            raise UserError(
                f"the U-Net {unet.where} was trained with {name} {trained.get(name)}, the autoencoder {vae.where} "
                f"has {getattr(vae.model.config, name)}: give the autoencoder of the U-Net's own pipeline"
            )


def latent_size(vae: Part) -> str:
    """Of one clip, as the published sizes are called: "4_5_39"."""
    config: Any = vae.model.config
    factor = 2 ** (len(config.block_out_channels) - 1)
    return f"{config.latent_channels}_{vae.facts['n_mel'] // factor}_{vae.facts['frames'] // factor}"


def _flag(name: str, given: str | None, default: bool) -> bool:
    if given is None:
        return default
    if given not in ("true", "false"):
        raise UserError(f"{name}={given}: must be true or false")
    return given == "true"
