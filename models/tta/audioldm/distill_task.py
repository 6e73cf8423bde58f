"""Distillation of a pipeline into one of a few network calls, by the stages of `models/distillation.py`.

B items, z latent channels, h x w latent size.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.tta.audioldm import Config, DistillStage, Method
from sonolume.models import distillation, lora
from sonolume.models.distillation import LORA, PathBatch
from sonolume.models.training import Frozen
from sonolume.models.tta.audioldm import finetune, inference, run_config
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.sampling import Guidance, preset
from sonolume.utils import local_paths


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


class SoundStudent(distillation.DistillTask):
    """Export of a student, and guidance of its teacher."""

    def pipeline(self) -> TextToAudioPipeline:
        """The student as it stands, with its few-step sampler."""
        teacher, config = self.frozen["pipeline"], self.config.model.distill
        scale = config.guidance_scale or teacher.config.guidance_scale
        facts = {"steps": config.steps, "guidance_scale": scale, "teacher": self._frozen_hash(),
                 "cache_interval": config.cache_interval}  # fmt: skip
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


class EndpointTask(SoundStudent, distillation.EndpointTask):
    """Stage 1."""


class MatchingTask(SoundStudent, distillation.MatchingTask):
    """Stage 2."""
