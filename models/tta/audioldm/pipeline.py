"""Text to audio by latent diffusion: what a user loads. Needs torch, diffusers and transformers; never Lightning.

Also copied into every exported folder, where stock diffusers finds it (`trust_remote_code=True`) together with the
modules that this file itself imports; a module that only another one imports would be missing there.
Shapes: B sounds, z latent channels, h x w latent size, L text tokens, D text width, M mel bands, T frames, n windows.
"""

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AudioPipelineOutput, AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download
from torch import Tensor
from torch.nn import functional as F
from transformers import T5EncoderModel

from sonolume.modules.export_code import make_portable
from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.guidance import Guidance
from sonolume.modules.inpainting import FADE_SECONDS, Original, Spans, begin, from_noise, noised, original
from sonolume.modules.latents import denormalise, normalise
from sonolume.modules.mel import MEL_FLOOR, MelSettings, MelSpectrogram
from sonolume.modules.schedulers import objective_of, preset, scheduler
from sonolume.modules.unet import use_crop_upsampling, with_positions
from sonolume.modules.vocoder_chunks import vocode_in_chunks
from sonolume.modules.windows import Windows

SHORTEST, LONGEST = 0.5, 600.0  # seconds of a sound
WINDOWS_AT_ONCE = 8  # in one call of a network


@dataclass
class SoundOutput(AudioPipelineOutput):
    """`audios`: what `output_type` says."""

    mels: Tensor | None = None  # ln mel (B, M, T) as decoded, as long as the sound
    gains: Tensor | None = None  # (B,) 1, or what was made was multiplied by it to fit beside a kept original


