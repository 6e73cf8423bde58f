"""Training that starts from a pipeline: all weights of its U-Net, or LoRA adapters of it."""

from pathlib import Path
from typing import Any

from sonolume.config.tta.audioldm import Config
from sonolume.models import lora
from sonolume.models.latent_diffusion import latents_of
from sonolume.models.training import Frozen
from sonolume.models.tta.audioldm import finetune, inference, run_config
from sonolume.models.tta.audioldm.components import TextEncoder
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.audioldm.task import Task
from sonolume.utils import cache, local_paths
from sonolume.utils.errors import UserError


def load_frozen(config: Config) -> Frozen:
    """Load the pipeline to start from, in float32 on the CPU: "pipeline", and its parts by their names.

    Raises:
        UserError: the pipeline is damaged or of another kind, or the config contradicts it.
    """
    folder = finetune.locate(config.model.pretrained)
    finetune.check_agreement(config, run_config.read(folder), folder)
    finetune.check_peft(config)
    text = TextEncoder(str(folder), config.model.text_mask, "model.pretrained")
    pipe = inference.load(str(folder), "cpu", text_encoder=text.model, tokenizer=text.tokenizer)
    for part in filter(None, (pipe.vae, pipe.vocoder)):
        part.requires_grad_(False)
    if config.model.audioldm.use_checkpoint:
        pipe.unet.enable_gradient_checkpointing()
    return Frozen(pipeline=pipe, vae=pipe.vae, text=text, vocoder=pipe.vocoder)


class FinetuneTask(Task):
    """Training of all weights of the U-Net of `frozen["pipeline"]`."""

    frozen_keys = ("pretrained",)
    has_latents = True  # the pipeline's normalisation of latents is kept

    def set_unet(self) -> None:
        self.unet = self.frozen["pipeline"].unet.train()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.unet.to(self.device)  # type: ignore[arg-type]

    def frozen_weights(self) -> list[Any]:
        return [*super().frozen_weights(), latents_of(self.frozen["vae"])]

    def pipeline(self) -> TextToAudioPipeline:
        pipe = self.frozen["pipeline"].to(self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe


class LoraTask(FinetuneTask):
    """Training of adapters; the U-Net is frozen, so it stays out of the state_dict."""

    export_folder = "lora"

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        self.adapters = lora.add(self.unet, config.model.lora)

    def set_unet(self) -> None:
        self.__dict__["unet"] = self.frozen["pipeline"].unet.train()  # not registered as a submodule

    def export(self, folder: Path) -> None:
        """Write the LoRA file alone."""
        base = local_paths.strip(self.config.model.pretrained)
        lora.save(self.unet, folder / lora.FILE, self.config.model.lora, base)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["base"] = lora.base_hash(self.unet)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        base = checkpoint.get("base", "")[: cache.HASH_LENGTH]  # older checkpoints have longer hashes
        if base and base != lora.base_hash(self.unet):
            remedy = "name that pipeline, or start a new run with another exp_name=..."
            found = f"model.pretrained {self.config.model.pretrained}: its weights differ"
            raise UserError(f"{found} from those that this run started from: {remedy}")
