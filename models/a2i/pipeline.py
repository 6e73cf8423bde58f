"""Pipeline from sound to picture, shared by every audio-to-image recipe. Never imports Lightning.

A recipe brings a `SoundEncoder`; windows, prompts, mixing, strength, negative prompts, initial pictures, seeds and the
safety checker are here. B pictures, K audio tokens each, L text tokens, D width of the text encoder, n samples of a
wave, z latent channels, h x w latent size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from diffusers.utils import BaseOutput
from PIL import Image, ImageOps
from torch import Tensor

from sonolume.config.audio_to_image import PLACEHOLDER, STABLE_DIFFUSION
from sonolume.config.options import PRESETS, TURBO
from sonolume.models.a2i.few_steps import FewSteps, Turbo, of_lora
from sonolume.models.a2i.sound_encoder import SoundEncoder, Span, Wave, encoded_seconds, windows_of
from sonolume.modules import sampling
from sonolume.modules.decoupled_attention import AudioAttention, check, installed
from sonolume.modules.deep_cache import deep_cache
from sonolume.utils.audio import batches_by_length
from sonolume.utils.errors import ComputationError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SETTINGS_FILE = "audio_to_image.json"  # in an exported folder: recipe, stable_diffusion, and settings of the encoder
LORA = "lora"  # folder of the U-Net's adapters in an exported folder, if they were trained
STRENGTH = 0.8  # default for `init_image`
REFERENCE_STEPS = 50  # of PNDM, as Stable Diffusion 1 was published
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
MAX_AUDIO_STRENGTH = 2.0
ENCODER_BATCH_SIZE = 8  # windows in one call of the encoder
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "feature_extractor")
MIN_CONTRAST = 1 / 255  # a picture with less contrast has one colour: the computation failed
FLOAT32_HINT = "the settings or the weights are at fault: try another --seed, a lower --guidance_scale, more steps"

@dataclass
class ImageOutput(BaseOutput):
    """`images` as `output_type` asks; a picture that the safety checker rejected is None, or black as np or pt."""

    images: Any
    nsfw_content_detected: list[bool] | None = None  # None without a safety checker
    upcast: bool = False  # the VAE overflowed in half precision and was run again in float32


class AudioToImagePipeline:
    """A sound encoder in front of a stock `StableDiffusionPipeline`, 1.x or 2.x, used as diffusers' pipelines are.

    Every other attribute and method is that of `sd`: its components, `enable_model_cpu_offload`, `load_lora_weights`
    (needs peft), `set_progress_bar_config` ... A component that is assigned here is assigned there.
    There is no `clip_skip`, no IP-Adapter, and no `save_pretrained`: training and bins/convert.py export folders.

    Args:
        encoder: its width must be the text encoder's.
        sd: used unchanged, except that the sampler is replaced by that of the preset "balanced". Components that a
            call does not need may be None, such as all but text encoder and tokenizer for `encode_prompt`.

    Raises:
        ValueError: the widths differ, or the encoder's head was trained for another U-Net.
    """

    def __init__(self, encoder: SoundEncoder, sd: "StableDiffusionPipeline") -> None:
        width = encoder.width if sd.text_encoder is None else sd.text_encoder.config.hidden_size
        if encoder.width != width:
            known = ", ".join(f"{width}: {name}" for width, name in STABLE_DIFFUSION.items())
            raise ValueError(f"the audio tokens have width {encoder.width}, the text encoder of this Stable Diffusion "
                             f"{width}: choose another one, such as {known}")  # fmt: skip
        self.sd, self.encoder = sd, encoder
        self.controlnet: Any = None  # a ControlNetModel, for `control_image`
        self.turbo: Turbo | None = None  # the preset "turbo", if the U-Net has it
        self.few_steps: FewSteps | None = None  # limits of the preset "turbo", while it is used
        self.preset = "balanced"
        self.prefers_turbo = False  # in commands, if Stable Diffusion has it
        if self._head is not None and sd.unet is not None:
            check(self._head, sd.unet)
        self.guidance_scale = 7.5  # as published
        self.num_steps = REFERENCE_STEPS if sd.scheduler is None else self.use_preset("balanced")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str], dtype: torch.dtype = torch.float32,
        device: str = "cpu", stable_diffusion: str | None = None, safety_checker: bool | None = True,
    ) -> Self:  # fmt: skip
        """Load an exported folder, relative to the working directory or the repository, or a hub id.

        Args:
            stable_diffusion: folder or hub id of another Stable Diffusion than that of the training.
            safety_checker: keep the safety checker of Stable Diffusion, if it has one.

        Raises:
            UserError: no such folder, of another kind, or a component is missing, damaged or does not fit the others.
        """
        from sonolume.models.a2i.loading import load_exported
        from sonolume.utils import paths

        source = paths.locate(fspath(pretrained_model_name_or_path), cls.__name__, flag=True)
        place, checked = torch.device(device), bool(safety_checker)
        pipe: Any = load_exported(source, None, place, dtype, stable_diffusion, checked, cls.__name__)[0]
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: Any, encoder: SoundEncoder | None = None, **components: Any) -> Self:
        """Build a pipeline on the networks of another one, this class's or diffusers', without loading anything.

        Args:
            encoder: default: that of `pipeline`, if it is an `AudioToImagePipeline`.
            components: replacements, as for diffusers' `from_pipe`.

        Raises:
            ValueError: there is no encoder, or it has another width than the text encoder.
        """
        from diffusers import StableDiffusionPipeline

        other = pipeline if isinstance(pipeline, AudioToImagePipeline) else None
        if encoder is None and other is None:
            raise ValueError("from_pipe on a diffusers pipeline needs an encoder: from_pipe(pipe, encoder=...)")
        sd: Any = other.sd if other else pipeline
        same: Any = StableDiffusionPipeline.from_pipe(sd, **{"dtype": sd.dtype} | components)
        scheduler = same.scheduler
        made = cls(encoder or other.encoder, same)  # type: ignore[union-attr]
        if other or "scheduler" in components:
            same.scheduler = scheduler
        if other:
            made.num_steps, made.guidance_scale = other.num_steps, other.guidance_scale
            made.turbo, made.few_steps, made.preset = other.turbo, other.few_steps, other.preset
            made.prefers_turbo = other.prefers_turbo
        return made

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the folder of Stable Diffusion would lack the encoder."""
        raise NotImplementedError("an AudioToImagePipeline cannot be saved: training and bins/convert.py export its "
                                  "folder; pipe.sd.save_pretrained(folder) writes Stable Diffusion alone")  # fmt: skip

    push_to_hub = save_pretrained

    def load_ip_adapter(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the call takes no picture for it."""
        raise NotImplementedError("an AudioToImagePipeline has no IP-Adapter: use init_image to start from a picture")

    def __getattr__(self, name: str) -> Any:
        """Find everything else in Stable Diffusion."""
        if name == "sd" or name.startswith("__"):  # while a copy is made
            raise AttributeError(name)
        return getattr(self.sd, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a component to Stable Diffusion, which uses it."""
        if name in COMPONENTS:
            setattr(self.sd, name, value)
        else:
            object.__setattr__(self, name, value)

    def enable_vae_slicing(self) -> None:
        """Decode pictures one by one, which saves memory; newer diffusers have `vae.enable_slicing` only."""
        self.sd.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode all pictures of a batch at once."""
        self.sd.vae.disable_slicing()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move Stable Diffusion as `DiffusionPipeline.to` does, and the encoder to the same device."""
        self.sd.to(*args, **kwargs)
        self.encoder.to(self.sd.device)
        if self.controlnet is not None:
            self.controlnet.to(self.sd.device)
        return self

    def use_controlnet(self, controlnet: Any) -> None:
        """Use diffusers' `ControlNetModel` for the `control_image` of calls; a ValueError for one of another width."""
        width, needed = controlnet.config.cross_attention_dim, self.sd.unet.config.cross_attention_dim
        if width != needed:
            raise ValueError(f"this ControlNet takes text states of width {width}, Stable Diffusion has {needed}: "
                             "choose one for the same version")  # fmt: skip
        self.controlnet = controlnet.to(self.sd.device)

    def load_lora(self, source: str, scale: float = 1.0, key: str = "load_lora") -> None:
        """Merge a LoRA into the weights of the U-Net; peft is not needed. Several add up.

        With one of few steps, made by distillation or with "lcm" in its name, the pipeline has the preset "turbo".

        Args:
            source: safetensors file of sonolume, diffusers, peft or kohya, folder, or hub id, of which
                pytorch_lora_weights.safetensors is downloaded.
            scale: strength; 0 changes nothing.
            key: name of `source` in messages.

        Raises:
            UserError: no such LoRA, damaged, or of another network than this U-Net.
        """
        from sonolume.models import lora

        path = lora.find(source, key)
        if self.turbo is not None:
            self.turbo.unmerge(self.sd.unet)
        header = lora.load(self.sd, path, scale)
        limits = of_lora(source, header) if scale else None
        if limits is not None:
            self.turbo = Turbo(limits)
        self._merge_turbo()

    def use_preset(self, name: str) -> int:
        """Switch to the sampler of one of `PRESETS`, or raise a ValueError, and return its number of steps.

        "reference" is the published PNDM with 50 steps; "balanced" and "fast" are those of `modules/sampling.py`.
        "turbo" is `LCMScheduler` with the LoRA of `turbo`, by default 4 steps without guidance.
        """
        if name not in (*PRESETS, TURBO):
            raise ValueError(f"no preset {name!r}: {', '.join(PRESETS)}")
        if name == TURBO and self.turbo is None:
            raise ValueError(f"{name}: this Stable Diffusion has no LoRA for few steps: give one, such as "
                             "--lora latent-consistency/lcm-lora-sdv1-5")  # fmt: skip
        self.few_steps = self.turbo.limits if self.turbo and name == TURBO else None
        self.preset = name
        self._merge_turbo()
        self.encoder.use_preset("balanced" if name == TURBO else name)
        if name == "reference":
            self.sd.scheduler = sampling.scheduler("pndm", *self._noise_schedule())
            self.num_steps = REFERENCE_STEPS
        else:
            self.sd.scheduler, self.num_steps = sampling.preset(name, *self._noise_schedule())
        if self.few_steps:
            self.num_steps = self.few_steps.steps
        return self.num_steps

    def _merge_turbo(self) -> None:
        """Bring the weights of the U-Net, which another pipeline may share, into the state of the preset."""
        if self.turbo is not None:
            (self.turbo.merge if self.few_steps else self.turbo.unmerge)(self.sd.unet)

    def use_scheduler(self, name: str) -> None:
        """Switch to a sampler by its short name; arguments and errors as `modules.sampling.scheduler`."""
        if self.few_steps:
            raise ValueError(f"{name}: the preset {TURBO} has a sampler of its own: choose another preset")
        self.sd.scheduler = sampling.scheduler(name, *self._noise_schedule())

    @property
    def default_guidance_scale(self) -> float:
        """`guidance_scale`, or with the preset "turbo" 1, which is none."""
        return 1.0 if self.few_steps else self.guidance_scale

    def _noise_schedule(self) -> tuple[str, dict[str, Any]]:
        """Objective and noise schedule of training; latents are never clipped, although DDIM's default is to clip."""
        config = self.sd.scheduler.config
        noise = {name: config[name] for name in NOISE if config.get(name) is not None} | {"clip_sample": False}
        return sampling.objective_of(self.sd.scheduler), noise

    @property
    def _head(self) -> AudioAttention | None:
        """The encoder's own attention in the U-Net, if it has one."""
        return getattr(self.encoder, "head", None)

    @torch.no_grad()
    def encode_audio(self, waves: Sequence[Wave], average: bool = False) -> Tensor:
        """Encode waves (n,) of any lengths at the encoder's rate -> audio tokens (B, K, D) float32, on the CPU.

        Of a wave longer than `encoder.window`, the seconds of `encoded_seconds` are encoded; if these are several
        windows, their tokens are averaged.

        Args:
            average: encode all of a long wave, whatever `encoder.long_sounds` says.

        Raises:
            ValueError: a wave has more than one channel.
            SoundError: a wave is too short, silent, not finite, or too long for an encoder that refuses long sounds;
                the message names its number.
        """
        groups = [windows_of(wave, self.encoder, average, f"sound {number}") for number, wave in enumerate(waves)]
        windows = [window for group in groups for window in group]
        tokens: dict[int, Tensor] = {}
        lengths = [len(window) for window in windows]  # nothing is padded: a batch has windows of equal length only
        for batch in batches_by_length(lengths, ENCODER_BATCH_SIZE):
            found = self.encoder.encode_audio([windows[number] for number in batch])              # (b, K, D)
            tokens |= dict(zip(batch, found.float().cpu(), strict=True))
        ordered = torch.stack([tokens[number] for number in range(len(windows))])                 # (windows, K, D)
        return torch.stack([found.mean(dim=0) for found in ordered.split([len(group) for group in groups])])

    def encoded_seconds(self, wave: Wave, average: bool = False, name: str = "the sound") -> list[Span]:
        """Choose the seconds of a wave (n,) that `encode_audio` encodes; see `sound_encoder.encoded_seconds`."""
        return encoded_seconds(wave, self.encoder, average, name)

    @torch.no_grad()
    def encode_prompt(
        self, sounds: Sequence[Wave] | Tensor, prompt: str | Sequence[str] | None = None,
        text: str | Sequence[str] | None = None, mix: float = 0.5, audio_strength: float = 1.0,
        negative_prompt: str | Sequence[str] | None = "", negative_sounds: Sequence[Wave] | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Encode sounds and the prompts around them -> `prompt_embeds`, `negative_prompt_embeds` (B, L, D).

        Of Stable Diffusion, only the text encoder and the tokenizer are used.

        Args:
            sounds: waves (n,) at the encoder's rate, or audio tokens (B, K, D) from `encode_audio`.
            prompt: words with `<*>` in the place of the sound, for all its tokens; one for all or one each; default:
                the encoder's.
            text: one for all or one each; its text states are mixed in.
            mix: weight of the texts; the sounds weigh 1 - mix.
            audio_strength: 1 is the sound as trained, 0 the words of the prompt without it; other values lie on the
                line through both.
            negative_prompt: what the pictures should not show, one for all or one each.
            negative_sounds: waves or audio tokens of what the pictures should not show, one for all or one each; they
                follow the words of `negative_prompt`, unless these contain `<*>`. See `white_noise`.

        If the states of both sides differ in length, the shorter ones go on as those of the empty text do.

        Raises:
            ValueError: a prompt or text is too long, or a prompt does not fit the tokens.
        """
        tokenizer, text_encoder = self._text_encoder()
        sounds = self._audio_tokens(sounds)                                                       # (B, K, D)
        prompts = _one_each(self.encoder.prompt if prompt is None else prompt, len(sounds), "prompts")
        states = self.encoder.encode_prompt(sounds.to(self.sd._execution_device), prompts, tokenizer, text_encoder)
        if audio_strength != 1:
            neutral = self.encode_texts([remove_placeholder(prompt) for prompt in prompts], states.shape[1])
            states = torch.lerp(neutral, states.to(neutral.dtype), audio_strength)
        if text is not None:
            texts = _one_each(text, len(sounds), "texts")
            states = torch.lerp(states, self.encode_texts(texts, states.shape[1]).to(states.dtype), mix)
        return self._equally_long(states, self._encode_negative(negative_prompt, states, negative_sounds))

    def _audio_tokens(self, sounds: Sequence[Wave] | Tensor) -> Tensor:
        """Encode waves; audio tokens (B, K, D) stay as they are."""
        return sounds if isinstance(sounds, Tensor) and sounds.ndim == 3 else self.encode_audio(list(sounds))

    def _encode_negative(
        self, negative_prompt: str | Sequence[str] | None, states: Tensor,
        negative_sounds: Sequence[Wave] | Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Encode what the pictures of `prompt_embeds` (B, L, D) should not show -> (B, L' or L, D)."""
        if negative_prompt is None or isinstance(negative_prompt, str):
            words = [negative_prompt or ""]
        else:
            words = _one_each(negative_prompt, len(states), "negative prompts")
        if negative_sounds is None:
            negative = self.encode_texts(words, states.shape[1]).to(states.dtype).expand_as(states)
            return self._with_negative_tokens(negative, states)
        tokens = self._audio_tokens(negative_sounds)                                              # (1 or B, K, D)
        if len(tokens) not in (1, len(states)):
            raise ValueError(f"{len(tokens)} negative sounds for {len(states)} sounds: give one, or one for each")
        count = max(len(tokens), len(words))
        words = words * (count // len(words))
        prompts = [text if PLACEHOLDER in text else f"{text} {PLACEHOLDER}".strip() for text in words]
        tokens = tokens.expand(count, -1, -1).to(self.sd._execution_device)
        negative = self.encoder.encode_prompt(tokens, prompts, *self._text_encoder())             # (1 or B, L', D)
        return negative.to(states.dtype).expand(len(states), -1, -1)

    def _with_negative_tokens(self, negative: Tensor, states: Tensor) -> Tensor:
        """Put the encoder's `negative_tokens`, if it has any, behind the text states of negative prompts (B, L, D)."""
        make = getattr(self.encoder, "negative_tokens", None)
        if make is None or self._head is None:
            return negative
        length = self._head.config["text_length"]
        return torch.cat([negative[:, :length], make(states[:, length:]).to(negative)], dim=1)    # (B, L, D)

    def _equally_long(self, states: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Continue the shorter of both text states (B, L, D) by those of the empty text."""
        length = max(states.shape[1], negative.shape[1])
        return self._continue(states, length), self._continue(negative, length)

    def _continue(self, states: Tensor, length: int) -> Tensor:
        """Continue text states (B, L, D) by those of the empty text -> (B, length, D)."""
        if states.shape[1] == length:
            return states
        empty = self.encode_texts([""], length)[:, states.shape[1] :]                             # (1, length - L, D)
        return torch.cat([states, empty.to(states.dtype).expand(len(states), -1, -1)], dim=1)

    def _text_encoder(self) -> tuple[Any, Any]:
        """Tokenizer and text encoder."""
        if self.sd.tokenizer is None or self.sd.text_encoder is None:
            raise ValueError("there is no text encoder: give prompt_embeds and negative_prompt_embeds instead of words")
        return self.sd.tokenizer, self.sd.text_encoder

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], length: int) -> Tensor:
        """Encode texts -> text states (B, length, D), padded as Stable Diffusion does, without a mask.

        Beyond the longest input of the text encoder, its last state is repeated; with a head, zeros follow.

        Raises:
            ValueError: the text encoder would cut a text.
        """
        tokenizer, text_encoder = self._text_encoder()
        limit = min(length, tokenizer.model_max_length)
        tokens = tokenizer(list(texts), padding="max_length", max_length=limit, verbose=False)
        for text, ids in zip(texts, tokens.input_ids, strict=True):
            if len(ids) > limit:
                raise ValueError(f"{text!r} has {len(ids) - 2} tokens, the text encoder reads {limit - 2}: shorten it")
        device = self.sd._execution_device
        ids = torch.tensor(tokens.input_ids, device=device)
        mask = torch.tensor(tokens.attention_mask, device=device)
        uses_mask = getattr(text_encoder.config, "use_attention_mask", False)
        states = text_encoder(ids, attention_mask=mask if uses_mask else None)[0]                 # (B, limit, D)
        beyond = states[:, -1:] if self._head is None else torch.zeros_like(states[:, -1:])       # (B, 1, D)
        return torch.cat([states, beyond.expand(-1, length - limit, -1)], dim=1)                  # (B, L, D)

    @torch.no_grad()
    def __call__(
        self,
        sounds: Sequence[Wave] | Tensor | None = None,
        prompt: str | Sequence[str] | None = None,
        text: str | Sequence[str] | None = None,
        mix: float = 0.5,
        audio_strength: float = 1.0,
        negative_prompt: str | Sequence[str] | None = "",
        init_image: Image.Image | None = None,
        strength: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        cache_interval: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        negative_sounds: Sequence[Wave] | Tensor | None = None,
        control_image: Image.Image | None = None,
        control_strength: float = 1.0,
    ) -> Any:
        """Draw a picture of each sound.

        Args:
            sounds, prompt, text, mix, audio_strength, negative_prompt, negative_sounds: see `encode_prompt`;
                `audio_strength` from 0 to 2.
            init_image: start from this picture, cropped to the shape of the result, instead of from noise.
            strength: how far to move away from it, above 0 to 1: the share of the steps that is made. Default 0.8.
            height, width: of the pictures in pixels, multiples of 8; default: the size of training.
            guidance_scale: 1 or less is no guidance; default: `default_guidance_scale` of this object.
            cache_interval: N computes the deep layers of the U-Net at every N-th step only; see `deep_cache`.
            generator: one, or one for each picture, so that a picture does not depend on its batch.
            num_images_per_prompt: pictures of each sound, which follow each other.
            eta: 0 to 1, noise of DDIM.
            latents: initial noise (B, z, h, w), not with `init_image`.
            prompt_embeds, negative_prompt_embeds: (B, L, D) from `encode_prompt`, instead of sounds and words.
            output_type: "pil", "np" (B, H, W, 3) or "pt" (B, 3, H, W) in 0..1, or "latent".
            return_dict: False: return the tuple (images, nsfw_content_detected).
            cross_attention_kwargs: for the U-Net's attention, such as {"scale": 0.5} for a loaded LoRA.
            callback_on_step_end: called as callback(pipe, step, timestep, tensors) with Stable Diffusion's pipeline;
                tensors that it returns replace those of the loop.
            callback_on_step_end_tensor_inputs: names of these tensors, of `_callback_tensor_inputs`.
            control_image: for the ControlNet of `use_controlnet`, cropped to the shape of the result; not with
                `init_image`.
            control_strength: weight of the ControlNet, 0 to 2.

        Returns:
            An `ImageOutput`.

        Raises:
            ValueError: a sound, prompt or number cannot be used.
            ComputationError: the result is NaN or of one colour; the message names a remedy.
        """
        _check_strengths(mix, audio_strength, strength, init_image)
        steps = self.num_steps if num_inference_steps is None else num_inference_steps
        self._check(steps, num_images_per_prompt, output_type, init_image, latents)
        self._check_control(control_image, init_image)
        sampling.step_arguments(self.sd.scheduler, eta=eta)
        size = self.size(height, width)
        scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        if self.few_steps:
            words = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or []
            self.few_steps.check(steps, scale, any(words) or negative_sounds is not None)
        self._merge_turbo()
        if prompt_embeds is None:
            if sounds is None or negative_prompt_embeds is not None:
                raise ValueError("give sounds, or prompt_embeds (with negative_prompt_embeds), to draw a picture of")
            words = prompt, text, mix, audio_strength, negative_prompt
            states, negative = self.encode_prompt(sounds, *words, negative_sounds)
        else:
            if sounds is not None or prompt is not None or text is not None:
                raise ValueError("prompt_embeds replace sounds, prompt and text: give one or the other")
            states, negative = prompt_embeds, negative_prompt_embeds
            if negative is not None and negative_sounds is not None:
                raise ValueError("negative_prompt_embeds replace negative_sounds: give one or the other")
            if negative is None and scale > 1:
                negative = self._encode_negative(negative_prompt, states, negative_sounds)
                states, negative = self._equally_long(states, negative)
        states = self._copies(states, num_images_per_prompt)                                      # (B, L, D)
        if negative is not None:
            negative = self._copies(negative, num_images_per_prompt)                              # (B, L, D)
        settings: dict[str, Any] = {
            "prompt_embeds": states,
            "negative_prompt_embeds": negative,
            "num_inference_steps": steps,
            "guidance_scale": scale,
            "generator": generator,
            "eta": eta,
            "output_type": "latent",
            "cross_attention_kwargs": cross_attention_kwargs,
            "callback_on_step_end": callback_on_step_end,
            "callback_on_step_end_tensor_inputs": list(callback_on_step_end_tensor_inputs),
        }
        head: Any = self._head
        found: Any = None
        if head is not None:
            head.to(self.sd._execution_device)
        with installed(head, self.sd.unet), deep_cache(self.sd.unet, cache_interval):
            if control_image is not None:
                control = {"control_image": control_image, "control_strength": control_strength}
                found = self._draw_controlled(settings | {"latents": latents}, size, **control)
            elif init_image is not None:
                found = self._draw_from_image(settings, size, init_image, STRENGTH if strength is None else strength)
            else:
                found = self.sd(height=size[0], width=size[1], latents=latents, **settings).images
        output = ImageOutput(found) if output_type == "latent" else self._decode(found, output_type)
        self.sd.maybe_free_model_hooks()
        return output if return_dict else (output.images, output.nsfw_content_detected)

    def _draw_from_image(
        self, settings: dict[str, Any], size: tuple[int, int], init_image: Image.Image, strength: float
    ) -> Any:
        """Latents (B, z, h, w) of pictures that start from one."""
        from sonolume.models.a2i.image_to_image import image_to_image

        start = [fitted(init_image, size)] * len(settings["prompt_embeds"])
        return image_to_image(self.sd)(image=start, strength=strength, **settings).images

    def _draw_controlled(
        self, settings: dict[str, Any], size: tuple[int, int], control_image: Image.Image, control_strength: float
    ) -> Any:
        """Latents (B, z, h, w) of pictures whose layout is that of `control_image`."""
        from sonolume.models.a2i.controlnet import controlled

        hints = [fitted(control_image, size)] * len(settings["prompt_embeds"])
        settings = settings | {"height": size[0], "width": size[1], "controlnet_conditioning_scale": control_strength}
        return controlled(self.sd, self.controlnet)(image=hints, **settings).images

    def _copies(self, states: Tensor, count: int) -> Tensor:
        """Repeat each row of text states (B, L, D) for `count` pictures, in the U-Net's dtype -> (B * count, L, D)."""
        return states.to(self.sd.unet.dtype).repeat_interleave(count, dim=0)

    def _check(
        self, steps: int, copies: int, output_type: str, init_image: Image.Image | None, latents: Tensor | None
    ) -> None:
        for name, value in (("num_inference_steps", steps), ("num_images_per_prompt", copies)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        if init_image is not None and latents is not None:
            raise ValueError("latents and init_image are two starting points: give one of them")

    def _check_control(self, control_image: Image.Image | None, init_image: Image.Image | None) -> None:
        if control_image is not None and self.controlnet is None:
            raise ValueError("control_image needs a ControlNet: call use_controlnet first")
        if control_image is not None and init_image is not None:
            raise ValueError("control_image and init_image exclude each other: give one of them")
        if control_image is not None and self._head is not None:
            raise ValueError("a ControlNet cannot read the states of the head attention: use another model")

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of the pictures; the default of each is the size of training.

        Raises:
            ValueError: a size that the networks cannot draw.
        """
        trained = self.sd.unet.config.sample_size
        own = (trained, trained) if isinstance(trained, int) else tuple(trained)
        factor = self.sd.vae_scale_factor
        size = own[0] * factor if height is None else height, own[1] * factor if width is None else width
        unit = max(8, factor)
        for name, value in zip(("height", "width"), size, strict=True):
            if value < unit or value % unit:
                raise ValueError(f"{name} must be a multiple of {unit}, got {value}")
        return size

    def _decode(self, latents: Tensor, output_type: str = "pil") -> ImageOutput:
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
        pictures: Any = self.sd.image_processor.postprocess(pixels.float(), output_type=output_type)
        if output_type == "pil" and rejected:
            pictures = [None if flag else image for image, flag in zip(pictures, rejected, strict=True)]
        return ImageOutput(pictures, rejected, upcast)


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
