"""Text to audio by latent diffusion: what a user loads. Needs torch, diffusers and transformers; never Lightning.

Also copied into every exported folder, where stock diffusers finds it (`trust_remote_code=True`).
Shapes: B sounds, z latent channels, h x w latent size, L text tokens, D text width, M mel bands, T frames.
"""

import inspect
import json
import os
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AudioPipelineOutput, AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import T5EncoderModel

from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.mel import MelSettings
from sonolume.modules.portable import copy_code
from sonolume.modules.presets import objective_of, preset, scheduler
from sonolume.modules.unet import use_crop_upsampling, with_positions


class TextToAudioPipeline(DiffusionPipeline):
    """T5 -> U-Net -> VAE -> vocoder.

    Args:
        vae: autoencoder of log-mel spectrograms; its `latents_mean`, `latents_std` (or else `scaling_factor`)
            normalise the latents.
        text_encoder, tokenizer: T5. unet: its channels beyond the latent's are position channels.
        scheduler: any diffusers scheduler of the network's objective.
        vocoder: a `SpeechT5HifiGan`; Griffin-Lim without one.
        mel: fields of `MelSettings`. frames: mel frames of one clip. noise: the training noise schedule.
        text_mask: attention ignores padding. False as the official weights were sampled: unmasked, and the empty
            prompt padded to the prompt's length.
        num_steps, guidance_scale: defaults of the call.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae->vocoder"
    _optional_components = ["vocoder"]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: T5EncoderModel,
        tokenizer: Any,
        unet: UNet2DConditionModel,
        scheduler: Any,
        vocoder: Any = None,
        mel: dict[str, Any] | None = None,
        frames: int = 624,
        noise: dict[str, Any] | None = None,
        text_mask: bool = True,
        num_steps: int = 20,
        guidance_scale: float = 4.0,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=use_crop_upsampling(unet),
            scheduler=scheduler,
            vocoder=vocoder,
        )
        self.register_to_config(
            mel=mel or {},
            frames=frames,
            noise=noise or {},
            text_mask=text_mask,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """A pipeline from a folder or a hub id. Code in the folder is not executed: this class is the code."""
        source = str(pretrained_model_name_or_path)
        if not Path(source).is_dir():
            names = ("revision", "cache_dir", "token", "local_files_only", "force_download")
            source = snapshot_download(source, **{name: kwargs[name] for name in names if name in kwargs})
        return super().from_pretrained(source, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write a folder that stock diffusers loads, too: weights, configs, and the code of this pipeline.

        `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` then needs no sonolume.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        copy_code(Path(inspect.getfile(type(self))), folder)
        index = json.loads((folder / self.config_name).read_text(encoding="utf-8"))
        index["_class_name"] = ["pipeline", type(self).__name__]  # diffusers looks for pipeline.py in the folder
        (folder / self.config_name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """The folder's model_index.json with this class in place of the folder's own pipeline.py."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config["_class_name"] = cls.__name__
        return loaded

    @property
    def mel_settings(self) -> MelSettings:
        return MelSettings(**self.config.mel)

    @property
    def duration(self) -> float:
        """Seconds of one clip."""
        return self.config.frames * self.mel_settings.hop_size / self.mel_settings.sample_rate

    @property
    def objective(self) -> str:
        return objective_of(self.scheduler)

    def use_preset(self, name: str) -> int:
        """Switch to a preset's scheduler ("reference", "balanced", "fast"); returns its number of steps.

        Raises:
            ValueError: no such preset for this network's objective.
        """
        self.scheduler, steps = preset(name, self.objective, dict(self.config.noise))
        self.register_to_config(num_steps=steps)
        return steps

    def use_scheduler(self, name: str) -> None:
        """Switch to a scheduler by its short name (`modules/presets.py`).

        Raises:
            ValueError: no such scheduler for this network's objective.
        """
        self.scheduler = scheduler(name, self.objective, dict(self.config.noise))

    def encode_text(self, texts: list[str], length: int = 0) -> tuple[Tensor, Tensor | None]:
        """Texts -> states (B, L, D) and mask (B, L), or no mask if `text_mask` is off.

        Args:
            length: pad to at least so many tokens.

        Raises:
            ValueError: a text of more tokens than the encoder was made for (512 for T5).
        """
        limit = min(self.tokenizer.model_max_length, 512)
        tokens = self.tokenizer(texts, padding="longest", return_tensors="pt")
        longest = tokens.input_ids.shape[1]
        if longest > limit:
            raise ValueError(f"the text has {longest} tokens, the text encoder takes {limit}: shorten it")
        if longest < length:
            tokens = self.tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
        mask = tokens.attention_mask.to(self._execution_device) if self.config.text_mask else None
        states = self.text_encoder(tokens.input_ids.to(self._execution_device), attention_mask=mask)
        return states.last_hidden_state, mask

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, z, h, w) -> ln mel (B, M, T)."""
        return self.vae.decode(denormalise(latents, self.vae)).sample[:, 0]

    def vocode(self, mel: Tensor) -> Tensor:
        """ln mel (B, M, T) -> wave (B, T * hop) in -1..1, float32."""
        if self.vocoder is None:
            return mel_to_wave(mel.float(), self.mel_settings).clamp(-1, 1)
        return self.vocoder(mel.transpose(1, 2)).float().reshape(len(mel), -1)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_waveforms_per_prompt: int = 1,
        duration: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
    ) -> AudioPipelineOutput:
        """Make sounds from texts.

        Args:
            guidance_scale: classifier-free guidance (Ho & Salimans 2022); 1 turns it off.
            duration: seconds, at most one clip (`duration` of the pipeline), which is the default.
            generator: one, or one for each sound, so that a sound does not depend on its batch.
            latents: initial noise (B, z, h, w).
            output_type: "np" or "pt" for waves (B, samples), "mel" for ln mel (B, M, T), "latent".

        Raises:
            ValueError: an empty or too long text, a number out of range, a duration beyond one clip.
        """
        prompts = _repeated(prompt, 1, num_waveforms_per_prompt)
        steps = self.config.num_steps if num_inference_steps is None else num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        self._check(prompts, steps, duration, output_type)
        negatives = _repeated(negative_prompt, len(prompts) // num_waveforms_per_prompt, num_waveforms_per_prompt)
        if len(negatives) != len(prompts):
            raise ValueError(f"{len(negatives)} negative texts for {len(prompts)} sounds: give one, or one a text")
        states, mask = self._condition(prompts, negatives, scale)
        latents = self._denoise(self._noise(len(prompts), generator, latents), states, mask, steps, scale)
        if output_type == "latent":
            return AudioPipelineOutput(audios=latents)  # type: ignore[arg-type]
        mel = self.decode_latents(latents.to(self.vae.dtype))
        if output_type == "mel":
            return AudioPipelineOutput(audios=mel.float())  # type: ignore[arg-type]
        wave = self.vocode(mel)
        if duration is not None:
            wave = wave[:, : round(duration * self.mel_settings.sample_rate)]
        return AudioPipelineOutput(audios=wave.cpu().numpy() if output_type == "np" else wave)  # type: ignore[arg-type]

    def _check(self, prompts: list[str], steps: int, duration: float | None, output_type: str) -> None:
        if not prompts or not all(text.strip() for text in prompts):
            raise ValueError("the text is empty: say what should be heard")
        if steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {steps}")
        if duration is not None and not 0 < duration <= self.duration:
            raise ValueError(f"duration must be above 0 and at most {self.duration:g} s (one clip), got {duration}")
        if output_type not in ("np", "pt", "mel", "latent"):
            raise ValueError(f"output_type must be np, pt, mel or latent, got {output_type!r}")

    def _noise(self, count: int, generator: Any, given: Tensor | None) -> Tensor:
        """Initial noise (B, z, h, w): the one given, or drawn."""
        shape = (count, *self._latent_shape())
        if given is not None:
            if tuple(given.shape) != shape:
                raise ValueError(f"latents are {tuple(given.shape)}, not {shape}")
            return given.to(self._execution_device, self.unet.dtype)
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} sounds: give one, or one for each sound")
        return randn_tensor(shape, generator, self._execution_device, self.unet.dtype)

    def _latent_shape(self) -> tuple[int, int, int]:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.latent_channels, self.mel_settings.n_mel // factor, self.config.frames // factor

    def _condition(self, prompts: list[str], negatives: list[str], scale: float) -> tuple[Tensor, Tensor | None]:
        """States and mask of the prompts, behind those of the negative prompts when guidance needs them."""
        if scale == 1:
            return self.encode_text(prompts)
        if self.config.text_mask:
            return self.encode_text(negatives + prompts)
        states, _ = self.encode_text(prompts)
        unconditional, _ = self.encode_text(negatives, length=states.shape[1])
        if unconditional.shape != states.shape:
            raise ValueError("without a text mask the negative text must not be longer than the text")
        return torch.cat([unconditional, states]), None

    def _denoise(self, latents: Tensor, states: Tensor, mask: Tensor | None, steps: int, scale: float) -> Tensor:
        self.scheduler.set_timesteps(steps, device=latents.device)
        latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        scaled = getattr(self.scheduler, "scale_model_input", lambda sample, _: sample)
        states = states.to(self.unet.dtype)
        for t in self.progress_bar(self.scheduler.timesteps):  # type: ignore[operator]
            x = with_positions(scaled(latents, t), self.unet.config.in_channels)     # (B, z + positions, h, w)
            x = x if scale == 1 else torch.cat([x, x])                               # (2B, ...)
            predicted = self.unet(x, t, states, encoder_attention_mask=mask).sample  # (2B, z, h, w)
            if scale != 1:
                unconditional, conditional = predicted.chunk(2)
                predicted = unconditional + scale * (conditional - unconditional)
            latents = self.scheduler.step(predicted, t, latents).prev_sample         # (B, z, h, w)
        return latents


def _repeated(texts: str | list[str], count: int, times: int) -> list[str]:
    """One text for all, or a list of them; each `times` in a row."""
    if times < 1:
        raise ValueError(f"num_waveforms_per_prompt must be at least 1, got {times}")
    return [text for text in ([texts] * count if isinstance(texts, str) else texts) for _ in range(times)]


def _latent_statistics(latents: Tensor, vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the VAE's latents, (1, z, 1, 1) each; from `scaling_factor` if not per channel."""
    mean, std = vae.config.latents_mean, vae.config.latents_std
    if mean is None or std is None:
        return latents.new_zeros(1, 1, 1, 1), latents.new_full((1, 1, 1, 1), 1 / vae.config.scaling_factor)
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)


def normalise(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """Latents as the VAE gives them -> about zero mean and unit deviation, as the U-Net takes them."""
    mean, std = _latent_statistics(latents, vae)
    return (latents - mean) / std


def denormalise(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """The inverse of `normalise`."""
    mean, std = _latent_statistics(latents, vae)
    return latents * std + mean
