"""Pipeline from sound to picture, shared by every audio-to-image recipe. Never imports Lightning.

A recipe brings a `SoundEncoder`; windows, prompts, mixing, strength, negative prompts, initial pictures, seeds and the
safety checker are here. B pictures, K audio tokens each, L text tokens, D width of the text encoder, n samples of a
wave, z latent channels, h x w latent size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sonolume.config.audio_to_image import PLACEHOLDER
from sonolume.modules import sampling
from sonolume.utils.audio import SILENCE_PEAK, batches_by_length, check_wave
from sonolume.utils.errors import ComputationError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SETTINGS_FILE = "audio_to_image.json"  # in an exported folder: recipe, stable_diffusion, and settings of the encoder
LORA = "lora"  # folder of the U-Net's adapters in an exported folder, if they were trained
STRENGTH = 0.8  # default for `init_image`
PRESETS = ("reference", "balanced", "fast")
REFERENCE_STEPS = 50  # of PNDM, as Stable Diffusion 1 was published
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
MAX_AUDIO_STRENGTH = 2.0
ENCODER_BATCH_SIZE = 8  # windows in one call of the encoder
MIN_CONTRAST = 1 / 255  # a picture with less contrast has one colour: the computation failed
FLOAT32_HINT = "the settings or the weights are at fault: try another --seed, a lower --guidance_scale, more steps"

Wave = Tensor | np.ndarray


class SoundEncoder(Protocol):
    """Encoder from sound, and the words around it, to Stable Diffusion's `prompt_embeds`."""

    sample_rate: int  # Hz of the input waves
    min_seconds: float  # duration of the shortest sound that can be encoded
    window: float  # seconds of one training item; the tokens of a longer sound are the mean over its windows
    width: int  # D, which must be the text encoder's
    prompt: str  # default prompt, with `PLACEHOLDER` in the place of an audio token

    def encode_audio(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) of equal length, float32 -> audio tokens (B, K, D) float32."""
        ...

    def encode_prompt(self, audio_tokens: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Encode a prompt for each sound with its audio tokens (B, K, D) -> `prompt_embeds` (B, L, D).

        Raises:
            ValueError: a prompt does not fit the tokens, or is longer than the text encoder's input.
        """
        ...


@dataclass
class ImageOutput:
    images: list[Image.Image | None]  # B pictures; None where the safety checker rejected one
    upcast: bool  # the VAE overflowed in half precision and was run again in float32


