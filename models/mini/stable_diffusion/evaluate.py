"""Does the picture show what the text says? One picture for each caption of unseen scenes, in unseen wordings.

The frozen picture judge says what it sees, beside chance and the upper bounds: real pictures of the same scenes, and
their reconstructions by the autoencoder. The single events are also asked for by a short prompt.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from sonolume.config.mini.stable_diffusion import Config
from sonolume.models import inference
from sonolume.models.evaluation import folders, generation, results
from sonolume.models.evaluation.embedders.base import hash_of
from sonolume.models.evaluation.embedders.load import load as load_embedder
from sonolume.models.evaluation.heldout import TEST_SEED
from sonolume.models.evaluation.pictures import Pictures, score
from sonolume.models.evaluation.protocol import fingerprint
from sonolume.models.evaluation.results import Result
from sonolume.models.mini import scores, seeing
from sonolume.models.mini.stable_diffusion.components import GUIDANCE, STEPS
from sonolume.preprocessors.miniworld import WORLD, world
from sonolume.preprocessors.miniworld.captions import NAMES
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import checkpoint
from sonolume.utils.errors import UserError
from sonolume.utils.image import picture_grid

SHIPPED = "pretrained/mini/stable_diffusion"
EMBEDDERS = ("mini:picture_judge", "mini:world")
SHOWN = 12  # rows of pictures in the report


def run(config: Config, args: argparse.Namespace) -> None:
    """Generate, look, and write report.json, report.md and samples.png."""
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    pipe = load(where, args.device)
    folder, mini = inference.make_folder(args.output_dir), config.miniworld
    scenes = {s.uid: s for s in world.scenes("test", args.num_samples, TEST_SEED, list(mini.kinds), mini.pairs)}
    captions = {uid: world.captions(scene, 1, "test", mention=1.0)[0] for uid, scene in scenes.items()}
    single = {uid: scene for uid, scene in scenes.items() if not scene.relation}
    prompts = {uid: f"a photo of {NAMES[scene.events[0].kind]}" for uid, scene in single.items()}
    settings = _settings(where, args)
    made = generate(pipe, captions, settings, args, folder / "generated")
    prompted = generate(pipe, prompts, settings, args, folder / "prompted")
    real = draw(scenes, folder / "real")
    rebuilt = reconstruct(pipe, real, settings, args, folder / "reconstructed")
    result = Result(_conditions(captions, args), facts=settings | {"model": where, "captions": len(captions)})
    known, columns = list(scenes.values()), {"VAE": _seen(rebuilt), "real": _seen(real)}
    seeing.add_shares(result, known, _seen(made), columns)
    if single:
        share = seeing.shares(_seen(prompted), list(single.values()))["single"]
        result.add_share('right kind of picture, "a photo of ..."', share, scores.CHANCE["single"], headline=True)
    pictures = Pictures(made, real, captions, {uid: scene.events[0].kind for uid, scene in single.items()})
    for spec in EMBEDDERS:
        score(result, pictures, load_embedder(spec, pipe.device), folder / folders.CACHE, args.batch_size)
    _show(folder, captions, {"real": real, "VAE": rebuilt, "generated": made})
    report = results.write(result, folder, ["samples.png"])
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(report)


def load(where: str, device: str) -> StableDiffusionPipeline:
    """A pipeline in float32.

    Raises:
        UserError: absent, or another pipeline.
    """
    checkpoint.check_folder(Path(where), "StableDiffusionPipeline")
    pipe = StableDiffusionPipeline.from_pretrained(where, safety_checker=None).to(inference.pick_device(device))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _settings(where: str, args: argparse.Namespace) -> dict[str, Any]:
    """All that decides a picture, beside its caption and its seed."""
    files = sorted(path for kind in ("json", "safetensors") for path in Path(where).rglob(f"*.{kind}"))
    return {
        "weights": hash_of(*files),
        "num_steps": args.num_steps or STEPS,
        "guidance_scale": GUIDANCE if args.guidance_scale is None else args.guidance_scale,
        "seed": args.seed,
    }


def generate(
    pipe: StableDiffusionPipeline,
    texts: Mapping[str, str],
    settings: dict[str, Any],
    args: argparse.Namespace,
    folder: Path,
) -> dict[str, Path]:
    """One picture for each text."""

    def make(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        made: Any = pipe(
            [texts[uid] for uid in uids],
            num_inference_steps=settings["num_steps"],
            guidance_scale=settings["guidance_scale"],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        )
        if not np.isfinite(made.images).all():
            raise UserError(f"{pipe.name_or_path}: gave no numbers (NaN) for {uids[0]} or its neighbours")
        return list(made.images)

    return generation.generate(
        folder, texts, settings, make, _save, suffix=".png", batch_size=args.batch_size, seed=args.seed
    )


def draw(scenes: Mapping[str, Scene], folder: Path) -> dict[str, Path]:
    """The real pictures of scenes."""

    def make(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        return [world.picture(scenes[uid]) / 255 for uid in uids]

    names = dict.fromkeys(scenes, "the real picture")
    return generation.generate(folder, names, {"seed": TEST_SEED}, make, _save, suffix=".png", title="draw")


@torch.no_grad()
def reconstruct(
    pipe: StableDiffusionPipeline,
    real: Mapping[str, Path],
    settings: dict[str, Any],
    args: argparse.Namespace,
    folder: Path,
) -> dict[str, Path]:
    """Real pictures through the autoencoder: the best that the latent model could reach."""

    def make(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        pictures = seeing.load([real[uid] for uid in uids]).to(pipe.device)                         # (B, 3, H, W)
        rebuilt = pipe.vae.decode(pipe.vae.encode(2 * pictures - 1).latent_dist.mode()).sample / 2  # (B, 3, H, W)
        return list((rebuilt + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())

    names = dict.fromkeys(real, "the real picture")
    made_by = {"weights": settings["weights"]}
    return generation.generate(
        folder, names, made_by, make, _save, suffix=".png", batch_size=args.batch_size, title="reconstruct"
    )


def _save(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) in 0..1."""
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(path, format="PNG")


def _seen(files: Mapping[str, Path]) -> Tensor:
    return seeing.load(list(files.values()))


def _conditions(captions: Mapping[str, str], args: argparse.Namespace) -> dict[str, Any]:
    asked = [f"{uid}: {caption}" for uid, caption in captions.items()]
    return fingerprint([seeing.judge(), *EMBEDDERS], asked, len(captions), seed=args.seed, world=WORLD)


def _show(folder: Path, captions: Mapping[str, str], sides: Mapping[str, Mapping[str, Path]]) -> None:
    shown = list(captions)[:SHOWN]
    columns = [[Image.open(files[uid]).convert("RGB") for uid in shown] for files in sides.values()]
    picture_grid(folder / "samples.png", columns, list(sides), [captions[uid] for uid in shown])