class TextToAudioPipeline(DiffusionPipeline):
    """T5 -> U-Net -> VAE -> vocoder.

    Args:
        vae: autoencoder of log-mel spectrograms; its `latents_mean`, `latents_std` (or else `scaling_factor`)
            normalise the latents.
        text_encoder, tokenizer: T5. unet: its channels beyond the latent's are position channels.
        scheduler: any diffusers scheduler of the network's objective.
        vocoder: a `SpeechT5HifiGan`; Griffin-Lim without one.
        polish: rounds of Griffin-Lim that follow the vocoder, for one too small to hit the level of every band.
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
        polish: int = 0,
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
            polish=polish,
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
        make_portable(Path(save_directory), Path(inspect.getfile(type(self))), type(self).__name__)

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
        """Switch to a scheduler by its short name (`modules/schedulers.py`).

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

    def encode_wave(self, wave: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """Wave (B, N) -> ln mel (B, M, T), silence after the sound, and its normalised latents (B, z, h, w)."""
        wave = F.pad(wave, (0, -wave.shape[1] % self.mel_settings.hop_size), mode="reflect")
        mel = MelSpectrogram(self.mel_settings).to(wave.device)(wave)          # (B, M, N / hop)
        silence = windows.width * self._factor - mel.shape[-1]
        mel = F.pad(mel, (0, silence), value=math.log(MEL_FLOOR))              # (B, M, T)
        pieces = windows.cut(mel, self._factor)[:, None].to(self.vae.dtype)    # (B * n, 1, M, s)
        latents = [self.vae.encode(some).latent_dist.mode() for some in pieces.split(WINDOWS_AT_ONCE)]
        return mel, normalise(windows.blend(torch.cat(latents)), self.vae)

    def decode_latents(self, latents: Tensor, windows: Windows | None = None) -> Tensor:
        """Normalised latents (B, z, h, w) -> ln mel (B, M, T); several windows one by one, and cross-faded."""
        latents = denormalise(latents, self.vae)
        if windows is None or windows.count == 1:
            return self.vae.decode(latents).sample[:, 0]
        pieces = windows.cut(latents).split(WINDOWS_AT_ONCE)
        return windows.blend(torch.cat([self.vae.decode(some).sample[:, 0] for some in pieces]), self._factor)

    @torch.no_grad()
    def vocode(self, mel: Tensor) -> Tensor:
        """ln mel (B, M, T) -> wave (B, T * hop), float32; not clipped, it may leave -1..1."""
        settings, rounds = self.mel_settings, self.config.polish
        if self.vocoder is None:
            return mel_to_wave(mel, settings)
        wave = vocode_in_chunks(mel, self.vocoder)
        return mel_to_wave(mel, settings, rounds, start=wave) if rounds else wave

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
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        init_audio: Any = None,
        strength: float | None = None,
        mask: Spans | None = None,
        window_overlap: float = 0.5,
        windows_at_once: int = WINDOWS_AT_ONCE,
    ) -> SoundOutput:
        """Make sounds from texts, or from texts and a sound.

        Args:
            guidance_scale, guidance_rescale, guidance_interval: see `Guidance`; a scale of 1 turns it off.
            duration: seconds, 0.5 to 600, exact to the sample. Default: as long as `init_audio`, or one clip
                (`duration` of the pipeline). Beyond a clip, one long latent is denoised in overlapped windows.
            generator: one, or one for each sound, so that a sound does not depend on its batch.
            latents: initial noise (B, z, h, w).
            output_type: "np" or "pt" for waves (B, samples), "mel" for ln mel (B, M, T), "latent".
            init_audio: sound to start from, at the pipeline's rate: (n,), or (b, n) with a row for each text or sound.
            strength: how much of `init_audio` is given up, above 0 to 1: the share of the steps that is made; 1 begins
                with noise. Default 0.8, and 1 with a mask.
            mask: seconds to make anew, (start, end) each, None as the end of the sound. All else is `init_audio`, bit
                for bit; up to a quarter of a latent inside the mask may still resemble it. To continue a sound: a mask
                from its end, and a longer `duration`.
            window_overlap: share of a window that the next one covers, too, 0 to 0.9.
            windows_at_once: windows of all sounds in one call of the U-Net, if they are more than the sounds.

        Raises:
            ValueError: an empty or too long text, a number out of range, a sound or a mask that cannot be used.
        """
        prompts = _repeated(prompt, 1, num_waveforms_per_prompt)
        steps = self.config.num_steps if num_inference_steps is None else num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        guidance = Guidance(scale, guidance_rescale, guidance_interval)
        self._check(prompts, steps, duration, output_type, windows_at_once)
        negatives = _repeated(negative_prompt, len(prompts) // num_waveforms_per_prompt, num_waveforms_per_prompt)
        if len(negatives) != len(prompts):
            raise ValueError(f"{len(negatives)} negative texts for {len(prompts)} sounds: give one, or one a text")
        start = self._original(init_audio, len(prompts), strength, mask, duration)
        samples = start.wave.shape[1] if start else self._samples(duration or self.duration)
        windows = self._windows(samples, window_overlap)
        noise = self._noise(len(prompts), windows.width, generator, latents)
        text = self._condition(prompts, negatives, guidance)
        predict = self._predictor(text, guidance, windows, windows_at_once)
        old_mel, clean = self.encode_wave(start.wave, windows) if start else (noise, noise)
        latents = self._denoise(predict, noise, steps, start, clean.to(noise.dtype))
        if output_type == "latent":
            return SoundOutput(audios=latents)  # type: ignore[arg-type]
        mel = self.decode_latents(latents.to(self.vae.dtype), windows)
        mel = start.keep(mel, old_mel.to(mel.dtype), self.mel_settings.hop_size) if start else mel
        mels = mel[..., : math.ceil(samples / self.mel_settings.hop_size)].float()
        if output_type == "mel":
            return SoundOutput(audios=mels, mels=mels)  # type: ignore[arg-type]
        wave, gains = self.vocode(mel)[:, :samples], mel.new_ones(len(mel))
        if start:
            wave, gains = start.keep_wave(wave, self._samples(FADE_SECONDS))
        audios: Any = wave.cpu().numpy() if output_type == "np" else wave
        return SoundOutput(audios=audios, mels=mels, gains=gains)

    def _check(self, prompts: list[str], steps: int, duration: float | None, output_type: str, at_once: int) -> None:
        if not prompts or not all(text.strip() for text in prompts):
            raise ValueError("the text is empty: say what should be heard")
        if steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {steps}")
        if duration is not None and not SHORTEST <= duration <= LONGEST:
            raise ValueError(f"duration must be from {SHORTEST:g} to {LONGEST:g} s, got {duration:g}")
        if output_type not in ("np", "pt", "mel", "latent"):
            raise ValueError(f"output_type must be np, pt, mel or latent, got {output_type!r}")
        if at_once < 1:
            raise ValueError(f"windows_at_once must be at least 1, got {at_once}")

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.mel_settings.sample_rate)

    @property
    def _factor(self) -> int:
        """Mel frames, and mel bands, of one latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _latent_shape(self) -> tuple[int, int, int]:
        """(z, h, w) of one clip."""
        factor = self._factor
        return self.vae.config.latent_channels, self.mel_settings.n_mel // factor, self.config.frames // factor

    def _windows(self, samples: int, overlap: float) -> Windows:
        width = math.ceil(samples / (self._factor * self.mel_settings.hop_size))
        return Windows.covering(width, self._latent_shape()[-1], overlap)

    def _original(
        self, sound: Any, count: int, strength: float | None, mask: Spans | None, duration: float | None
    ) -> Original | None:
        """What `init_audio`, `strength` and `mask` ask for, checked; None without `init_audio`."""
        if sound is None:
            for name, value in (("strength", strength), ("mask", mask)):
                if value is not None:
                    raise ValueError(f"{name} needs init_audio, the sound that it is about")
            return None
        samples = None if duration is None else self._samples(duration)
        start = original(sound, count, strength, mask, samples, self.mel_settings.sample_rate, SHORTEST)
        if start.wave.shape[1] > self._samples(LONGEST):
            raise ValueError(f"init_audio is longer than {LONGEST:g} s: give a shorter one, or a duration")
        return replace(start, wave=start.wave.to(self._execution_device))

    def _noise(self, count: int, width: int, generator: Any, given: Tensor | None) -> Tensor:
        """Initial noise (B, z, h, w): the one given, or drawn."""
        shape = (count, *self._latent_shape()[:2], width)
        if given is not None:
            if tuple(given.shape) != shape:
                raise ValueError(f"latents are {tuple(given.shape)}, not {shape}")
            return given.to(self._execution_device, self.unet.dtype)
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} sounds: give one, or one for each sound")
        return randn_tensor(shape, generator, self._execution_device, self.unet.dtype)

    def _condition(self, prompts: list[str], negatives: list[str], guidance: Guidance) -> tuple[Tensor, Tensor | None]:
        """States and mask of the prompts, behind those of the negative prompts when guidance needs them."""
        if not guidance.is_used:
            return self.encode_text(prompts)
        if self.config.text_mask:
            return self.encode_text(negatives + prompts)
        states, _ = self.encode_text(prompts)
        unconditional, _ = self.encode_text(negatives, length=states.shape[1])
        if unconditional.shape != states.shape:
            raise ValueError("without a text mask the negative text must not be longer than the text")
        return torch.cat([unconditional, states]), None

    def _predictor(
        self, text: tuple[Tensor, Tensor | None], guidance: Guidance, windows: Windows, at_once: int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The U-Net as a function of latents (B, z, h, w) and the timestep: on every window, guided and blended."""
        states, mask = text[0].to(self.unet.dtype), text[1]
        sounds = len(states) // 2 if guidance.is_used else len(states)
        times = self.scheduler.config.num_train_timesteps

        def predict_some(x: Tensor, t: Tensor, sound: Tensor) -> Tensor:
            conditional = sound + len(states) - sounds
            if not guidance.is_on(min(float(t) / times, 1.0)):
                masks = None if mask is None else mask[conditional]
                return self.unet(x, t, states[conditional], encoder_attention_mask=masks).sample
            both = torch.cat([sound, conditional])
            masks = None if mask is None else mask[both]
            predicted = self.unet(torch.cat([x, x]), t, states[both], encoder_attention_mask=masks).sample
            return guidance.combine(*predicted.chunk(2))

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            x = with_positions(windows.cut(latents), self.unet.config.in_channels)  # (B * n, z + positions, h, s)
            sound = torch.arange(len(x), device=x.device) // windows.count          # whose window it is
            groups = zip(x.split(max(at_once, sounds)), sound.split(max(at_once, sounds)), strict=True)
            return windows.blend(torch.cat([predict_some(some, t, whose) for some, whose in groups]))

        return predict

    def _denoise(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        noise: Tensor,
        steps: int,
        start: Original | None,
        clean: Tensor,
    ) -> Tensor:
        """Noise -> latents, (B, z, h, w); from `clean`, the latents of the sound to `start` from, if there is one."""
        first = begin(self.scheduler, steps, start.strength if start else 1.0, noise.device)
        scaled = getattr(self.scheduler, "scale_model_input", lambda sample, _: sample)
        unit = self._factor * self.mel_settings.hop_size
        whole = start is None or start.strength == 1
        latents = from_noise(self.scheduler, noise) if whole else noised(self.scheduler, clean, noise, first)
        for index in self.progress_bar(range(first, len(self.scheduler.timesteps))):  # type: ignore[operator]
            if start:
                latents = start.keep(latents, noised(self.scheduler, clean, noise, index), unit)
            t = self.scheduler.timesteps[index]
            latents = self.scheduler.step(predict(scaled(latents, t), t), t, latents).prev_sample
        return start.keep(latents, clean, unit) if start else latents


def _repeated(texts: str | list[str], count: int, times: int) -> list[str]:
    """One text for all, or a list of them; each `times` in a row."""
    if times < 1:
        raise ValueError(f"num_waveforms_per_prompt must be at least 1, got {times}")
    return [text for text in ([texts] * count if isinstance(texts, str) else texts) for _ in range(times)]
