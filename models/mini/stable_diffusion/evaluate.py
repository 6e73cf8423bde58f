"""Evaluate the miniature Stable Diffusion: one picture for each caption of held-out scenes, in held-out wordings.

The frozen picture judge scores the pictures, with chance level and upper bounds: real pictures of the same scenes and
their reconstructions by the autoencoder. Single events are also generated from a short prompt.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from sonolume.config.mini.stable_diffusion import Config, EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.held_out import scenes_with_files
from sonolume.models.evaluation.metrics import add_scores
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import PICTURE, Files, Samples, generate_files, weights_version
from sonolume.models.mini import judges
from sonolume.models.mini.scores import CHANCE
from sonolume.models.mini.stable_diffusion.task import GUIDANCE_SCALE, NUM_STEPS
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.captions import NAMES
from sonolume.utils import checkpoint
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image, picture_grid

SHIPPED = "pretrained/mini/stable_diffusion"
EMBEDDERS = ("mini:picture_judge", "mini:world")
ROWS = 12  # of pictures in the report


def run(config: Config, options: EvaluationOptions) -> None:
    """Generate and score pictures; write report.json, report.md and samples.png. An interrupted run continues."""
    model, device = runtime.find_checkpoint(options.checkpoint, config, SHIPPED), runtime.pick_device(options.device)
    checkpoint.check_folder(Path(model), "StableDiffusionPipeline")
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None).to(device)  # float32
    pipe.set_progress_bar_config(disable=True)
    folder = runtime.make_folder(options.output_dir)
    tests = scenes_with_files(config.miniworld, options.num_samples, None, folder / "real")
    captions, kinds, real = tests.captions, tests.labels, tests.pictures
    prompts = {uid: f"a photo of {NAMES[kind]}" for uid, kind in kinds.items()}

    settings, inputs = sampling_settings(model, options), dict.fromkeys(captions, "the real picture")

    def generate_all(name: str, texts: dict[str, str]) -> dict[str, Path]:
        make = partial(generate, pipe, settings, texts)
        return generate_files(folder / name, texts, settings, make, batch_size=options.batch_size, seed=options.seed)

    generated, prompted = generate_all("generated", captions), generate_all("prompted", prompts)
    make, weights = partial(reconstruct, pipe, real), {"weights": settings["weights"]}
    more: dict[str, Any] = {"batch_size": options.batch_size, "title": "reconstruct"}
    rebuilt = generate_files(folder / "reconstructed", inputs, weights, make, **more)

    asked, versions = [f"{uid}: {text}" for uid, text in captions.items()], [judges.picture_judge_version(), *EMBEDDERS]
    conditions = measurement_conditions(versions, asked, len(asked), seed=options.seed, world=WORLD)
    report = Report(conditions, facts=settings | {"model": model, "captions": len(captions)})
    made, pixels, real_pixels = (judges.load_pixels(list(some.values())) for some in (generated, rebuilt, real))
    judges.add_picture_shares(report, tests.scenes, made, {"VAE": pixels, "real": real_pixels})
    if kinds:
        pixels = judges.load_pixels(list(prompted.values()))
        share = judges.picture_shares(pixels, [scene for scene in tests.scenes if scene.uid in kinds])["single"]
        report.add_share('right kind of picture, "a photo of ..."', share, CHANCE["single"], headline=True)
    samples, embedders = Samples(PICTURE, generated, real, captions, kinds), load_all(EMBEDDERS, pipe.device)
    add_scores(report, samples, embedders, folder / EMBEDDINGS, options.batch_size)

    columns = {"real": real, "VAE": rebuilt, "generated": generated}
    rows = list(captions)[:ROWS]
    pictures = [[open_image(files[uid]) for uid in rows] for files in columns.values()]
    picture_grid(folder / "samples.png", pictures, list(columns), [captions[uid] for uid in rows])
    finish(report, folder, ["samples.png"])


def sampling_settings(model: str, options: EvaluationOptions) -> dict[str, Any]:
    """Collect everything that determines a picture, besides its caption."""
    return {
        "weights": weights_version(model),
        "num_steps": options.num_steps or NUM_STEPS,
        "guidance_scale": GUIDANCE_SCALE if options.guidance_scale is None else options.guidance_scale,
        "seed": options.seed,
    }


def generate(
    pipe: StableDiffusionPipeline, settings: dict[str, Any], texts: dict[str, str], uids: list[str], seeds: list[int]
) -> list[Image.Image]:
    """Generate one picture for each Uid from its text."""
    made: Any = pipe(
        [texts[uid] for uid in uids], num_inference_steps=settings["num_steps"],
        guidance_scale=settings["guidance_scale"], generator=runtime.generators(seeds), output_type="np",
    )  # fmt: skip
    if not np.isfinite(made.images).all():
        raise UserError(f"{pipe.name_or_path}: generated NaN for {uids[0]} or another picture of its batch")
    return pipe.numpy_to_pil(made.images)


@torch.no_grad()
def reconstruct(pipe: StableDiffusionPipeline, real: Files, uids: list[str], seeds: list[int]) -> list[Image.Image]:
    """Encode and decode real pictures: the upper bound of the latent model."""
    pixels = judges.load_pixels([real[uid] for uid in uids]).to(pipe.device)                 # (B, 3, H, W)
    rebuilt = pipe.vae.decode(pipe.vae.encode(2 * pixels - 1).latent_dist.mode()).sample / 2  # (B, 3, H, W)
    return pipe.numpy_to_pil((rebuilt + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
