"""mini/turbo: distill the tiny Stable Diffusion into a LoRA for few steps, its preset "turbo".

The teacher draws pictures of captions, and of the sounds that audio-to-image models encode for it, with guidance; the
student learns to reach the ends of these sampling paths from any of their points, as `models/distillation.py` says.
With `model.on_policy_student`, the paths begin at the inputs that the calls of this earlier student have in sampling,
so that the next student corrects its errors (on-policy distillation; DAgger, Ross et al. 2011, arXiv 1011.0686).
N paths, K points of a path, z latent channels, h x w latent size, L text states, D text width.
"""

import copy
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.mini.turbo import Config
from sonolume.config.tta.audioldm import DistillStage
from sonolume.models import distillation, lora
from sonolume.models.a2i.loading import load_stable_diffusion
from sonolume.models.distillation import PathBatch, PathDataset
from sonolume.models.latent_diffusion import DiffusionObjective
from sonolume.models.mini import conditions
from sonolume.models.training import Frozen, RecipeTask, TrainingData
from sonolume.models.tta.audioldm.paths import collate
from sonolume.modules import sampling
from sonolume.modules.distillation import NoiseForm
from sonolume.modules.sampling import Guidance
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import local_paths, paths
from sonolume.utils.cache import cached, content_hash
from sonolume.utils.errors import UserError

CACHE_VERSION = 2  # bump to invalidate cached paths
BATCH_SIZE = 32  # paths that are sampled at once
Tensors = dict[str, Tensor]
SOLVER = ("DPMSolverMultistepScheduler", {})  # takes any timesteps
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")


def load_frozen(config: Config) -> Frozen:
    """Load the teacher, "pipeline".

    Raises:
        UserError: it is absent or another kind of model, or peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"the adapters need the package peft: {paths.pip_install('lora')}")
    source = paths.locate(config.model.pretrained, "model.pretrained")
    pipe: Any = load_stable_diffusion(source, "model.pretrained", torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.requires_grad_(False).eval()
    return Frozen(pipeline=pipe)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Paths of the teacher in batches of `PathBatch`; the last ones are for validation."""
    distill = config.model.distill
    count = distill.miniworld_captions + distill.valid_paths
    folder = make_paths(frozen["pipeline"], list(world.scenes("train", count, seed=0)), config)
    train, valid = range(distill.miniworld_captions), range(distill.miniworld_captions, count)
    return TrainingData(PathDataset(folder, train, config), PathDataset(folder, valid, config), collate)


def make_paths(pipe: Any, scenes: list[Scene], config: Config) -> Path:
    """Compute the paths of all scenes, the noise of scene i from the seed i, or find them on disk.

    The condition is by turns the text of a scene, and its sound as each of `model.sound_encoders` encodes it.
    """
    distill, encoders = config.model.distill, config.model.sound_encoders
    student = load_student(pipe, config)
    weights = content_hash(pipe.unet.state_dict().values(), pipe.text_encoder.parameters())
    key = [CACHE_VERSION, weights, [conditions.versions(one) for one in encoders], distill.path_steps,
           distill.guidance_scale, [scene.to_dict() for scene in scenes]]  # fmt: skip
    if student is not None:
        key.append(content_hash(student.state_dict().values()))

    def make(folder: Path) -> None:
        states: dict[int, Tensor] = {}
        points: dict[int, Tensor] = {}
        for turn, encoder in enumerate(["", *encoders]):
            rows = range(turn, len(scenes), 1 + len(encoders))
            some, scale = [scenes[row] for row in rows], distill.guidance_scale
            found = conditions.of_sounds(encoder, some, scale) if encoder else conditions.of_texts(pipe, some)
            states |= dict(zip(rows, found[0].half(), strict=True))
            points |= dict(zip(rows, sample_paths(pipe, student, *found, rows, config), strict=True))
        ordered = [states[row] for row in range(len(scenes))]                                # (L, D) each
        arrays = torch.stack([points[row] for row in range(len(scenes))]).numpy()            # (N, 2, K, z, h, w)
        np.save(folder / "points.npy", arrays[:, 0])
        np.save(folder / "ends.npy", arrays[:, 1])
        np.save(folder / "times.npy", np.array(noise_form(pipe).times(distill.steps), np.float32))
        np.save(folder / "states.npy", torch.cat(ordered).numpy())
        np.save(folder / "state_ends.npy", np.cumsum([len(one) for one in ordered]))

    return cached(paths.resolve(config.cache_dir), key, make, "sampling paths")


def noise_form(pipe: Any) -> NoiseForm:
    """Noise schedule and objective of a pipeline's U-Net."""
    objective = DiffusionObjective.of_scheduler(pipe.scheduler)
    return NoiseForm(objective.prediction_type, objective.alphas_cumprod)


