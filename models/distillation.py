"""Distillation of a diffusion model into one of a few network calls, from the sampling paths of its teacher.

Stage 1 learns the end of the teacher's guided sampling path from any of its points, so guidance is part of the result.
Stage 2 follows DMD2 (Yin et al. 2024, arXiv 2405.14867) without its discriminator, and keeps stage 1's loss as anchor.
B items, z latent channels, h x w latent size, L text tokens, D text width.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.tta.audioldm import Method
from sonolume.models import lora
from sonolume.models.gan import ManualOptimization
from sonolume.models.latent_diffusion import DiffusionObjective
from sonolume.models.training import Draw, Frozen, RecipeTask, optimizer, training_draws, validation_draws
from sonolume.modules import distillation
from sonolume.modules.distillation import NoiseForm
from sonolume.modules.unet import with_positions
from sonolume.utils import paths

LORA = "lora"  # subfolder of an exported pipeline whose student was trained as adapters
EARLIEST, LATEST = 0.02, 0.98  # noise times at which the scores are compared


class PathBatch(NamedTuple):
    x: Tensor  # (B, z, h, w) points of paths; the noisier, the nearer `times` is to 1
    times: Tensor  # (B,) noise times in 0..1
    ends: Tensor  # (B, z, h, w) clean latents at the ends of the same paths
    renoised: Tensor  # (B,) 1 for the points that are to be replaced by the end with fresh noise
    states: Tensor  # (B, L, D) text states
    mask: Tensor | None  # (B, L) 1 for text; None: padding is attended to


Item = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # x, time, end, renoised, states (L, D)


class PathDataset(Dataset[Item]):
    """Points of the paths with the numbers `rows`; which point is drawn from (seed, epoch, path)."""

    def __init__(self, folder: Path, rows: range, config: Any) -> None:
        self.points, self.ends = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("points", "ends"))
        self.times = np.load(folder / "times.npy")
        self.states, self.state_ends = np.load(folder / "states.npy", mmap_mode="r"), np.load(folder / "state_ends.npy")
        self.rows, self.seed, self.distill = rows, config.train.random_seed, config.model.distill

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        epoch, index = item
        random, row = np.random.default_rng([self.seed, epoch, index]), self.rows[index]
        is_start = random.uniform() < self.distill.start_share
        point = 0 if is_start else int(random.integers(len(self.times)))
        renoised = point > 0 and random.uniform() < self.distill.renoised_share
        first = self.state_ends[row - 1] if row else 0
        states = torch.from_numpy(self.states[first : self.state_ends[row]].astype(np.float32))  # (L, D)
        ends = self.ends[row]  # (z, h, w), or (K, z, h, w)
        end = ends[point] if ends.ndim == self.points.ndim - 1 else ends
        x, end = (torch.from_numpy(one.astype(np.float32)) for one in (self.points[row, point], end))
        return x, torch.tensor(self.times[point]), end, torch.tensor(renoised), states


def predict(unet: Any, form: NoiseForm, x: Tensor, times: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    """Prediction (B, z, h, w) of a U-Net at x_t (B, z, h, w), in float32."""
    x = with_positions(x, unet.config.in_channels)                                     # (B, z + positions, h, w)
    return unet(x, form.timesteps(times), states, encoder_attention_mask=mask).sample.float()


class DistillTask(RecipeTask):
    """Part that both stages share: a student, its estimate of clean latents, and its samples.

    A recipe adds `export`. Its config has `model.distill`, `model.method` and `model.lora`; `frozen["pipeline"]`, with
    a U-Net and a scheduler, is the teacher, and `frozen["student"]` in the second stage the result of the first.
    """

    frozen_keys = ("pretrained",)

    def set_up(self, config: Any, frozen: Frozen, unet: Any) -> None:
        """Make `unet` the student."""
        self.frozen = frozen
        torch.manual_seed(config.train.random_seed)
        objective = DiffusionObjective.of_scheduler(frozen["pipeline"].scheduler)
        self.form = NoiseForm(objective.prediction_type, objective.alphas_cumprod)
        self.times = self.form.times(config.model.distill.steps)
        if config.model.method is Method.lora:
            self.__dict__["unet"] = unet  # frozen, so outside the state_dict
            self.adapters = lora.add(unet, config.model.lora)
            if config.model.distill.student:
                lora.restore(unet, paths.resolve(config.model.distill.student))
        else:
            self.unet = unet.requires_grad_(True)
        self.unet.train()

    def frozen_weights(self) -> list[Any]:
        return [self.frozen["pipeline"].unet.state_dict().values()]

    def estimate(self, unet: Any, x: Tensor, times: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        """Clean latents (B, z, h, w) that a U-Net estimates from x_t (B, z, h, w), in float32."""
        return self.form.clean(x, self.predict(unet, x, times, states, mask), times)

    def predict(self, unet: Any, x: Tensor, times: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        """Prediction (B, z, h, w) of a U-Net at x_t (B, z, h, w), in float32."""
        return predict(unet, self.form, x, times, states, mask)

    def endpoint_loss(self, batch: PathBatch, draws: Callable[[Draw], Tensor]) -> Tensor:
        """Regression on the ends of paths, a scalar, with the random numbers of `draws`."""
        noise = draws(lambda count, random: torch.randn(count, *batch.x.shape[1:], generator=random)).to(batch.x)
        renoised = self.form.noisy(batch.ends, noise, batch.times)                     # (B, z, h, w)
        x = torch.where(batch.renoised.view(-1, 1, 1, 1), renoised, batch.x)
        prediction = self.predict(self.unet, x, batch.times, batch.states, batch.mask)
        return distillation.endpoint_loss(self.form, x, batch.times, prediction, batch.ends)

    def validation_step(self, batch: PathBatch, batch_index: int) -> None:
        draws = validation_draws(self, batch_index)
        on_path = batch._replace(renoised=torch.zeros_like(batch.renoised))
        loss, samples = self.endpoint_loss(on_path, draws), self.sample(batch, draws, len(self.times))
        ratio, count = samples.std() / batch.ends.std(), len(batch.x)
        self.log("val/loss", loss, prog_bar=True, batch_size=count, sync_dist=True)
        self.log("val/std_ratio", ratio, prog_bar=True, batch_size=count, sync_dist=True)

    def sample(self, batch: PathBatch, draws: Callable[[Draw], Tensor], calls: int) -> Tensor:
        """Student's samples (B, z, h, w) of the captions of a batch after `calls` of its network calls."""
        shape = batch.x.shape[1:]
        noises = [draws(lambda count, random: torch.randn(count, *shape, generator=random)).to(batch.x)
                  for _ in range(calls)]  # fmt: skip
        estimate = lambda x, times: self.estimate(self.unet, x, times, batch.states, batch.mask)  # noqa: E731
        return distillation.sample(estimate, self.form, noises, self.times[:calls])


