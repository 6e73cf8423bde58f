"""Sound to image by Stable Diffusion: what every recipe of audio to image shares. Never Lightning.

A recipe brings a `SoundEncoder`; windows, prompts, mixing, strength, negatives, pictures to start from, seeds and
safety are here. B pictures, K tokens heard for each, L text tokens, D width of the text encoder, n samples of a wave,
h x w latent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sonolume.models.a2i import stable_diffusion
from sonolume.models.a2i.sound_encoder import SoundEncoder, without_sound
from sonolume.models.a2i.stable_diffusion import FromPicture, StableDiffusionPipeline
from sonolume.modules.inpainting import SILENT, STRENGTH
from sonolume.utils.errors import ComputationError

GUIDANCE = 7.5  # as published
STRONGEST = 2.0  # of `audio_strength`
HEARD_AT_ONCE = 8  # windows in one call of the encoder
PLAIN = 1 / 255  # a picture whose pixels differ by less is of one colour: a computation that failed
CURE = "--dtype float32 (or bfloat16 on a GPU)"

Wave = Tensor | np.ndarray


@dataclass
class ImageOutput:
    """`images`: B pictures; None where the safety checker refused one."""

    images: list[Image.Image | None]
    upcast: bool = False
    """the autoencoder overflowed in half precision and was run again in float32"""


class AudioToImagePipeline:
    """A sound encoder in front of a stock `StableDiffusionPipeline`, 1.x or 2.x.

    Args:
        encoder: of the same width as the text encoder.
        sd: its networks are used as they are; the sampler is switched to the preset "balanced".

    Raises:
        ValueError: the widths differ.
    """

    def __init__(self, encoder: SoundEncoder, sd: StableDiffusionPipeline) -> None:
        width = sd.text_encoder.config.hidden_size
        if encoder.width != width:
            raise ValueError(
                f"the sound encoder gives tokens of width {encoder.width}, the text encoder of this Stable Diffusion "
                f"takes {width}: choose one of {encoder.width} (768: Stable Diffusion 1.x, 1024: 2.x)"
            )
        self.encoder, self.sd = encoder, sd
        self.num_steps = self.use_preset("balanced")
        self.guidance_scale = GUIDANCE

    def use_preset(self, name: str) -> int:
        """Switch the sampler ("reference", "balanced", "fast"); returns its number of steps.

        Raises:
            ValueError: no such preset.
        """
        self.num_steps = stable_diffusion.use_preset(self.sd, name)
        return self.num_steps

    def use_scheduler(self, name: str) -> None:
        """Switch to a sampler by its short name (`modules/schedulers.py`).

        Raises:
            ValueError: no such sampler for this network's objective.
        """
        stable_diffusion.use_scheduler(self.sd, name)

    @torch.no_grad()
    def hear(self, waves: Sequence[Wave]) -> Tensor:
        """Waves (n,) of any lengths at the encoder's rate -> tokens (B, K, D) float32, on the CPU.

        Of a wave longer than `encoder.window`, windows that cover it evenly are heard and their tokens averaged; silent
        windows do not count.

        Raises:
            ValueError: too short, silent, or not finite; names which one.
        """
        checked = [self._checked(wave, number) for number, wave in enumerate(waves)]
        pieces = [self._pieces(wave) for wave in checked]
        heard = iter(self._hear_pieces([piece for some in pieces for piece in some]))
        return torch.stack([torch.stack([next(heard) for _ in some]).mean(dim=0) for some in pieces])

    def _checked(self, wave: Wave, number: int) -> Tensor:
        found, least = torch.as_tensor(wave, dtype=torch.float32), self.encoder.shortest
        if found.ndim != 1:
            raise ValueError(f"sound {number} is {tuple(found.shape)}: expected one channel, (samples,)")
        if len(found) < least * self.encoder.sample_rate:
            raise ValueError(f"sound {number} lasts {len(found) / self.encoder.sample_rate:.3g} s, "
                             f"at least {least:g} s are needed")  # fmt: skip
        if not found.isfinite().all():
            raise ValueError(f"sound {number} holds NaN or infinite values")
        if found.abs().max() < SILENT:
            raise ValueError(f"sound {number} is silent: there is nothing to see")
        return found

    def _pieces(self, wave: Tensor) -> list[Tensor]:
        """Windows of the encoder's length that cover the wave, evenly spread, without the silent ones."""
        length = round(self.encoder.window * self.encoder.sample_rate)
        count = math.ceil(len(wave) / length)
        if count <= 1:
            return [wave]
        starts = [round(number * (len(wave) - length) / (count - 1)) for number in range(count)]
        windows = [wave[start : start + length] for start in starts]
        return [window for window in windows if window.abs().max() >= SILENT]

    def _hear_pieces(self, pieces: list[Tensor]) -> list[Tensor]:
        """One (K, D) for each; only pieces of equal length share a batch, so that nothing is padded."""
        heard: dict[int, Tensor] = {}
        by_length: dict[int, list[int]] = {}
        for number, piece in enumerate(pieces):
            by_length.setdefault(len(piece), []).append(number)
        for numbers in by_length.values():
            for start in range(0, len(numbers), HEARD_AT_ONCE):
                some = numbers[start : start + HEARD_AT_ONCE]
                tokens = self.encoder.hear([pieces[number] for number in some]).float().cpu()
                heard |= dict(zip(some, tokens, strict=True))
        return [heard[number] for number in range(len(pieces))]

    @torch.no_grad()
    def condition(
        self,
        heard: Tensor,
        prompts: Sequence[str],
        texts: Sequence[str] | None = None,
        mix: float = 0.5,
        audio_strength: float = 1.0,
    ) -> Tensor:
        """Tokens (B, K, D) -> `prompt_embeds` (B, L, D).

        Args:
            texts: one for each picture: its states are mixed in, (1 - mix) of the sound's and `mix` of the text's.
            audio_strength: 1 as heard; 0 what the prompt says without the sound; between and above on the line
                through both.

        Raises:
            ValueError: a prompt or text that does not fit.
        """
        text_encoder: Any = self.sd.text_encoder
        heard = heard.to(text_encoder.device)
        states = self.encoder.condition(heard, prompts, self.sd.tokenizer, text_encoder)
        if audio_strength != 1:
            neutral = self.encode_text([without_sound(prompt) for prompt in prompts], states.shape[1])
            states = torch.lerp(neutral, states.to(neutral.dtype), audio_strength)
        if texts is not None:
            states = torch.lerp(states, self.encode_text(texts, states.shape[1]).to(states.dtype), mix)
        return states

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], length: int) -> Tensor:
        """Texts -> states (B, length, D), padded as Stable Diffusion does, without a mask.

        Beyond what the text encoder reads, its last state is repeated.

        Raises:
            ValueError: a text that the text encoder would cut.
        """
        tokenizer, text_encoder = self.sd.tokenizer, self.sd.text_encoder
        room = min(length, tokenizer.model_max_length)
        tokens = tokenizer(list(texts), padding="max_length", max_length=room, verbose=False)
        for text, ids in zip(texts, tokens.input_ids, strict=True):
            if len(ids) > room:
                raise ValueError(f"{text!r} has {len(ids) - 2} tokens, the text encoder reads {room - 2}: shorten it")
        ids = torch.tensor(tokens.input_ids, device=text_encoder.device)
        mask = torch.tensor(tokens.attention_mask, device=text_encoder.device)
        uses_mask = getattr(text_encoder.config, "use_attention_mask", False)
        states = text_encoder(ids, attention_mask=mask if uses_mask else None)[0]                 # (B, room, D)
        return torch.cat([states, states[:, -1:].expand(-1, length - room, -1)], dim=1)          # (B, L, D)

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
        """A picture of each sound.

        Args:
            sounds: waves (n,) at the encoder's rate, or what `hear` returned, (B, K, D).
            prompt: words with `<*>` where the sound goes, for all or one each; default: the encoder's.
            text, mix, audio_strength: see `condition`; `audio_strength` from 0 to 2.
            negative_prompt: what should not be seen.
            init_image: start from this picture (cut to the shape of the result) instead of from noise.
            strength: how much of it is given up, above 0 to 1: the share of the steps that is made. Default 0.8.
            height, width: of the pictures in pixels, multiples of 8; default: what the network was trained on.
            guidance_scale: 1 or less is no guidance; default: `guidance_scale` of this object.
            generator: one, or one for each picture, so that a picture does not depend on its batch.

        Raises:
            ValueError: a sound, prompt or number that cannot be used.
            ComputationError: NaN or pictures of one colour came out; the message names the cure.
        """
        heard = sounds if isinstance(sounds, Tensor) and sounds.ndim == 3 else self.hear(list(sounds))
        self._check(mix, audio_strength, strength, init_image)
        count = len(heard)
        prompts = _for_each(prompt or self.encoder.prompt, count, "prompts")
        texts = None if text is None else _for_each(text, count, "texts")
        states = self.condition(heard, prompts, texts, mix, audio_strength).to(self.sd.unet.dtype)
        size = self.size(height, width)
        negative = self.encode_text([negative_prompt], states.shape[1]).to(states.dtype).expand_as(states)
        options: dict[str, Any] = {
            "prompt_embeds": states,
            "negative_prompt_embeds": negative,
            "num_inference_steps": num_inference_steps or self.num_steps,
            "guidance_scale": self.guidance_scale if guidance_scale is None else guidance_scale,
            "generator": generator,
            "output_type": "latent",
        }
        if init_image is None:
            latents: Any = self.sd(height=size[0], width=size[1], **options).images
        else:
            start = [fitted(init_image, size)] * count
            latents = FromPicture.of(self.sd)(image=start, strength=strength or STRENGTH, **options).images
        return self._decode(latents)

    def _check(self, mix: float, audio_strength: float, strength: float | None, init_image: Any) -> None:
        if not 0 <= mix <= 1:
            raise ValueError(f"mix must be from 0 to 1, got {mix:g}")
        if not 0 <= audio_strength <= STRONGEST:
            raise ValueError(f"audio_strength must be from 0 to {STRONGEST:g}, got {audio_strength:g}")
        if strength is not None and init_image is None:
            raise ValueError("strength needs init_image, the picture that it is about")
        if strength is not None and not 0 < strength <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, got {strength:g}")

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width; the one that is not given is the network's."""
        trained = self.sd.unet.config.sample_size
        own = (trained, trained) if isinstance(trained, int) else tuple(trained)
        size = height or own[0] * self.sd.vae_scale_factor, width or own[1] * self.sd.vae_scale_factor
        unit = max(8, self.sd.vae_scale_factor)
        for name, value in zip(("height", "width"), size, strict=True):
            if value < unit or value % unit:
                raise ValueError(f"{name} must be a multiple of {unit}, got {value}")
        return size

    def _decode(self, latents: Tensor) -> ImageOutput:
        """(B, 4, h, w) -> pictures, looked at by the safety checker where there is one."""
        if not latents.isfinite().all():
            kind = str(self.sd.unet.dtype).removeprefix("torch.")
            raise ComputationError(f"the network gave NaN in {kind}: {self._cure()}")
        vae: Any = self.sd.vae
        pixels, upcast = vae.decode(latents / vae.config.scaling_factor).sample, False   # (B, 3, H, W)
        if not pixels.isfinite().all() and vae.dtype != torch.float32:
            pixels, upcast = self._decode_upcast(latents), True
        if not pixels.isfinite().all():
            raise ComputationError(f"the autoencoder gave NaN: {self._cure()}")
        seen = pixels.float().clamp(-1, 1).flatten(1)
        plain = (seen.amax(dim=1) - seen.amin(dim=1)) / 2 < PLAIN
        if plain.any():
            raise ComputationError(f"a picture came out in one colour, as when numbers overflow: {self._cure()}")
        pixels, refused = self.sd.run_safety_checker(pixels, pixels.device, self.sd.unet.dtype)
        pictures: Any = self.sd.image_processor.postprocess(pixels.float(), output_type="pil")
        flags = refused or [False] * len(pictures)
        return ImageOutput([None if flag else image for image, flag in zip(pictures, flags, strict=True)], upcast)

    def _decode_upcast(self, latents: Tensor) -> Tensor:
        """Once more in float32: the autoencoder of Stable Diffusion overflows in float16 on some latents."""
        vae: Any = self.sd.vae
        kind = vae.dtype
        vae.float()
        try:
            return vae.decode(latents.float() / vae.config.scaling_factor).sample
        finally:
            vae.to(kind)

    def _cure(self) -> str:
        if self.sd.unet.dtype == torch.float32:
            return "the settings or the weights are at fault: try another --seed, a lower --guidance_scale, more steps"
        return f"try {CURE}"


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture in the shape of the result, (height, width) in pixels."""
    return ImageOps.fit(picture.convert("RGB"), (size[1], size[0]), Image.Resampling.LANCZOS)


def _for_each(given: str | Sequence[str], count: int, what: str) -> list[str]:
    """One for all, or one each."""
    found = [given] * count if isinstance(given, str) else list(given)
    if len(found) != count:
        raise ValueError(f"{len(found)} {what} for {count} sounds: give one, or one for each")
    return found