class AudioToImagePipeline:
    """A sound encoder in front of a stock `StableDiffusionPipeline`, 1.x or 2.x.

    Args:
        encoder: its width must be the text encoder's.
        sd: used unchanged, except that the sampler is replaced by that of the preset "balanced".

    Raises:
        ValueError: the widths differ.
    """

    def __init__(self, encoder: SoundEncoder, sd: "StableDiffusionPipeline") -> None:
        width = sd.text_encoder.config.hidden_size
        if encoder.width != width:
            raise ValueError(f"the audio tokens have width {encoder.width}, the text encoder of this Stable Diffusion "
                             f"{width}: choose another one (768: Stable Diffusion 1.x, 1024: 2.x)")  # fmt: skip
        self.encoder, self.sd = encoder, sd
        self.guidance_scale = 7.5  # as published
        self.num_steps = self.use_preset("balanced")

    def use_preset(self, name: str) -> int:
        """Switch to the sampler of one of `PRESETS`, or raise a ValueError, and return its number of steps.

        "reference" is the published PNDM with 50 steps; "balanced" and "fast" are those of `modules/sampling.py`.
        """
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}: {', '.join(PRESETS)}")
        if name == "reference":
            self.use_scheduler("pndm")
            self.num_steps = REFERENCE_STEPS
        else:
            self.sd.scheduler, self.num_steps = sampling.preset(name, *self._noise_schedule())
        return self.num_steps

    def use_scheduler(self, name: str) -> None:
        """Switch to a sampler by its short name; arguments and errors as `modules.sampling.scheduler`."""
        self.sd.scheduler = sampling.scheduler(name, *self._noise_schedule())

    def _noise_schedule(self) -> tuple[str, dict[str, Any]]:
        """Objective and noise schedule of training; latents are never clipped, although DDIM's default is to clip."""
        config = self.sd.scheduler.config
        noise = {name: config[name] for name in NOISE if config.get(name) is not None} | {"clip_sample": False}
        return sampling.objective_of(self.sd.scheduler), noise

    @torch.no_grad()
    def encode_audio(self, waves: Sequence[Wave]) -> Tensor:
        """Encode waves (n,) of any lengths at the encoder's rate -> audio tokens (B, K, D) float32, on the CPU.

        A wave longer than `encoder.window` is covered by evenly spread windows, whose tokens are averaged; silent
        windows do not count.

        Raises:
            ValueError: a wave has more than one channel.
            SoundError: a wave is too short, silent, or not finite; the message names its number.
        """
        groups = [self._windows(wave, number) for number, wave in enumerate(waves)]
        windows = [window for group in groups for window in group]
        tokens: dict[int, Tensor] = {}
        lengths = [len(window) for window in windows]  # nothing is padded: a batch has windows of equal length only
        for batch in batches_by_length(lengths, ENCODER_BATCH_SIZE):
            found = self.encoder.encode_audio([windows[number] for number in batch])              # (b, K, D)
            tokens |= dict(zip(batch, found.float().cpu(), strict=True))
        ordered = torch.stack([tokens[number] for number in range(len(windows))])                 # (windows, K, D)
        return torch.stack([found.mean(dim=0) for found in ordered.split([len(group) for group in groups])])

    def _windows(self, wave: Wave, number: int) -> list[Tensor]:
        """Check a wave, and cover it with evenly spread windows of the encoder's length, without the silent ones."""
        wave = torch.as_tensor(wave, dtype=torch.float32)
        if wave.ndim != 1:
            raise ValueError(f"sound {number} is {tuple(wave.shape)}: expected one channel, (samples,)")
        check_wave(wave.cpu().numpy(), self.encoder.sample_rate, f"sound {number}", self.encoder.min_seconds)
        length = round(self.encoder.window * self.encoder.sample_rate)
        count = math.ceil(len(wave) / length)
        if count == 1:
            return [wave]
        starts = [round(number * (len(wave) - length) / (count - 1)) for number in range(count)]
        windows = [wave[start : start + length] for start in starts]
        return [window for window in windows if window.abs().max() >= SILENCE_PEAK]

    @torch.no_grad()
    def encode_prompt(
        self, audio_tokens: Tensor, prompts: Sequence[str], texts: Sequence[str] | None = None, mix: float = 0.5,
        audio_strength: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Encode audio tokens (B, K, D) and the prompts around them -> `prompt_embeds` (B, L, D).

        Args:
            texts: one for each picture; its text states are mixed in.
            mix: weight of the texts; the sounds weigh 1 - mix.
            audio_strength: 1 is the sound as trained, 0 the words of the prompt without it; other values lie on the
                line through both.

        Raises:
            ValueError: a prompt or text is too long, or a prompt does not fit the tokens.
        """
        tokenizer, text_encoder = self.sd.tokenizer, self.sd.text_encoder
        states = self.encoder.encode_prompt(audio_tokens.to(text_encoder.device), prompts, tokenizer, text_encoder)
        if audio_strength != 1:
            neutral = self.encode_texts([remove_placeholder(prompt) for prompt in prompts], states.shape[1])
            states = torch.lerp(neutral, states.to(neutral.dtype), audio_strength)
        if texts is not None:
            states = torch.lerp(states, self.encode_texts(texts, states.shape[1]).to(states.dtype), mix)
        return states

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], length: int) -> Tensor:
        """Encode texts -> text states (B, length, D), padded as Stable Diffusion does, without a mask.

        Beyond the longest input of the text encoder, its last state is repeated.

        Raises:
            ValueError: the text encoder would cut a text.
        """
        tokenizer, text_encoder = self.sd.tokenizer, self.sd.text_encoder
        limit = min(length, tokenizer.model_max_length)
        tokens = tokenizer(list(texts), padding="max_length", max_length=limit, verbose=False)
        for text, ids in zip(texts, tokens.input_ids, strict=True):
            if len(ids) > limit:
                raise ValueError(f"{text!r} has {len(ids) - 2} tokens, the text encoder reads {limit - 2}: shorten it")
        ids = torch.tensor(tokens.input_ids, device=text_encoder.device)
        mask = torch.tensor(tokens.attention_mask, device=text_encoder.device)
        uses_mask = getattr(text_encoder.config, "use_attention_mask", False)
        states = text_encoder(ids, attention_mask=mask if uses_mask else None)[0]                 # (B, limit, D)
        return torch.cat([states, states[:, -1:].expand(-1, length - limit, -1)], dim=1)         # (B, L, D)

    @torch.no_grad()
    def __call__(
        self,
        sounds: Sequence[Wave] | Tensor,
        prompt: str | Sequence[str] | None = None,
        text: str | Sequence[str] | None = None,
        mix: float = 0.5,
        audio_strength: float = 1.0,
        negative_prompt: str = "",
        init_image: Image.Image | None = None,
        strength: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> ImageOutput:
        """Draw a picture of each sound.

        Args:
            sounds: waves (n,) at the encoder's rate, or audio tokens (B, K, D) from `encode_audio`.
            prompt: words with `<*>` in the place of the sound, one for all or one each; default: the encoder's.
            text, mix, audio_strength: see `encode_prompt`; `audio_strength` from 0 to 2.
            negative_prompt: what the pictures should not show.
            init_image: start from this picture, cropped to the shape of the result, instead of from noise.
            strength: how far to move away from it, above 0 to 1: the share of the steps that is made. Default 0.8.
            height, width: of the pictures in pixels, multiples of 8; default: the size of training.
            guidance_scale: 1 or less is no guidance; default: `guidance_scale` of this object.
            generator: one, or one for each picture, so that a picture does not depend on its batch.

        Raises:
            ValueError: a sound, prompt or number cannot be used.
            ComputationError: the result is NaN or of one colour; the message names a remedy.
        """
        _check_strengths(mix, audio_strength, strength, init_image)
        size = self.size(height, width)
        if not isinstance(sounds, Tensor) or sounds.ndim != 3:
            sounds = self.encode_audio(list(sounds))                                              # (B, K, D)
        count = len(sounds)
        prompts = _one_each(prompt or self.encoder.prompt, count, "prompts")
        texts = None if text is None else _one_each(text, count, "texts")
        states = self.encode_prompt(sounds, prompts, texts, mix, audio_strength).to(self.sd.unet.dtype)
        negative = self.encode_texts([negative_prompt], states.shape[1]).to(states.dtype)         # (1, L, D)
        settings: dict[str, Any] = {
            "prompt_embeds": states,
            "negative_prompt_embeds": negative.expand_as(states),
            "num_inference_steps": num_inference_steps or self.num_steps,
            "guidance_scale": self.guidance_scale if guidance_scale is None else guidance_scale,
            "generator": generator,
            "output_type": "latent",
        }
        if init_image is None:
            latents: Any = self.sd(height=size[0], width=size[1], **settings).images              # (B, z, h, w)
        else:
            from sonolume.models.a2i.image_to_image import image_to_image

            start = [fitted(init_image, size)] * count
            latents = image_to_image(self.sd)(image=start, strength=strength or STRENGTH, **settings).images
        return self._decode(latents)

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of the pictures; the default of each is the size of training.

        Raises:
            ValueError: a size that the networks cannot draw.
        """
        trained = self.sd.unet.config.sample_size
        own = (trained, trained) if isinstance(trained, int) else tuple(trained)
        size = height or own[0] * self.sd.vae_scale_factor, width or own[1] * self.sd.vae_scale_factor
        unit = max(8, self.sd.vae_scale_factor)
        for name, value in zip(("height", "width"), size, strict=True):
            if value < unit or value % unit:
                raise ValueError(f"{name} must be a multiple of {unit}, got {value}")
        return size

    def _decode(self, latents: Tensor) -> ImageOutput:
        """Decode latents (B, z, h, w) into pictures, and run the safety checker if there is one."""
        vae: Any = self.sd.vae
        dtype = str(self.sd.unet.dtype).removeprefix("torch.")
        remedy = "try --dtype float32 (or bfloat16 on a GPU)" if dtype != "float32" else FLOAT32_HINT
        if not latents.isfinite().all():
            raise ComputationError(f"the network returned NaN in {dtype}: {remedy}")
        factor, kind = vae.config.scaling_factor, vae.dtype
        pixels: Tensor = vae.decode(latents / factor).sample                                      # (B, 3, H, W)
        upcast = kind != torch.float32 and not bool(pixels.isfinite().all())
        if upcast:  # the VAE of Stable Diffusion overflows in float16 on some latents
            try:
                pixels = vae.float().decode(latents.float() / factor).sample
            finally:
                vae.to(kind)
        if not pixels.isfinite().all():
            raise ComputationError(f"the VAE returned NaN: {remedy}")
        values = pixels.float().clamp(-1, 1).flatten(1)
        if ((values.amax(dim=1) - values.amin(dim=1)) / 2 < MIN_CONTRAST).any():
            raise ComputationError(f"a picture has one colour only, which happens on overflow: {remedy}")
        pixels, rejected = self.sd.run_safety_checker(pixels, pixels.device, self.sd.unet.dtype)
        pictures: Any = self.sd.image_processor.postprocess(pixels.float(), output_type="pil")
        flags = rejected or [False] * len(pictures)
        return ImageOutput([None if flag else image for image, flag in zip(pictures, flags, strict=True)], upcast)


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crop the middle of a picture to the shape (height, width) in pixels, and resize it."""
    return ImageOps.fit(picture.convert("RGB"), (size[1], size[0]), Image.Resampling.LANCZOS)


def _check_strengths(mix: float, audio_strength: float, strength: float | None, init_image: Image.Image | None) -> None:
    """Raise a ValueError for a strength out of its range, or one of an initial picture without that picture."""
    for name, value, highest in (("mix", mix, 1), ("audio_strength", audio_strength, MAX_AUDIO_STRENGTH)):
        if not 0 <= value <= highest:
            raise ValueError(f"{name} must be from 0 to {highest:g}, got {value:g}")
    if strength is not None and init_image is None:
        raise ValueError("strength needs init_image")
    if strength is not None and not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength:g}")


def _one_each(given: str | Sequence[str], count: int, what: str) -> list[str]:
    """Expand one text for all sounds, or check that there is one for each."""
    found = [given] * count if isinstance(given, str) else list(given)
    if len(found) != count:
        raise ValueError(f"{len(found)} {what} for {count} sounds: give one, or one for each")
    return found


def remove_placeholder(prompt: str) -> str:
    """Reduce a prompt to its words: "a photo of <*>, 4k" -> "a photo of, 4k"."""
    words = " ".join(prompt.replace(PLACEHOLDER, " ").split())
    return words.replace(" ,", ",").replace(" .", ".").strip(" ,")


def repeat_to_length(wave: Tensor, length: int) -> Tensor:
    """Repeat a wave (n,) that is shorter than `length` samples up to that length; a longer one stays as it is."""
    return wave if len(wave) >= length else wave.repeat(length // max(1, len(wave)) + 1)[:length]
