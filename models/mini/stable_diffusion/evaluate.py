"""Evaluate the miniature Stable Diffusion: one picture for each caption of held-out scenes, in held-out wordings.

The frozen picture judge scores the pictures, with chance level and upper bounds: real pictures of the same scenes and
their reconstructions by the autoencoder. Single events are also generated from a short prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from sonolume.config.mini.stable_diffusion import Config, EvaluationOptions
from sonolume.models import inference
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.metrics import add_scores
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import PICTURE, Samples, generate_files
from sonolume.models.mini import judges, scores
from sonolume.models.mini.stable_diffusion.components import GUIDANCE_SCALE, NUM_STEPS
from sonolume.preprocessors.miniworld import TEST_SEED, WORLD, world
from sonolume.preprocessors.miniworld.captions import NAMES
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import checkpoint
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.image import picture_grid

SHIPPED = "pretrained/mini/stable_diffusion"
EMBEDDERS = ("mini:picture_judge", "mini:world")
ROWS = 12  # of pictures in the report

Files = dict[str, Path]  # Uid -> picture


def run(config: Config, options: EvaluationOptions) -> None:
    """Generate and score pictures; write report.json, report.md and samples.png."""
    model, mini = inference.find_checkpoint(options.checkpoint, config, SHIPPED), config.miniworld
    scenes = {s.uid: s for s in world.scenes("test", options.num_samples, TEST_SEED, list(mini.kinds), mini.pairs)}
    captions = {uid: world.captions(scene, 1, "test", mention=1.0)[0] for uid, scene in scenes.items()}
    kinds = {uid: scene.events[0].kind for uid, scene in scenes.items() if not scene.relation}
    maker = Maker(load(model, options.device), model, options, inference.make_folder(options.output_dir))
    generated = maker.generate("generated", captions)
    prompted = maker.generate("prompted", {uid: f"a photo of {NAMES[kind]}" for uid, kind in kinds.items()})
    real = maker.draw(scenes)
    rebuilt = maker.reconstruct(real)

    texts = [f"{uid}: {caption}" for uid, caption in captions.items()]
    versions = [judges.picture_judge_version(), *EMBEDDERS]
    report = Report(
        measurement_conditions(versions, texts, len(texts), seed=options.seed, world=WORLD),
        facts=maker.settings | {"model": model, "captions": len(captions)},
    )
    pixels = {name: judges.load_pixels(list(some.values())) for name, some in (("VAE", rebuilt), ("real", real))}
    made = judges.load_pixels(list(generated.values()))
    judges.add_picture_shares(report, list(scenes.values()), made, pixels)
    if kinds:
        prompted_pixels = judges.load_pixels(list(prompted.values()))
        share = judges.picture_shares(prompted_pixels, [scenes[uid] for uid in kinds])["single"]
        name = 'right kind of picture, "a photo of ..."'
        report.add_share(name, share, scores.CHANCE["single"], headline=True)
    samples, embedders = Samples(PICTURE, generated, real, captions, kinds), load_all(EMBEDDERS, maker.pipe.device)
    add_scores(report, samples, embedders, maker.folder / EMBEDDINGS, options.batch_size)
    _save_samples(maker.folder / "samples.png", captions, {"real": real, "VAE": rebuilt, "generated": generated})
    finish(report, maker.folder, ["samples.png"])


def load(model: str, device: str) -> StableDiffusionPipeline:
    """Load the pipeline in float32.

    Raises:
        UserError: absent, or another pipeline.
    """
    checkpoint.check_folder(Path(model), "StableDiffusionPipeline")
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None).to(inference.pick_device(device))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass
class Maker:
    """Make pictures below the report's folder; an interrupted evaluation continues."""

    pipe: StableDiffusionPipeline
    model: str
    options: EvaluationOptions
    folder: Path

    def __post_init__(self) -> None:
        files = sorted(path for kind in ("json", "safetensors") for path in Path(self.model).rglob(f"*.{kind}"))
        scale = self.options.guidance_scale
        self.settings: dict[str, Any] = {  # everything that decides a picture, besides its caption
            "weights": content_hash(*files),
            "num_steps": self.options.num_steps or NUM_STEPS,
            "guidance_scale": GUIDANCE_SCALE if scale is None else scale,
            "seed": self.options.seed,
        }

    def generate(self, name: str, texts: Mapping[str, str]) -> Files:
        """Generate one picture for each text."""

        def make(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
            made: Any = self.pipe(
                [texts[uid] for uid in uids],
                num_inference_steps=self.settings["num_steps"],
                guidance_scale=self.settings["guidance_scale"],
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="np",
            )
            if not np.isfinite(made.images).all():
                raise UserError(f"{self.model}: generated NaN for {uids[0]} or another picture of its batch")
            return list(made.images)

        size, seed = self.options.batch_size, self.options.seed
        return generate_files(
            self.folder / name, texts, self.settings, make, _save, suffix=".png", batch_size=size, seed=seed
        )

    def draw(self, scenes: Mapping[str, Scene]) -> Files:
        """Draw the real pictures of scenes."""

        def make(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
            return [world.picture(scenes[uid]) / 255 for uid in uids]

        inputs = dict.fromkeys(scenes, "the real picture")
        settings = {"seed": TEST_SEED}
        return generate_files(self.folder / "real", inputs, settings, make, _save, suffix=".png", title="draw")

    @torch.no_grad()
    def reconstruct(self, real: Mapping[str, Path]) -> Files:
        """Encode and decode real pictures: the upper bound of the latent model."""

        def make(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
            vae = self.pipe.vae
            pictures = judges.load_pixels([real[uid] for uid in uids]).to(self.pipe.device)   # (B, 3, H, W)
            rebuilt = vae.decode(vae.encode(2 * pictures - 1).latent_dist.mode()).sample / 2  # (B, 3, H, W)
            return list((rebuilt + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())

        inputs = dict.fromkeys(real, "the real picture")
        settings, size = {"weights": self.settings["weights"]}, self.options.batch_size
        return generate_files(
            self.folder / "reconstructed", inputs, settings, make, _save,
            suffix=".png", batch_size=size, title="reconstruct",
        )  # fmt: skip


def _save(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) in 0..1."""
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(path, format="PNG")


def _save_samples(path: Path, captions: Mapping[str, str], columns: Mapping[str, Files]) -> None:
    uids = list(captions)[:ROWS]
    pictures = [[Image.open(files[uid]).convert("RGB") for uid in uids] for files in columns.values()]
    picture_grid(path, pictures, list(columns), [captions[uid] for uid in uids])
