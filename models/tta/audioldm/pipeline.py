"""Text-to-audio pipeline: latent diffusion on mel spectrograms. Needs torch, diffusers and transformers only.

This file is copied into every exported folder, where stock diffusers finds it (`trust_remote_code=True`), together with
the modules that this file itself imports; a module that only another one imports would be missing there.
B sounds, z latent channels, h x w latent size, L text tokens, D text width, M mel bands, T frames, N samples.
"""

import copy
import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import torch
from diffusers import AudioPipelineOutput, AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import HfApi, snapshot_download
from torch import Tensor
from torch.nn import functional as F
from transformers import T5EncoderModel

from sonolume.modules.deep_cache import deep_cache
from sonolume.modules.export_code import add_code
from sonolume.modules.griffin_lim import griffin_lim_pieces, mel_to_wave
from sonolume.modules.inpainting import FromAudio, FromNoise, Span, Spans, check_source
from sonolume.modules.lora import FILE as LORA_FILE
from sonolume.modules.lora import merge as merge_lora
from sonolume.modules.mel import MEL_FLOOR, MelSettings, MelSpectrogram
from sonolume.modules.sampling import (
    Guidance,
    TextStates,
    join_states,
    objective_of,
    preset,
    scale_model_input,
    scheduler,
    step_arguments,
)
from sonolume.modules.saved_card import FILE as CARD_FILE
from sonolume.modules.saved_card import PLAIN as PLAIN_CARD
from sonolume.modules.saved_card import read_card, save_card, weights_hash
from sonolume.modules.unet import denormalise, normalise, use_crop_upsampling, with_positions, write_card
from sonolume.modules.windows import Windows, vocode_in_chunks, vocoder_pieces
from sonolume.utils.model_folder import check_class, find_folder, hub_error