def load_student(pipe: Any, config: Config) -> Any:
    """A copy of the pipeline's U-Net with the adapters of `model.on_policy_student` merged; None if none is named."""
    if not config.model.on_policy_student:
        return None
    student = SimpleNamespace(unet=copy.deepcopy(pipe.unet))
    lora.load(student, Path(paths.locate(config.model.on_policy_student, "model.on_policy_student")))
    return student.unet


@torch.no_grad()
def sample_paths(pipe: Any, student: Any, states: Tensor, negative: Tensor, seeds: range, config: Config) -> Tensor:
    """Do what the student is to do, with a whole guided path of the teacher in the place of each of its K calls.

    Args:
        student: a U-Net, whose own results are the inputs of the later calls; None: the ends of the teacher's paths.
        states, negative: text states (N, L, D) and (1 or N, L, D).
        seeds: of the noise of each path.

    Returns:
        (N, 2, K, z, h, w) float16: the input of each call, and the end of the path that begins there. The input of the
        first one is noise, that of each other one the result before with fresh noise.
    """
    distill, form = config.model.distill, noise_form(pipe)
    times = form.times(distill.steps)
    noise = {name: pipe.scheduler.config[name] for name in NOISE} | {"clip_sample": False}
    solver = sampling.make_scheduler(*SOLVER, sampling.objective_of(pipe.scheduler), noise)
    negative, shape = negative.expand_as(states), (1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2)
    own, pipe.scheduler, found = pipe.scheduler, solver, list[Tensor]()
    for start in tqdm(range(0, len(states), BATCH_SIZE), desc="sampling paths of the teacher", unit="batch"):
        rows, points, ends = slice(start, start + BATCH_SIZE), list[Tensor](), list[Tensor]()
        before: Tensor | None = None
        generators = sampling.generators(seeds[rows])
        for number, time in enumerate(times):
            fresh = torch.cat([torch.randn(shape, generator=one) for one in generators])        # (b, z, h, w)
            levels = torch.full((len(fresh),), time)
            points.append(fresh if before is None else form.noisy(before, fresh, levels))
            made = pipe(prompt_embeds=states[rows], negative_prompt_embeds=negative[rows], latents=points[-1],
                        timesteps=timesteps(times, distill.path_steps)[number * distill.path_steps // len(times) :],
                        guidance_scale=distill.guidance_scale, output_type="latent")  # fmt: skip
            ends.append(made.images)
            before = ends[-1]
            if student is not None:
                own_prediction = distillation.predict(student, form, points[-1], levels, states[rows], None)
                before = form.clean(points[-1], own_prediction, levels)
        found.append(torch.stack([torch.stack(points, 1), torch.stack(ends, 1)], dim=1).half())
    pipe.scheduler = own
    return torch.cat(found)


def timesteps(times: list[float], path_steps: int) -> list[int]:
    """Timesteps of a path from the first of the student's `times`: the same number from each of them to the next."""
    places = np.linspace(0, len(times), path_steps, endpoint=False)
    return np.interp(places, range(len(times) + 1), [1000 * time for time in times] + [0]).round().astype(int).tolist()


class Exporting(distillation.DistillTask):
    """Export of a student."""

    def export(self, folder: Path) -> None:
        """Write the adapters, in float16, with the facts that the preset "turbo" needs in the header of the file."""
        distill = self.config.model.distill
        facts = {"steps": str(distill.steps), "guidance_scale": str(distill.guidance_scale)}
        base = local_paths.strip(self.config.model.pretrained)
        lora.save(self.unet, folder / lora.FILE, self.config.model.lora, base, torch.float16,
                  teacher=self._frozen_hash(), **facts)  # fmt: skip


class EndpointTask(Exporting, distillation.EndpointTask):
    """Stage 1."""


class MatchingTask(Exporting, distillation.MatchingTask):
    """Stage 2."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        self.empty = conditions.encode_texts(frozen["pipeline"], [""])                       # (1, L, D)

    def guided(self, x: Tensor, times: Tensor, batch: PathBatch) -> Tensor:
        """The teacher's guided estimate of clean latents (B, z, h, w)."""
        unet = self.frozen["pipeline"].unet
        negative = self.empty[:, : batch.states.shape[1]].to(x).expand_as(batch.states)
        positive, unguided = (self.predict(unet, x, times, one, batch.mask) for one in (batch.states, negative))
        combined = Guidance(self.config.model.distill.guidance_scale).combine(unguided, positive)
        return self.form.clean(x, combined, times)


def build_task(config: Config, frozen: Frozen) -> RecipeTask:
    """The task of the config's stage."""
    return (EndpointTask if config.model.distill.stage is DistillStage.endpoint else MatchingTask)(config, frozen)
