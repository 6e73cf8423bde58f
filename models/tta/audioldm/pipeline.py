"""Text-to-audio pipeline: latent diffusion on mel spectrograms. Needs torch, diffusers and transformers only.

This file is copied into every exported folder, where stock diffusers finds it (`trust_remote_code=True`), together with
the modules that this file itself imports; a module that only another one imports would be missing there.
B sounds, z latent channels, h x w latent size, L text tokens, D text width, M mel bands, T frames, N samples.
"""

import inspect
import math
import os
from dataclasses import dataclass
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

from sonolume.modules.export_code import add_code
from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.inpainting import FromAudio, FromNoise, Spans, check_source
from sonolume.modules.mel import MEL_FLOOR, MelSettings, MelSpectrogram
from sonolume.modules.sampling import Guidance, TextStates, objective_of, preset, scale_model_input, scheduler
from sonolume.modules.unet import denormalise, normalise, use_crop_upsampling, with_positions
from sonolume.modules.windows import Windows, vocode_in_chunks
from sonolume.utils.model_folder import check_class, find_folder

SHORTEST, LONGEST = 0.5, 600.0  # seconds of a sound
WINDOW_BATCH_SIZE = 8  # windows in one call of a network


@dataclass
class SoundOutput(AudioPipelineOutput):
    """`audios` as `output_type` asks."""

    mels: Tensor | None = None  # ln mel (B, M, T) as decoded, as long as the sound
    gains: Tensor | None = None  # (B,) factor applied to the generated part, below 1 where it was too loud