Callback = Callable[["TextToAudioPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
OnWindow = Callable[[int, int], None]  # (finished vocoder windows, all)
TURBO = "turbo"  # subfolder with the LoRA file of the preset of this name
SHORTEST, LONGEST = 0.5, 600.0  # seconds of a sound
WINDOW_BATCH_SIZE = 8  # windows in one call of a network
DECODED_ON_CPU = 4  # clips that a CPU decodes at once; a clip of the miniature takes 1.5 times as long in a batch of 16


@dataclass
class SoundOutput(AudioPipelineOutput):
    """`audios` as `output_type` asks."""

    mels: Tensor | None = None  # ln mel (B, M, T) as decoded, as long as the sound
    gains: Tensor | None = None  # (B,) factor applied to the generated part, below 1 where it was too loud


def _finds_device_once(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method look up `_execution_device` once: diffusers searches all modules for offloading, which takes ms."""

    @functools.wraps(method)
    def wrapper(pipe: "TextToAudioPipeline", *args: Any, **kwargs: Any) -> Any:
        if pipe._found_device is not None:
            return method(pipe, *args, **kwargs)
        pipe._found_device = pipe._execution_device
        try:
            return method(pipe, *args, **kwargs)
        finally:
            pipe._found_device = None

    return wrapper


class _Teacher(NamedTuple):
    unet: UNet2DConditionModel
    scheduler: Any
    num_steps: int
    guidance_scale: float


class TextToAudioPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """T5 -> U-Net -> VAE -> vocoder.

    `load_lora_weights`, `set_adapters` ... are diffusers' (they need peft), of the U-Net only.

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
        distilled: of a pipeline made by run_distill.sh: "steps", the most network calls that it was made for, and
            "guidance_scale" and "teacher", which it learned from, and "cache_interval", its default. It takes no
            guidance and no negative text.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae->vocoder"
    _optional_components = ["vocoder"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    _lora_loadable_modules = ["unet"]
    _found_device: torch.device | None = None  # while a call runs
    _teacher: "_Teacher | None" = None  # what the preset "turbo" has replaced
    _guidance_scale, _interrupt = 1.0, False  # of the last call, as are the next two; a callback may set these two
    _num_timesteps = 0
    _cross_attention_kwargs: dict[str, Any] | None = None

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
        distilled: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet and use_crop_upsampling(unet),
            scheduler=scheduler, vocoder=vocoder,
        )  # fmt: skip
        self.register_to_config(
            mel=mel or {}, frames=frames, noise=noise or {}, text_mask=text_mask, num_steps=num_steps,
            guidance_scale=guidance_scale, refine=refine, distilled=distilled or {},
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
                raise ValueError(f"{source}: {hub_error(error)}") from error
        check_class(folder, *(kind.__name__ for kind in cls.__mro__ if issubclass(kind, TextToAudioPipeline)))
        return super().from_pretrained(folder, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write weights, configs and the code of this pipeline, and upload them with `push_to_hub=True`.

        `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads the folder without sonolume.
        """
        folder, upload = Path(save_directory), kwargs.pop("push_to_hub", False)
        hub = {name: kwargs.pop(name) for name in ("commit_message", "private", "token", "create_pr") if name in kwargs}
        repository = kwargs.pop("repo_id", folder.name)
        loaded = Path(self.name_or_path or os.devnull)  # the next line may overwrite it
        card = read_card(loaded)
        earlier = None if card is None else (card, weights_hash(loaded))
        super().save_pretrained(folder, *args, **kwargs)
        add_code(folder, Path(inspect.getfile(type(self))), type(self).__name__)
        if (folder / "unet").is_dir():
            write_card(folder / "unet")
        save_card(folder, earlier)
        if upload:  # only now, with the code; this saves once more, to a temporary folder
            self.push_to_hub(repository, **hub, **kwargs)

    def push_to_hub(
        self, repo_id: str, commit_message: str | None = None, private: bool | None = None, token: str | None = None,
        create_pr: bool = False, safe_serialization: bool = True, variant: str | None = None,
        subfolder: str | None = None,
    ) -> str:  # fmt: skip
        """Upload the folder that `save_pretrained` writes, with its card; a plain card replaces no other one there."""
        hub = HfApi(token=token)
        repository = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as place:
            folder = Path(place)
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            card = f"{subfolder}/{CARD_FILE}" if subfolder else CARD_FILE
            if read_card(folder) == PLAIN_CARD and hub.file_exists(repository, card):
                (folder / CARD_FILE).unlink()
            return hub.upload_folder(
                repo_id=repository, folder_path=folder, path_in_repo=subfolder, create_pr=create_pr,
                commit_message=commit_message or f"Upload {type(self).__name__}",
            )  # fmt: skip

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
    def sample_rate(self) -> int:
        """Hz."""
        return self.mel_settings.sample_rate

    @property
    def duration(self) -> float:
        """Seconds of one clip."""
        return self.config.frames * self.mel_settings.hop_size / self.sample_rate

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def default_cache_interval(self) -> int:
        """The call's default: 1, or that of a distilled pipeline whose U-Net is not compiled."""
        is_compiled = self.unet._compiled_call_impl is not None
        return 1 if is_compiled else self.config.distilled.get("cache_interval", 1)

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale != 1

    @property
    def num_timesteps(self) -> int:
        """Calls of the scheduler in the last call of the pipeline."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        return self._cross_attention_kwargs

    def enable_vae_slicing(self) -> None:
        """Encode and decode one sound (or window of a long one) at a time, which saves memory."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        self.vae.disable_slicing()

    @property
    def objective(self) -> str:
        return objective_of(self.scheduler)

    def use_preset(self, name: str) -> int:
        """Switch to a preset's scheduler ("reference", "balanced", "fast", "turbo"); returns its number of steps.

        "turbo" is for distilled pipelines, and for those whose folder has the LoRA of one (`turbo_file`): it is merged
        into a copy of the U-Net, and any other preset or scheduler brings the original back.

        Raises a ValueError if this network's objective has no preset, or scheduler, of this name.
        """
        if name == "turbo" and not self.config.distilled and self.turbo_file:
            self._load_turbo(self.turbo_file)
        elif name != "turbo":
            self.unload_turbo()
        self._check_sampler(name, is_few_step=name == "turbo")
        self.scheduler, steps = preset(name, self.objective, dict(self.config.noise))
        steps = min(steps, self.config.distilled.get("steps", steps))
        self.register_to_config(num_steps=steps)
        return steps

    def use_scheduler(self, name: str) -> None:
        """Switch to a scheduler by its short name (`modules/sampling.py`); not of a distilled pipeline."""
        self.unload_turbo()
        self._check_sampler(name, is_few_step=False)
        self.scheduler = scheduler(name, self.objective, dict(self.config.noise))

    @property
    def turbo_file(self) -> Path | None:
        """LoRA file for the preset "turbo" in the folder that this pipeline was loaded from."""
        path = Path(self.name_or_path or os.devnull) / TURBO / LORA_FILE
        return path if path.is_file() else None

    def _load_turbo(self, path: Path) -> None:
        """Make this a distilled pipeline, which `unload_turbo` undoes."""
        unet = copy.deepcopy(self.unet)
        header = merge_lora(unet, path)
        try:
            facts = {"steps": int(header["steps"]), "guidance_scale": float(header["guidance_scale"]),
                     "cache_interval": int(header.get("cache_interval", 1))}  # fmt: skip
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: its header lacks the steps and guidance_scale of a distillation") from error
        config = self.config
        self._teacher = _Teacher(self.unet, self.scheduler, config.num_steps, config.guidance_scale)
        self.unet = unet
        self.register_to_config(distilled=facts | {"teacher": header.get("teacher", "")}, guidance_scale=1.0)

    def unload_turbo(self) -> None:
        """Go back from the preset "turbo" to the U-Net, scheduler and defaults from before; else do nothing."""
        if self._teacher is None:
            return
        self.unet, self.scheduler, steps, scale = self._teacher
        self.register_to_config(distilled={}, num_steps=steps, guidance_scale=scale)
        self._teacher = None

    def _check_sampler(self, name: str, is_few_step: bool) -> None:
        """Raise a ValueError for a sampler that does not fit a distilled pipeline, or fits only such a one."""
        if self.config.distilled and not is_few_step:
            raise ValueError(f"{name}: this pipeline is distilled: it has one sampler, the preset turbo")
        if is_few_step and not self.config.distilled:
            raise ValueError(f"{name}: this pipeline is not distilled: make a distilled one with run_distill.sh")

    @property
    def _execution_device(self) -> torch.device:
        return self._found_device or super()._execution_device

    @torch.no_grad()
    @_finds_device_once
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_waveforms_per_prompt: int = 1,
        duration: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        cache_interval: int | None = None,
        init_audio: Any = None,
        strength: float | None = None,
        mask: Spans | Span | None = None,
        window_overlap: float = 0.5,
        windows_at_once: int = WINDOW_BATCH_SIZE,
        audio_length_in_s: float | None = None,
        eta: float = 0.0,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_vocoder_window: OnWindow | None = None,
    ) -> SoundOutput | tuple[Any]:
        """Generate sounds from texts, or from texts and a recording.

        Args:
            guidance_scale, guidance_rescale, guidance_interval: see `Guidance`; a scale of 1 turns it off.
            cache_interval: N computes the deep layers of the U-Net at every N-th step only; see `deep_cache`.
                Default: `default_cache_interval`.
            duration: seconds, 0.5 to 600, exact to the sample. Default: as long as `init_audio`, or one clip
                (`duration` of the pipeline). A longer latent than a clip's is denoised in overlapping windows.
            generator: one, or one per sound, so that a sound does not depend on its batch. It draws the initial noise
                and that of the scheduler (`DPMSolverSDEScheduler` alone draws its own).
            latents: initial noise (B, z, h, w).
            output_type: "np" or "pt" for waves (B, N), "mel" for ln mel (B, M, T), "latent".
            init_audio: recording to start from: the path of a sound file, or samples at the pipeline's rate: (n,), or
                (b, n) with a row per text or sound; floats, or integers, which are scaled by their type.
            strength: share of the steps that run on `init_audio`, above 0 to 1; 1 begins with noise. Default 0.8, and 1
                with a mask.
            mask: seconds to generate anew, (start, end) or a list of these; None is the end of the sound. All else is
                `init_audio`, bit for bit; up to a quarter of a latent inside the mask may still resemble it. To
                continue a recording: a mask from its end, and a longer `duration`.
            window_overlap: share of a window that the next one covers as well, 0 to 0.9.
            windows_at_once: windows of all sounds in one call of the U-Net, if they are more than the sounds.
            audio_length_in_s: diffusers' name of `duration`.
            eta: 0 to 1, for schedulers that have it (DDIM, TCD); refused for others.
            prompt_embeds, negative_prompt_embeds, prompt_attention_mask, negative_prompt_attention_mask: from
                `encode_prompt`, in the place of texts.
            return_dict: False gives the tuple `(audios,)`.
            callback_on_step_end: called as `callback(pipe, step, t, tensors)` after each step; the tensors in the
                dictionary that it returns replace those of the loop. It may set `pipe._guidance_scale`, and
                `pipe._interrupt = True`, which ends the loop.
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` it gets.
            cross_attention_kwargs: passed to the U-Net.
            callback_on_vocoder_window: called as `callback(number, total)` after each part of the waves that the
                vocoder or Griffin-Lim has made; an exception that it raises ends the call.

        Raises:
            ValueError: an empty or too long text, a number out of range, a sound or a mask that cannot be used.
        """
        steps = self.config.num_steps if num_inference_steps is None else num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        guidance = Guidance(scale, guidance_rescale, guidance_interval)
        cache_interval = self.default_cache_interval if cache_interval is None else cache_interval
        if self.config.distilled:
            self._check_distilled(steps, guidance, negative_prompt)
        seconds = _either("duration", duration, "audio_length_in_s", audio_length_in_s)
        self._check(steps, seconds, output_type, windows_at_once, callback_on_step_end_tensor_inputs)
        extra = step_arguments(self.scheduler, generator, eta)
        self._guidance_scale, self._interrupt, self._cross_attention_kwargs = scale, False, cross_attention_kwargs

        text = self._encode_texts(
            prompt, negative_prompt, num_waveforms_per_prompt, guidance.is_used, prompt_embeds, negative_prompt_embeds,
            prompt_attention_mask, negative_prompt_attention_mask,
        )                                                                                          # (2B, L, D)
        samples, windows, source = self._begin(text.size, seconds, window_overlap, init_audio, strength, mask)
        noise = self.prepare_latents(text.size, windows.width, generator, latents)                 # (B, z, h, w)
        x, timesteps = source.start(self.scheduler, noise, steps)
        self._num_timesteps = len(timesteps)
        at_once = max(windows_at_once, text.size)
        with deep_cache(self.unet, cache_interval, windows.calls(text.size, at_once)):
            for step, t in enumerate(self.progress_bar(timesteps)):  # type: ignore[arg-type]
                if self._interrupt:
                    break
                prediction = self.predict_windows(x, t, text, guidance, windows, at_once)
                x = source.after_step(self.scheduler.step(prediction, t, x, **extra).prev_sample)  # (B, z, h, w)
                if callback_on_step_end is not None:
                    names = callback_on_step_end_tensor_inputs
                    x, text = self._call_back(callback_on_step_end, names, step, t, x, text)
                    guidance = replace(guidance, scale=self._guidance_scale)
        output = self._decode(x, windows, source, samples, output_type, callback_on_vocoder_window)
        self.maybe_free_model_hooks()
        return output if return_dict else (output.audios,)

    def _call_back(
        self, callback: Callback, names: Sequence[str], step: int, t: Tensor, latents: Tensor, text: TextStates
    ) -> tuple[Tensor, TextStates]:
        """Run `callback_on_step_end`; return the latents and states that it gives back, the same ones by default."""
        negative, positive = text.states[: -text.size], text.states[-text.size :]
        tensors = {"latents": latents, "prompt_embeds": positive, "negative_prompt_embeds": negative}
        tensors |= callback(self, step, t, {name: tensors[name] for name in names}) or {}
        states = torch.cat([tensors["negative_prompt_embeds"], tensors["prompt_embeds"]])
        return tensors["latents"], text._replace(states=states)

    def _decode(
        self, x: Tensor, windows: Windows, source: FromNoise, samples: int, output_type: str,
        on_window: OnWindow | None,
    ) -> SoundOutput:  # fmt: skip
        """Denoised latents (B, z, h, w) -> mel -> wave of N samples, with what `source` keeps of a recording."""
        if output_type == "latent":
            return SoundOutput(audios=x)  # type: ignore[arg-type]
        mel = source.merge_mel(self.decode_latents(x, windows))                                    # (B, M, T)
        mels = mel[..., : math.ceil(samples / self.mel_settings.hop_size)].float()
        if output_type == "mel":
            return SoundOutput(audios=mels, mels=mels)  # type: ignore[arg-type]
        wave, gains = source.merge_wave(self.vocode(mel, on_window)[:, :samples])                  # (B, N), (B,)
        audios: Any = wave.cpu().numpy() if output_type == "np" else wave
        return SoundOutput(audios=audios, mels=mels, gains=gains)

    @torch.no_grad()
    @_finds_device_once
    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_waveforms_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Encode B texts with the text encoder alone; the other components may be None.

        Args:
            prompt_embeds ...: given states, which are only repeated.

        Returns:
            prompt_embeds (B, L, D), prompt_attention_mask (B, L), negative_prompt_embeds (B, L', D) and
            negative_prompt_attention_mask (B, L'), for the call's arguments of these names. B counts every text
            `num_waveforms_per_prompt` times. A mask is None where nothing is masked, and the last two are None without
            guidance.

        Raises:
            ValueError: no text and no states, or both, an empty or too long text, or another number of negative ones.
        """
        guided, times = do_classifier_free_guidance, num_waveforms_per_prompt
        prompts, negatives = _check_texts(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, times)
        if self.config.text_mask and guided and prompt_embeds is None and negative_prompt_embeds is None:
            states, masks = self.encode_text(negatives + prompts)
            negative_prompt_embeds, prompt_embeds = states.chunk(2)
            negative_prompt_attention_mask, prompt_attention_mask = (None, None) if masks is None else masks.chunk(2)
        if prompt_embeds is None:
            prompt_embeds, prompt_attention_mask = self.encode_text(prompts)
        if not guided:
            negative_prompt_embeds = negative_prompt_attention_mask = None
        elif negative_prompt_embeds is None:
            size, mask = prompt_embeds.shape[1], prompt_attention_mask
            lengths = [size] * len(negatives) if mask is None else mask.sum(dim=1).tolist()
            negative_prompt_embeds, negative_prompt_attention_mask = self.encode_text(negatives, lengths)
        prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask = (
            None if one is None else one.repeat_interleave(times, dim=0)
            for one in (
                prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask
            )
        )  # fmt: skip
        assert prompt_embeds is not None
        return prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask

    def _encode_texts(self, *arguments: Any) -> TextStates:
        """States of B texts for the U-Net, with those of the negative texts where guidance is used."""
        positive, mask, negative, negative_mask = self.encode_prompt(*arguments)
        given = [(positive, mask)] if negative is None else [(negative, negative_mask), (positive, mask)]
        if negative is not None and len(negative) != len(positive):
            raise ValueError(f"negative_prompt_embeds are of {len(negative)} texts, prompt_embeds of {len(positive)}")
        states, masks = join_states(*zip(*given, strict=True))
        place = self._execution_device
        states = states.to(place, self.unet.dtype)
        return TextStates(states, None if masks is None else masks.to(place), len(positive))

    def encode_text(self, texts: list[str], lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor | None]:
        """Texts -> hidden states (B, L, D) and their mask (B, L).

        Without `text_mask` every text is encoded alone, with padding up to its length in `lengths`, to which the text
        encoder and the U-Net attend; a mask then hides only what follows in a batch with longer ones (None: nothing).

        Raises:
            ValueError: a text has more tokens than the encoder was made for (512 for T5).
        """
        if self.config.text_mask:
            return self._run_text_encoder(texts, 0)
        jobs = list(zip(texts, lengths or [0] * len(texts), strict=True))
        made = {job: self._run_text_encoder([job[0]], job[1])[0] for job in dict.fromkeys(jobs)}  # (1, L, D) each
        return join_states([made[job] for job in jobs], [None] * len(jobs))

    def _run_text_encoder(self, texts: list[str], length: int) -> tuple[Tensor, Tensor | None]:
        """Texts -> hidden states (B, L, D), L at least `length`, and mask (B, L), or no mask if `text_mask` is off."""
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

    def predict_windows(
        self, x: Tensor, t: Tensor, text: TextStates, guidance: Guidance, windows: Windows, at_once: int
    ) -> Tensor:
        """Predict latents (B, z, h, w) of any width; wider than a clip, in windows, `at_once` of them in a call."""
        network = lambda some, of: self.predict(some, t, text.rows(of), guidance)  # noqa: E731
        return windows.apply(network, scale_model_input(self.scheduler, x, t), at_once)

    def predict(self, x: Tensor, t: Tensor, text: TextStates, guidance: Guidance) -> Tensor:
        """Run the U-Net on latents (b, z, h, w) of one window each, with guidance -> (b, z, h, w)."""
        x = with_positions(x, self.unet.config.in_channels)  # (b, z + positions, h, w)
        time = min(float(t) / self.scheduler.config.num_train_timesteps, 1.0)
        guided = text.is_guided and guidance.is_on(time)
        text = text if guided else text.conditional()
        predicted = self.unet(
            torch.cat([x, x]) if guided else x, t, text.states, encoder_attention_mask=text.mask,
            cross_attention_kwargs=self._cross_attention_kwargs,
        ).sample  # fmt: skip
        return guidance.combine(*predicted.chunk(2)) if guided else predicted

    def decode_latents(self, latents: Tensor, windows: Windows | None = None) -> Tensor:
        """Normalised latents (B, z, h, w) -> ln mel (B, M, T); several windows are cross-faded."""
        windows = windows or Windows(latents.shape[-1], 1, 1)
        latents = denormalise(latents.to(self.vae.dtype), self.vae)
        at_once = DECODED_ON_CPU if latents.device.type == "cpu" else max(1, len(latents) * windows.count)
        decode = lambda some, _: torch.cat([self.vae.decode(few).sample[:, 0] for few in some.split(at_once)])  # noqa: E731
        return windows.apply(decode, latents, WINDOW_BATCH_SIZE, out_unit=self.factor)

    def encode_wave(self, wave: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """Wave (B, N) -> ln mel (B, M, T), with silence after the sound, and its normalised latents (B, z, h, w)."""
        wave = F.pad(wave, (0, -wave.shape[1] % self.mel_settings.hop_size), mode="reflect")
        mel = MelSpectrogram(self.mel_settings).to(wave.device)(wave)                          # (B, M, N / hop)
        silence = windows.width * self.factor - mel.shape[-1]
        mel = F.pad(mel, (0, silence), value=math.log(MEL_FLOOR))                              # (B, M, T)
        encode = lambda some, _: self.vae.encode(some[:, None]).latent_dist.mode()  # noqa: E731
        latents = windows.apply(encode, mel.to(self.vae.dtype), WINDOW_BATCH_SIZE, unit=self.factor)
        return mel, normalise(latents, self.vae)

    @torch.no_grad()
    def vocode(self, mel: Tensor, on_window: OnWindow | None = None) -> Tensor:
        """ln mel (B, M, T) -> wave (B, T * hop), float32; not clipped, it may leave -1..1.

        `on_window(number, total)` is called after each part that the vocoder, then Griffin-Lim, has made.
        """
        iterations = self.config.refine
        if self.vocoder is None:
            return mel_to_wave(mel, self.mel_settings, on_chunk=on_window)
        if not iterations:
            return vocode_in_chunks(mel, self.vocoder, on_chunk=on_window)
        counts = len(vocoder_pieces(mel)), len(griffin_lim_pieces(mel, self.mel_settings, iterations))

        def report(number: int, done: int = 0) -> None:
            if on_window:
                on_window(done + number, sum(counts))

        wave = vocode_in_chunks(mel, self.vocoder, on_chunk=lambda number, _: report(number))
        refined = lambda number, _: report(number, counts[0])  # noqa: E731
        return mel_to_wave(mel, self.mel_settings, iterations, start=wave, on_chunk=refined)

    def _check(
        self, steps: int, duration: float | None, output_type: str, batch: int, callback_inputs: Sequence[str]
    ) -> None:
        if steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {steps}")
        if duration is not None and not SHORTEST <= duration <= LONGEST:
            raise ValueError(f"duration must be from {SHORTEST:g} to {LONGEST:g} s, got {duration:g}")
        if output_type not in ("np", "pt", "mel", "latent"):
            raise ValueError(f"output_type must be np, pt, mel or latent, got {output_type!r}")
        if batch < 1:
            raise ValueError(f"windows_at_once must be at least 1, got {batch}")
        if unknown := [name for name in callback_inputs if name not in self._callback_tensor_inputs]:
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs: no {unknown[0]!r}, only {known}")

    def _check_distilled(self, steps: int, guidance: Guidance, negative: str | list[str] | None) -> None:
        """Raise a ValueError for what a distilled pipeline does not take."""
        most = self.config.distilled["steps"]
        if steps > most or most % steps:
            allowed = ", ".join(str(one) for one in (1, 2, 4, 8) if one <= most)
            raise ValueError(f"this pipeline is distilled for {allowed} steps, got {steps}")
        if guidance.is_used or guidance.rescale:
            scale = self.config.distilled["guidance_scale"]
            raise ValueError(f"guidance_scale must be 1: this pipeline is distilled, guidance of {scale:g} is built in")
        if any([negative] if isinstance(negative, str) else negative or []):
            raise ValueError("a distilled pipeline takes no negative text: use the one that it was made from")

    def _begin(
        self, count: int, duration: float | None, overlap: float, sound: Any, strength: float | None,
        mask: Spans | Span | None,
    ) -> tuple[int, Windows, FromNoise]:
        """Length of the sounds in samples, their windows, and the starting point of sampling."""
        rate, hop_size = self.sample_rate, self.mel_settings.hop_size
        samples, source = None if duration is None else round(duration * rate), FromNoise()
        if sound is not None:
            source = check_source(sound, count, strength, mask, samples, rate, (SHORTEST, LONGEST))
            source.wave, samples = source.wave.to(self._execution_device), source.wave.shape[1]
        elif strength is not None or mask is not None:
            name = "strength" if strength is not None else "mask"
            raise ValueError(f"{name} needs init_audio, the sound that it is about")
        samples = samples or round(self.duration * rate)
        width = math.ceil(samples / (self.factor * hop_size))
        windows = Windows.covering(width, self._latent_shape()[-1], overlap)
        if isinstance(source, FromAudio):
            source.mel, source.clean = self.encode_wave(source.wave, windows)
            source.hop_size = hop_size
        return samples, windows, source

    @property
    def factor(self) -> int:
        """Mel frames, and mel bands, per latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _latent_shape(self) -> tuple[int, int, int]:
        """(z, h, w) of one clip."""
        factor = self.factor
        return self.vae.config.latent_channels, self.mel_settings.n_mel // factor, self.config.frames // factor


def _either(name: str, value: float | None, other_name: str, other: float | None) -> float | None:
    """The value of an argument with two names; raises a ValueError if both are given."""
    if value is not None and other is not None:
        raise ValueError(f"{name} and {other_name} are two names of one number: give one of them")
    return other if value is None else value


def _check_texts(
    prompt: str | list[str] | None, negative: str | list[str] | None, states: Tensor | None,
    negative_states: Tensor | None, times: int,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Texts (none if their states are given) and a negative text, "" by default, for each."""
    if times < 1:
        raise ValueError(f"num_waveforms_per_prompt must be at least 1, got {times}")
    if (prompt is None) == (states is None):
        raise ValueError("no text: give prompt, or prompt_embeds" if states is None else "give prompt or prompt_embeds")
    if negative and negative_states is not None:
        raise ValueError("give negative_prompt or negative_prompt_embeds")
    prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    if states is None and (not prompts or not all(text.strip() for text in prompts)):
        raise ValueError("the text is empty: describe the sound")
    count = len(prompts) if states is None else len(states)
    negatives = [negative or ""] * count if negative is None or isinstance(negative, str) else list(negative)
    if len(negatives) != count:
        raise ValueError(f"{len(negatives)} negative texts for {count} texts: give one, or one per text")
    return prompts, negatives
