"""Official checkpoints -> folders that this toolkit, diffusers and transformers load.

python bins/convert.py amphion ckpts/tta my_pipeline
python bins/convert.py amphion-vae ckpts/tta/autoencoder_kl_debug vae
python bins/convert.py beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt beats
python bins/convert.py audiotoken embedder_learned_embeds.bin my_audiotoken --beats beats
python bins/convert.py assemble text-to-audio my_pipeline vae=vae unet=unet text_encoder=google-t5/t5-base
"""

import argparse
import difflib
import importlib
import sys
from pathlib import Path

from sonolume.models.convert import layout
from sonolume.utils import cli
from sonolume.utils.errors import UserError

NETWORKS = {
    "amphion-vae": "Amphion's mel autoencoder -> diffusers AutoencoderKL",
    "amphion-audioldm": "Amphion's text-to-audio U-Net -> diffusers UNet2DConditionModel",
    "amphion-hifigan": "a HiFi-GAN generator (g_*) -> transformers SpeechT5HifiGan",
}
T5 = "google-t5/t5-base"
BEATS = "pretrained/beats"
KINDS = {  # of pipelines -> their parts and settings: (required ones, others)
    "text-to-audio": (("vae", "unet", "text_encoder"), ("vocoder", "text_mask", "preset")),
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("convert", "Turn official checkpoints into model folders, and put parts together.")
    systems = parser.add_subparsers(dest="system", metavar="SYSTEM", required=True)

    def add(name: str, description: str) -> argparse.ArgumentParser:
        return systems.add_parser(name, help=description, description=description, allow_abbrev=False)

    for name, description in NETWORKS.items():
        network = add(name, description)
        network.add_argument("source", type=Path, metavar="SOURCE", help="the file, its run's folder, or ckpts/tta")
        network.add_argument("folder", type=Path, metavar="FOLDER", help="where the model goes")
        if name != "amphion-vae":
            network.add_argument("--config", type=Path, metavar="FILE", help="its settings (default: beside the file)")
    whole = add("amphion", "the published text-to-audio folders (ckpts/tta) -> one pipeline folder")
    whole.add_argument("source", type=Path, metavar="SOURCE", help="the folder of the published runs")
    whole.add_argument("folder", type=Path, metavar="FOLDER", help="where the pipeline goes")
    whole.add_argument("--latent", choices=layout.LATENTS, help="which published size, where both are there")
    whole.add_argument("--text_encoder", default=T5, metavar="FOLDER_OR_ID", help=f"a T5 encoder (default: {T5})")
    beats = add("beats", "a BEATs sound encoder, finetuned or not -> a folder of its own")
    beats.add_argument("source", type=Path, metavar="SOURCE", help="the file BEATs*.pt, or the folder that holds it")
    beats.add_argument("folder", type=Path, metavar="FOLDER", help="where the model goes")
    token = add("audiotoken", "AudioToken's embedder (embedder_learned_embeds.bin) -> what run_inference.sh takes")
    token.add_argument("source", type=Path, metavar="SOURCE", help="the file, or the folder that holds it")
    token.add_argument("folder", type=Path, metavar="FOLDER", help="where it goes")
    token.add_argument("--lora", type=Path, metavar="FILE", help="lora_layers_learned_embeds.bin, trained with it")
    token.add_argument("--beats", default=BEATS, metavar="FOLDER_OR_ID", help=f"its sound encoder (default: {BEATS})")
    token.add_argument("--stable_diffusion", metavar="FOLDER_OR_ID", help="default: as published, by its width")
    parts = add("assemble", "parts -> one pipeline folder")
    parts.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parts.add_argument("folder", type=Path, metavar="FOLDER", help="where the pipeline goes")
    parts.add_argument("parts", nargs="+", metavar="part=FOLDER", help="; ".join(map(_describe, KINDS)))
    return parser.parse_args(argv)


def _describe(kind: str) -> str:
    required, others = KINDS[kind]
    return f"{kind}: {', '.join(required)}, and if wanted {', '.join(others)}"


def main(argv: list[str]) -> None:
    args = parse(argv)
    if args.folder.is_file() or (args.folder.is_dir() and any(args.folder.iterdir())):
        raise UserError(f"{args.folder}: is there already and is not overwritten: name another folder, or remove it")
    if args.system in NETWORKS:
        network = args.system.removeprefix("amphion-")
        path = layout.weights_file(args.source, network)
        amphion = importlib.import_module("sonolume.models.convert.amphion")  # slow: imports torch
        amphion.convert(network, path, args.folder, getattr(args, "config", None))
    elif args.system == "beats":
        importlib.import_module("sonolume.models.convert.beats").convert(args.source, args.folder)
    elif args.system == "audiotoken":
        convert = importlib.import_module("sonolume.models.convert.audiotoken").convert
        convert(args.source, args.folder, args.beats, args.stable_diffusion, args.lora)
    else:
        given = read_parts(args.kind, args.parts) if args.system == "assemble" else published(args)
        importlib.import_module("sonolume.models.convert.assemble").text_to_audio(args.folder, given)
    print(args.folder)


def published(args: argparse.Namespace) -> dict[str, str]:
    """The parts of the published layout, and the text encoder."""
    return layout.published(args.source, args.latent) | {"text_encoder": args.text_encoder}


def read_parts(kind: str, arguments: list[str]) -> dict[str, str]:
    """`name=value` arguments as a dictionary.

    Raises:
        UserError: an unknown name, one given twice or without a value, or a required one that is missing.
    """
    required, others = KINDS[kind]
    given: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in required + others:
            near = difflib.get_close_matches(name, required + others, n=1)
            hint = f", did you mean {near[0]}=?" if near else f" (it takes {', '.join(required + others)})"
            raise UserError(f"assemble {kind}: {argument!r} names no part{hint}")
        if not value or name in given:
            raise UserError(f"assemble {kind}: {argument!r}: {'give it once' if value else f'no value after {name}='}")
        given[name] = value
    missing = [name for name in required if name not in given]
    if missing:
        raise UserError(f"assemble {kind} needs {' '.join(f'{name}=FOLDER' for name in missing)}")
    return given


if __name__ == "__main__":
    sys.exit(cli.run(main))
