"""Parts, converted or trained here -> one text-to-audio pipeline folder."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import diffusers
from diffusers import UNet2DConditionModel

from sonolume.models import card
from sonolume.models.convert import amphion, layout
from sonolume.models.convert.common import SOURCE_FILE, disable_progress_bars
from sonolume.models.tta.audioldm.components import TextEncoder
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.models.tta.features import MEL_FILE, stored_mel
from sonolume.models.tta.hifigan import model as hifigan
from sonolume.modules.mel import MelSettings
from sonolume.modules.sampling import objective_of, preset
from sonolume.utils import checkpoint, files, local_paths, paths
from sonolume.utils.errors import UserError
from sonolume.utils.model_folder import PIPELINES
from sonolume.utils.text import message

MAX_POSITION_CHANNELS = 2  # channels of a U-Net's input that are coordinates
NORMALISATION = ("scaling_factor", "latents_mean", "latents_std")


@dataclass
class Part:
    """One network of the pipeline."""

    model: Any
    where: str  # file, folder or hub id that it was loaded from, as given
    facts: dict[str, Any]  # U-Net: objective, noise, text_mask, latent, vae; VAE: mel, frames; vocoder: refine


def text_to_audio(folder: Path, given: dict[str, str]) -> None:
    """Write a `TextToAudioPipeline`.

    Args:
        given: vae, unet, text_encoder and optionally vocoder: folders, hub ids, or official files and runs.
            text_mask: "true" or "false" (default: as the U-Net was trained); preset: of the sampler.

    Raises:
        UserError: a part is missing, damaged, or does not fit the others.
    """
    disable_progress_bars()
    vae, unet = _load_vae(given["vae"]), _load_unet(given["unet"])
    _check_latents(vae, unet)
    mel = {field.name: vae.facts[field.name] for field in fields(MelSettings)}
    vocoder = _load_vocoder(given["vocoder"], MelSettings(**mel)) if given.get("vocoder") else None
    masked = given.get("text_mask", str(unet.facts["text_mask"]).lower())
    if masked not in ("true", "false"):
        raise UserError(f"text_mask={masked}: must be true or false")
    text = TextEncoder(given["text_encoder"], masked == "true", "text_encoder")
    width, given_width = unet.model.config.cross_attention_dim, text.model.config.d_model
    if width != given_width:
        raise UserError(f"the U-Net {unet.where} takes text states of width {width}, the text encoder "
                        f"{given['text_encoder']} gives {given_width}")  # fmt: skip
    try:
        scheduler, steps = preset(given.get("preset", "balanced"), unet.facts["objective"], unet.facts["noise"])
    except ValueError as error:
        raise UserError(f"preset: {error}") from error
    pipe = TextToAudioPipeline(
        vae=vae.model, text_encoder=text.model, tokenizer=text.tokenizer, unet=unet.model, scheduler=scheduler,
        vocoder=vocoder and vocoder.model, mel=mel, frames=vae.facts["frames"], noise=unet.facts["noise"],
        text_mask=text.masked, num_steps=steps, refine=vocoder.facts["refine"] if vocoder else 0,
    )  # fmt: skip
    chosen = {"vae": vae.where, "unet": unet.where, "text_encoder": given["text_encoder"], "text_mask": masked}
    chosen["vocoder"] = vocoder.where if vocoder else "none given, using Griffin-Lim"
    for line in (*map(": ".join, chosen.items()), "writing the pipeline ..."):
        message(line)
    with files.atomic_folder(folder) as temporary:
        pipe.save_pretrained(temporary)
        source = {name: value for name, value in given.items() if value}
        files.write_json(temporary / SOURCE_FILE, local_paths.strip(source))
        card.write(temporary, source=source)


def _load_vae(source: str) -> Part:
    """Load an autoencoder with its mel settings and frames."""
    if official := _official(source, "vae"):
        converted = amphion.read("vae", official)
        return Part(converted.model, str(official), converted.mel)
    where = paths.locate(source, "vae", flag=True)
    vae = autoencoderkl.load(where, "vae")
    mel = stored_mel(where) or stored_mel(str(Path(where).parent))  # the folder of a part has none
    if "frames" not in mel:
        raise UserError(f"vae {source}: no {MEL_FILE} in it, so its mel settings are unknown")
    return Part(vae, source, asdict(MelSettings()) | mel)


def _load_unet(source: str) -> Part:
    """Load a U-Net with the objective, noise schedule and text mask of its training."""
    if official := _official(source, "audioldm"):
        converted = amphion.read("audioldm", official)
        return Part(converted.model, str(official), converted.source)
    where = Path(paths.locate(source, "unet", flag=True))
    pipeline = where if (where / "model_index.json").is_file() else where.parent
    if (pipeline / "model_index.json").is_file():
        paths.check_names(pipeline, *PIPELINES)
    facts = _stored(where, SOURCE_FILE) if pipeline != where else {}
    if not facts and (pipeline / "model_index.json").is_file():
        where, sampler = pipeline / "unet", _stored(pipeline, "scheduler/scheduler_config.json")
        facts = _stored(pipeline, "model_index.json") | {"vae": _stored(pipeline, "vae/config.json")}
        if "_class_name" in sampler:
            facts["objective"] = objective_of(getattr(diffusers, sampler["_class_name"]).from_config(sampler))
    if not {"objective", "noise", "text_mask"} <= set(facts):
        remedy = f"give a local pipeline folder that holds it, a folder that bins/convert.py wrote ({SOURCE_FILE})"
        raise UserError(f"unet {source}: the settings of its training are unknown: {remedy}, or an official checkpoint")
    return Part(checkpoint.load_network(UNet2DConditionModel, str(where), "unet"), source, facts)


def _load_vocoder(source: str, settings: MelSettings) -> Part:
    """Load a vocoder for mels of these settings, with the Griffin-Lim iterations after it."""
    if official := _official(source, "hifigan"):
        converted = amphion.read("hifigan", official)
        for name, value in converted.mel.items():
            if value != (wanted := getattr(settings, name)):
                raise UserError(f"vocoder {source}: takes mels with {name} {value}, the autoencoder makes {wanted}")
        return Part(converted.model, str(official), {"refine": 0})
    where = paths.locate(source, "vocoder", flag=True)
    index = _stored(Path(where), "model_index.json")
    refine = index.get("refine", index.get("polish", 0))  # its name in older pipelines
    return Part(hifigan.load(where, "vocoder", settings), source, {"refine": refine})


def _official(source: str, network: str) -> Path | None:
    """Find the official weights in a file or folder; None for a folder of `save_pretrained` or a hub id."""
    path = paths.expand(source)
    return layout.weights_file(path, network) if path.exists() and not paths.kind_of(path) else None


def _stored(folder: Path, name: str) -> dict[str, Any]:
    """Read a json file of a model folder; {} if it does not exist."""
    return files.read_json(folder / name) if (folder / name).is_file() else {}


def _check_latents(vae: Part, unet: Part) -> None:
    """Check that the U-Net was trained on latents like those of the autoencoder."""

    def mismatch(trained: str, made: str) -> UserError:
        return UserError(f"the U-Net {unet.where} {trained}, the autoencoder {vae.where} {made}")

    config, ours = unet.model.config, vae.model.config
    channels = ours.latent_channels
    if config.out_channels != channels or not 0 <= config.in_channels - channels <= MAX_POSITION_CHANNELS:
        raise mismatch(f"takes latents of {config.out_channels} channels", f"makes {channels}")
    factor = 2 ** (len(ours.block_out_channels) - 1)
    size = f"{channels}_{vae.facts['n_mel'] // factor}_{vae.facts['frames'] // factor}"  # as in names of published runs
    if unet.facts.get("latent", size) != size:
        raise mismatch(f"was trained on latents {unet.facts['latent']}", f"makes {size}")
    trained = unet.facts.get("vae") or {"scaling_factor": 1.0}  # official latents are not scaled
    for name in NORMALISATION:
        if (own := getattr(ours, name)) != trained.get(name):
            remedy = "give the autoencoder of the U-Net's own pipeline"
            raise mismatch(f"was trained with {name} {trained.get(name)}", f"has {own}: {remedy}")