class TextToAudioPipeline(DiffusionPipeline):
    """T5 -> U-Net -> VAE -> vocoder.

    Args:
        vae: autoencoder of log-mel spectrograms; its `latents_mean`, `latents_std` (or else `scaling_factor`)
            normalise the latents.
        text_encoder, tokenizer: T5.
        unet: its input channels beyond the latent's are position channels.
        scheduler: any diffusers scheduler of the network's objective.
        vocoder: a `SpeechT5HifiGan`; None: Griffin-Lim.
        mel, frames: fields of `MelSettings`, and mel frames of one clip.
        noise: training noise schedule, for `use_preset` and `use_scheduler`.
        text_mask: attention ignores padding. False as the official weights were sampled: unmasked, with the empty
            prompt padded to the prompt's length.
        num_steps, guidance_scale: defaults of the call.
        refine: Griffin-Lim iterations that start from the vocoder's wave; they help a small vocoder.
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
        refine: int = 0,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=use_crop_upsampling(unet),
            scheduler=scheduler, vocoder=vocoder,
        )  # fmt: skip
        self.register_to_config(
            mel=mel or {}, frames=frames, noise=noise or {}, text_mask=text_mask, num_steps=num_steps,
            guidance_scale=guidance_scale, refine=refine,
        )  # fmt: skip

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline from a folder or a hub id, without running the code in it: this class is the code.

        Raises:
            ValueError: no such folder, not available from the hub, or the folder of another kind of model.
        """
        source = str(pretrained_model_name_or_path)
        folder = find_folder(source)
        if folder is None:
            names = ("revision", "cache_dir", "token", "local_files_only", "force_download")
            try:
                folder = Path(snapshot_download(source, **{name: kwargs[name] for name in names if name in kwargs}))
            except (OSError, ValueError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ValueError(f"{source}: neither a folder nor available from the hub: {reason}") from error
        check_class(folder, *(kind.__name__ for kind in cls.__mro__ if issubclass(kind, TextToAudioPipeline)))
        return super().from_pretrained(folder, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write weights, configs and the code of this pipeline.

        `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads the folder without sonolume.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        add_code(Path(save_directory), Path(inspect.getfile(type(self))), type(self).__name__)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read model_index.json, with this class in place of the folder's own pipeline.py."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config["_class_name"] = cls.__name__
        if "polish" in config:  # older name
            config["refine"] = config.pop("polish")
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

        Raises a ValueError if this network's objective has no preset, or scheduler, of this name.
        """
        self.scheduler, steps = preset(name, self.objective, dict(self.config.noise))
        self.register_to_config(num_steps=steps)
        return steps

    def use_scheduler(self, name: str) -> None:
        """Switch to a scheduler by its short name (`modules/sampling.py`)."""
        self.scheduler = scheduler(name, self.objective, dict(self.config.noise))

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
        windows_at_once: int = WINDOW_BATCH_SIZE,
    ) -> SoundOutput:
        """Generate sounds from texts, or from texts and a recording.

        Args:
            guidance_scale, guidance_rescale, guidance_interval: see `Guidance`; a scale of 1 turns it off.
            duration: seconds, 0.5 to 600, exact to the sample. Default: as long as `init_audio`, or one clip
                (`duration` of the pipeline). A longer latent than a clip's is denoised in overlapping windows.
            generator: one, or one per sound, so that a sound does not depend on its batch.
            latents: initial noise (B, z, h, w).
            output_type: "np" or "pt" for waves (B, N), "mel" for ln mel (B, M, T), "latent".
            init_audio: recording to start from, at the pipeline's rate: (n,), or (b, n) with a row per text or sound.
            strength: share of the steps that run on `init_audio`, above 0 to 1; 1 begins with noise. Default 0.8, and 1
                with a mask.
            mask: seconds to generate anew, (start, end) each; None is the end of the sound. All else is `init_audio`,
                bit for bit; up to a quarter of a latent inside the mask may still resemble it. To continue a
                recording: a mask from its end, and a longer `duration`.
            window_overlap: share of a window that the next one covers as well, 0 to 0.9.
            windows_at_once: windows of all sounds in one call of the U-Net, if they are more than the sounds.

        Raises:
            ValueError: an empty or too long text, a number out of range, a sound or a mask that cannot be used.
        """
        steps = self.config.num_steps if num_inference_steps is None else num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        guidance = Guidance(scale, guidance_rescale, guidance_interval)
        prompts = _repeat(prompt, 1, num_waveforms_per_prompt)
        negatives = _repeat(negative_prompt, len(prompts) // num_waveforms_per_prompt, num_waveforms_per_prompt)
        self._check(prompts, negatives, steps, duration, output_type, windows_at_once)
        samples, windows, source = self._begin(len(prompts), duration, window_overlap, init_audio, strength, mask)

        text = self.encode_prompts(prompts, negatives, guidance)                                   # (2B, L, D)
        noise = self.prepare_latents(len(prompts), windows.width, generator, latents)              # (B, z, h, w)
        x, timesteps = source.start(self.scheduler, noise, steps)
        for t in self.progress_bar(timesteps):  # type: ignore[operator]
            network = lambda some, of, t=t: self.predict(some, t, text.rows(of), guidance)  # noqa: E731
            noisy = scale_model_input(self.scheduler, x, t)
            prediction = windows.apply(network, noisy, max(windows_at_once, len(noisy)))
            x = source.after_step(self.scheduler.step(prediction, t, x).prev_sample)               # (B, z, h, w)
        return self._decode(x, windows, source, samples, output_type)

    def _decode(
        self, x: Tensor, windows: Windows, source: FromNoise, samples: int, output_type: str
    ) -> SoundOutput:
        """Denoised latents (B, z, h, w) -> mel -> wave of N samples, with what `source` keeps of a recording."""
        if output_type == "latent":
            return SoundOutput(audios=x)  # type: ignore[arg-type]
        mel = source.merge_mel(self.decode_latents(x, windows))                                    # (B, M, T)
        mels = mel[..., : math.ceil(samples / self.mel_settings.hop_size)].float()
        if output_type == "mel":
            return SoundOutput(audios=mels, mels=mels)  # type: ignore[arg-type]
        wave, gains = source.merge_wave(self.vocode(mel)[:, :samples])                             # (B, N), (B,)
        audios: Any = wave.cpu().numpy() if output_type == "np" else wave
        return SoundOutput(audios=audios, mels=mels, gains=gains)

    def encode_prompts(self, prompts: list[str], negatives: list[str], guidance: Guidance) -> TextStates:
        """Encode B texts for `predict`: (2B, L, D), those of the negative prompts first, or (B, L, D) unguided."""
        if not guidance.is_used:
            states, mask = self.encode_text(prompts)
        elif self.config.text_mask:
            states, mask = self.encode_text(negatives + prompts)
        else:
            conditional, mask = self.encode_text(prompts)
            unconditional, _ = self.encode_text(negatives, length=conditional.shape[1])
            if unconditional.shape != conditional.shape:
                raise ValueError("without a text mask the negative text must not be longer than the text")
            states = torch.cat([unconditional, conditional])
        return TextStates(states.to(self.unet.dtype), mask, len(prompts))

    def encode_text(self, texts: list[str], length: int = 0) -> tuple[Tensor, Tensor | None]:
        """Texts -> hidden states (B, L, D), L at least `length`, and mask (B, L), or no mask if `text_mask` is off.

        Raises:
            ValueError: a text has more tokens than the encoder was made for (512 for T5).
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

    def prepare_latents(self, count: int, width: int, generator: Any, given: Tensor | None) -> Tensor:
        """Initial noise (B, z, h, w): the given one, or drawn."""
        shape = (count, *self._latent_shape()[:2], width)
        if given is not None:
            if tuple(given.shape) != shape:
                raise ValueError(f"latents are {tuple(given.shape)}, not {shape}")
            return given.to(self._execution_device, self.unet.dtype)
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} sounds: give one, or one for each sound")
        return randn_tensor(shape, generator, self._execution_device, self.unet.dtype)

    def predict(self, x: Tensor, t: Tensor, text: TextStates, guidance: Guidance) -> Tensor:
        """Run the U-Net on latents (b, z, h, w) of one window each, with guidance -> (b, z, h, w)."""
        x = with_positions(x, self.unet.config.in_channels)  # (b, z + positions, h, w)
        if not guidance.is_on(min(float(t) / self.scheduler.config.num_train_timesteps, 1.0)):
            text = text.conditional()
            return self.unet(x, t, text.states, encoder_attention_mask=text.mask).sample
        predicted = self.unet(torch.cat([x, x]), t, text.states, encoder_attention_mask=text.mask).sample
        return guidance.combine(*predicted.chunk(2))

    def decode_latents(self, latents: Tensor, windows: Windows | None = None) -> Tensor:
        """Normalised latents (B, z, h, w) -> ln mel (B, M, T); several windows are cross-faded."""
        windows = windows or Windows(latents.shape[-1], 1, 1)
        latents = denormalise(latents.to(self.vae.dtype), self.vae)
        decode = lambda some, _: self.vae.decode(some).sample[:, 0]  # noqa: E731
        return windows.apply(decode, latents, WINDOW_BATCH_SIZE, out_unit=self._factor)

    def encode_wave(self, wave: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """Wave (B, N) -> ln mel (B, M, T), with silence after the sound, and its normalised latents (B, z, h, w)."""
        wave = F.pad(wave, (0, -wave.shape[1] % self.mel_settings.hop_size), mode="reflect")
        mel = MelSpectrogram(self.mel_settings).to(wave.device)(wave)                          # (B, M, N / hop)
        silence = windows.width * self._factor - mel.shape[-1]
        mel = F.pad(mel, (0, silence), value=math.log(MEL_FLOOR))                              # (B, M, T)
        encode = lambda some, _: self.vae.encode(some[:, None]).latent_dist.mode()  # noqa: E731
        latents = windows.apply(encode, mel.to(self.vae.dtype), WINDOW_BATCH_SIZE, unit=self._factor)
        return mel, normalise(latents, self.vae)

    @torch.no_grad()
    def vocode(self, mel: Tensor) -> Tensor:
        """ln mel (B, M, T) -> wave (B, T * hop), float32; not clipped, it may leave -1..1."""
        if self.vocoder is None:
            return mel_to_wave(mel, self.mel_settings)
        wave, iterations = vocode_in_chunks(mel, self.vocoder), self.config.refine
        return mel_to_wave(mel, self.mel_settings, iterations, start=wave) if iterations else wave

    def _check(
        self, prompts: list[str], negatives: list[str], steps: int, duration: float | None, output_type: str, batch: int
    ) -> None:
        if not prompts or not all(text.strip() for text in prompts):
            raise ValueError("the text is empty: describe the sound")
        if len(negatives) != len(prompts):
            raise ValueError(f"{len(negatives)} negative texts for {len(prompts)} sounds: give one, or one per text")
        if steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {steps}")
        if duration is not None and not SHORTEST <= duration <= LONGEST:
            raise ValueError(f"duration must be from {SHORTEST:g} to {LONGEST:g} s, got {duration:g}")
        if output_type not in ("np", "pt", "mel", "latent"):
            raise ValueError(f"output_type must be np, pt, mel or latent, got {output_type!r}")
        if batch < 1:
            raise ValueError(f"windows_at_once must be at least 1, got {batch}")

    def _begin(
        self, count: int, duration: float | None, overlap: float, sound: Any, strength: float | None, mask: Spans | None
    ) -> tuple[int, Windows, FromNoise]:
        """Length of the sounds in samples, their windows, and the starting point of sampling."""
        rate, hop_size = self.mel_settings.sample_rate, self.mel_settings.hop_size
        samples, source = None if duration is None else round(duration * rate), FromNoise()
        if sound is not None:
            source = check_source(sound, count, strength, mask, samples, rate, (SHORTEST, LONGEST))
            source.wave, samples = source.wave.to(self._execution_device), source.wave.shape[1]
        elif strength is not None or mask is not None:
            name = "strength" if strength is not None else "mask"
            raise ValueError(f"{name} needs init_audio, the sound that it is about")
        samples = samples or round(self.duration * rate)
        width = math.ceil(samples / (self._factor * hop_size))
        windows = Windows.covering(width, self._latent_shape()[-1], overlap)
        if isinstance(source, FromAudio):
            source.mel, source.clean = self.encode_wave(source.wave, windows)
            source.hop_size = hop_size
        return samples, windows, source

    @property
    def _factor(self) -> int:
        """Mel frames, and mel bands, per latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _latent_shape(self) -> tuple[int, int, int]:
        """(z, h, w) of one clip."""
        factor = self._factor
        return self.vae.config.latent_channels, self.mel_settings.n_mel // factor, self.config.frames // factor


def _repeat(texts: str | list[str], count: int, times: int) -> list[str]:
    """One text for all, or a list of them; each repeated `times`."""
    if times < 1:
        raise ValueError(f"num_waveforms_per_prompt must be at least 1, got {times}")
    return [text for text in ([texts] * count if isinstance(texts, str) else texts) for _ in range(times)]