class EndpointTask(DistillTask):
    """Stage 1: from any point of a path of the teacher to its end."""

    def __init__(self, config: Any, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        self.set_up(config, frozen, copy.deepcopy(frozen["pipeline"].unet))

    def training_step(self, batch: PathBatch, batch_index: int) -> Tensor:
        loss = self.endpoint_loss(batch, training_draws(self, len(batch.x), batch_index))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss


class MatchingTask(ManualOptimization, DistillTask):
    """Stage 2: the student's samples get the scores of the teacher's; a third network follows the student.

    Of `fake_updates + 1` batches, one updates the student, the others that network.
    """

    def __init__(self, config: Any, frozen: Frozen) -> None:
        super().__init__(config)
        start = "pipeline" if config.model.method is Method.lora else "student"  # adapters are read from a file
        self.set_up(config, frozen, copy.deepcopy(frozen[start].unet))
        self.fake = copy.deepcopy(frozen["pipeline"].unet).requires_grad_(True).train()

    def configure_optimizers(self) -> Any:
        student = self.adapters if self.config.model.method is Method.lora else self.unet
        found = [optimizer(network.parameters(), self.config.train) for network in (student, self.fake)]
        return [one for one, _ in found], [rate for _, rate in found]

    def on_fit_start(self) -> None:
        self.frozen["pipeline"].to(self.device)

    def training_step(self, batch: PathBatch, batch_index: int) -> None:
        draws = training_draws(self, len(batch.x), batch_index)
        student, fake = self.optimizers()  # type: ignore[misc]
        is_students = self.optimizer_step_index % (self.config.model.distill.fake_updates + 1) == 0
        chosen = student if is_students else fake
        with self.toggled_optimizer(chosen):
            loss = self._student_loss(batch, draws) if is_students else self._fake_loss(batch, draws)
            self.manual_backward(loss / self.config.train.accumulate)
        self.clip_and_step(chosen)
        self.end_batch()

    def _student_loss(self, batch: PathBatch, draws: Callable[[Draw], Tensor]) -> Tensor:
        config = self.config.model.distill
        clean = self.sample(batch, draws, self._calls(draws))                                   # (B, z, h, w)
        x, times = self._noised(clean, draws)
        with torch.no_grad():
            teacher = self.guided(x, times, batch)
            fake = self.estimate(self.fake, x, times, batch.states, batch.mask)
        matching = distillation.matching_loss(clean, teacher, fake)
        loss = matching + config.variation * distillation.variation(clean)
        if config.anchor:
            anchor = self.endpoint_loss(batch, draws)
            loss = loss + config.anchor * anchor
            self.log("train/anchor", anchor, sync_dist=True)
        self.log("train/matching", matching, sync_dist=True)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def _fake_loss(self, batch: PathBatch, draws: Callable[[Draw], Tensor]) -> Tensor:
        with torch.no_grad():
            clean = self.sample(batch, draws, self._calls(draws))
        x, times = self._noised(clean, draws)
        prediction = self.predict(self.fake, x, times, batch.states, batch.mask)
        loss = torch.nn.functional.mse_loss(prediction, self.form.prediction(x, clean, times))
        self.log("train/fake", loss, prog_bar=True, sync_dist=True)
        return loss

    def _calls(self, draws: Callable[[Draw], Tensor]) -> int:
        """Draw after how many network calls the student's samples of this batch are taken."""
        drawn = draws(lambda count, random: torch.randint(len(self.times), (count,), generator=random))
        return 1 + int(drawn[0])

    def _noised(self, clean: Tensor, draws: Callable[[Draw], Tensor]) -> tuple[Tensor, Tensor]:
        """Clean latents (B, z, h, w) with noise of random times (B,)."""
        noise = draws(lambda count, random: torch.randn(count, *clean.shape[1:], generator=random)).to(clean)
        uniform = draws(lambda count, random: torch.rand(count, generator=random)).to(clean)    # (B,)
        times = EARLIEST + (LATEST - EARLIEST) * uniform
        return self.form.noisy(clean, noise, times), times

    def guided(self, x: Tensor, times: Tensor, batch: PathBatch) -> Tensor:
        """The teacher's guided estimate of clean latents (B, z, h, w)."""
        raise NotImplementedError
