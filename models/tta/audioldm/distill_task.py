"""Distillation of a pipeline into one of a few network calls: endpoint regression, then distribution matching.

Stage 1 learns the end of the teacher's guided sampling path from any of its points, so guidance is part of the result.
Stage 2 follows DMD2 (Yin et al. 2024, arXiv 2405.14867) without its discriminator, and keeps stage 1's loss as anchor.
B items, z latent channels, h x w latent size.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.tta.audioldm import Config, DistillStage, Method
from sonolume.models import lora
from sonolume.models.gan import ManualOptimization
from sonolume.models.latent_diffusion import DiffusionObjective
from sonolume.models.training import Draw, Frozen, RecipeTask, optimizer, training_draws, validation_draws
from sonolume.models.tta.audioldm import finetune, inference, run_config
from sonolume.models.tta.audioldm.paths import PathBatch
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules import distillation
from sonolume.modules.distillation import NoiseForm
from sonolume.modules.sampling import Guidance, preset
from sonolume.modules.unet import with_positions
from sonolume.utils import local_paths

LORA = "lora"  # subfolder of an exported pipeline whose student was trained as adapters
EARLIEST, LATEST = 0.02, 0.98  # noise times at which the scores are compared


def load_frozen(config: Config) -> Frozen:
    """Load the teacher, "pipeline", and with the stage matching the result of the stage endpoint, "student".

    Raises:
        UserError: a pipeline is missing, damaged, of another kind, or distilled already.
    """
    teacher = inference.load(str(finetune.locate(config.model.pretrained)), "cpu")
    found = Frozen(pipeline=teacher)
    if config.model.distill.stage is DistillStage.matching and config.model.method is Method.full:
        found["student"] = inference.load(str(finetune.locate(config.model.distill.student)), "cpu")
    for pipe in found.values():
        pipe.set_progress_bar_config(disable=True)
        for name in ("vae", "text_encoder", "unet", "vocoder"):
            if getattr(pipe, name) is not None:
                getattr(pipe, name).requires_grad_(False).eval()
    return found


def distilled(teacher: TextToAudioPipeline, unet: Any, facts: dict[str, Any]) -> TextToAudioPipeline:
    """A pipeline with the parts of the teacher, another U-Net, and the few-step sampler of its objective."""
    parts = {name: getattr(teacher, name) for name in ("vae", "text_encoder", "tokenizer", "vocoder")}
    kept = {name: teacher.config[name] for name in ("mel", "frames", "noise", "text_mask", "refine")}
    scheduler, steps = preset("turbo", teacher.objective, dict(teacher.config.noise))
    pipe = TextToAudioPipeline(**parts, unet=unet, scheduler=scheduler, num_steps=min(steps, facts["steps"]),
                               guidance_scale=1.0, distilled=facts, **kept)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


class DistillTask(RecipeTask):
    """Part that both stages share: a student, its estimate of clean latents, its samples, and the export."""

    frozen_keys = ("pretrained",)

    def set_up(self, config: Config, frozen: Frozen, unet: Any) -> None:
        """Make `unet` the student."""
        self.frozen = frozen
        torch.manual_seed(config.train.random_seed)
        objective = DiffusionObjective.of_scheduler(frozen["pipeline"].scheduler)
        self.form = NoiseForm(objective.prediction_type, objective.alphas_cumprod)
        self.times = self.form.times(config.model.distill.steps)
        if config.model.method is Method.lora:
            finetune.check_peft(config)
            self.__dict__["unet"] = unet  # frozen, so outside the state_dict
            self.adapters = lora.add(unet, config.model.lora)
            if config.model.distill.student:
                lora.restore(unet, finetune.locate(config.model.distill.student) / LORA / lora.FILE)
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
        x = with_positions(x, unet.config.in_channels)                                 # (B, z + positions, h, w)
        return unet(x, self.form.timesteps(times), states, encoder_attention_mask=mask).sample.float()

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

    def pipeline(self) -> TextToAudioPipeline:
        """The student as it stands, with its few-step sampler."""
        teacher, config = self.frozen["pipeline"], self.config.model.distill
        scale = config.guidance_scale or teacher.config.guidance_scale
        facts = {"steps": config.steps, "guidance_scale": scale, "teacher": self._frozen_hash()}
        return distilled(teacher, self.unet, facts)

    def export(self, folder: Path) -> None:
        """Write a pipeline folder with the run's config; adapters are a file in it, and merged into the U-Net."""
        pipe = self.pipeline()
        if self.config.model.method is Method.lora:
            path, facts = folder / LORA / lora.FILE, dict(pipe.config.distilled)
            path.parent.mkdir(parents=True)
            base = local_paths.strip(self.config.model.pretrained)
            lora.save(self.unet, path, self.config.model.lora, base, torch.float16,
                      **{name: str(value) for name, value in facts.items()})  # fmt: skip
            pipe = distilled(pipe, copy.deepcopy(self.frozen["pipeline"].unet), facts)
            lora.load(pipe, path)
        pipe.save_pretrained(folder)
        run_config.save(self.config, folder)


class EndpointTask(DistillTask):
    """Stage 1: from any point of a path of the teacher to its end."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
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

    def __init__(self, config: Config, frozen: Frozen) -> None:
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
        pipe: TextToAudioPipeline = self.frozen["pipeline"]
        guidance = Guidance(self.config.model.distill.guidance_scale or pipe.config.guidance_scale)
        states, mask, negative, negative_mask = pipe.encode_prompt(
            do_classifier_free_guidance=True, prompt_embeds=batch.states, prompt_attention_mask=batch.mask
        )
        assert negative is not None  # with guidance
        positive = self.predict(pipe.unet, x, times, states, mask)
        unguided = self.predict(pipe.unet, x, times, negative.to(x), negative_mask)
        return self.form.clean(x, guidance.combine(unguided, positive), times)
