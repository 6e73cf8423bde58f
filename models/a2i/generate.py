"""Generation of pictures and their sidecars from sounds: run_inference.sh of every audio-to-image recipe."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from sonolume.config.audio_to_image import NOISE, PLACEHOLDER, InferenceOptions
from sonolume.config.base import RunConfig
from sonolume.config.options import TURBO, SamplingOptions, changed
from sonolume.models import runtime
from sonolume.models.a2i import few_steps, loading
from sonolume.models.a2i.clips import Clip, read_clips
from sonolume.models.a2i.few_steps import Turbo
from sonolume.models.a2i.pipeline import STRENGTH, AudioToImagePipeline, remove_placeholder
from sonolume.models.a2i.sound_encoder import LongSounds, white_noise
from sonolume.models.progress import OnStep, Step
from sonolume.models.recipes import recipe_code
from sonolume.modules import sampling
from sonolume.utils import audio, files
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image, picture_grid, save_png
from sonolume.utils.text import message

NOT_WITH_TURBO = (  # its guidance is built in; the others were not measured with it
    "guidance_scale", "negative_text", "negative_audio", "scheduler", "lora", "controlnet", "init_image",
)  # fmt: skip
COLUMNS = 6  # pictures in a row of a storyboard
WAVES_IN_MEMORY = 32  # windows that are read before they are encoded


@dataclass(frozen=True)
class Subject:
    """Content of one picture."""

    clips: list[Clip]  # one; several with --together
    audio_tokens: torch.Tensor  # (K, D)
    text: str | None  # mixed in

    @property
    def name(self) -> str:
        """File stem, before the window and seed suffixes."""
        return " ".join([*(clip.path.stem for clip in self.clips), *([self.text] if self.text else [])])


Picture = tuple[Subject, int, Path]  # subject, seed, file
StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]  # as diffusers defines it


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline for any number of generations."""

    pipe: AudioToImagePipeline
    components: dict[str, Any]  # description for sidecars

    def choose_sampler(self, options: InferenceOptions) -> None:
        """Switch to the sampler of --preset and --scheduler, or back to the pipeline's own."""
        runtime.choose_sampler(self.pipe, options.preset or default_preset(self.pipe, options), options.scheduler)


def default_preset(pipe: AudioToImagePipeline, options: SamplingOptions) -> str:
    """Choose the preset without --preset: "turbo" with a --lora for few steps, unless --scheduler is given.

    Also if Stable Diffusion has it, the model prefers it, and no flag needs another one, which is named on stderr.
    """
    if pipe.turbo is not None and pipe.turbo.file is None:
        return "balanced" if changed(options, ["scheduler"]) else TURBO
    if pipe.turbo is None or not pipe.prefers_turbo:
        return "balanced"
    given = changed(options, NOT_WITH_TURBO)
    if options.num_steps is not None and not pipe.turbo.limits.takes_steps(options.num_steps):
        given = [*given, "num_steps"]
    if given:
        runtime.report_no_turbo(options, given[0], pipe.turbo.limits.allowed)
    return "balanced" if given else TURBO


def run(config: RunConfig, options: InferenceOptions) -> None:
    """Draw `num_samples` pictures of every sound (or of each of its windows, and of each text), and print their paths.

    A UserError if an input cannot be used, a ComputationError if a result is NaN or of one colour.
    """
    check_inputs(options)
    for path in generate(load_model(config, options), options):
        print(path)


def check_inputs(options: InferenceOptions) -> None:
    """Raise a UserError for inputs that no model can use, before one is loaded."""
    paths = files.find_sounds(*options.audio)
    places = (options.prompt or PLACEHOLDER).count(PLACEHOLDER)
    if options.together and places != len(paths):
        raise UserError(f"--together needs a --prompt with one {PLACEHOLDER} for each of the {len(paths)} sounds, "
                        f"it has {places}")  # fmt: skip
    if options.init_image is not None:
        open_image(options.init_image)


def load_model(config: RunConfig, options: InferenceOptions) -> LoadedModel:
    """Load the pipeline of --checkpoint, with --stable_diffusion, --lora, --device and --dtype."""
    source = runtime.find_checkpoint(options.checkpoint, config, recipe_code(config.recipe, "encoder").SHIPPED)
    pipe, components = loading.load(
        source, config.recipe, options.device, options.dtype, options.stable_diffusion, not options.no_safety_checker
    )
    runtime.speed_up(pipe.sd.unet)
    if options.lora is not None:
        load_lora(pipe, options)
    return LoadedModel(pipe, components | {"lora": options.lora, "lora_scale": options.lora and options.lora_scale})


def load_lora(pipe: AudioToImagePipeline, options: InferenceOptions) -> None:
    """Merge --lora into the U-Net; one for few steps brings the preset "turbo", which is noted on stderr.

    Raises:
        UserError: no such LoRA, or of another network.
    """
    pipe.load_lora(options.lora or "", options.lora_scale, key="--lora")
    if pipe.turbo is None and options.preset == TURBO:
        pipe.turbo = Turbo(few_steps.LCM)
    elif pipe.turbo is not None and pipe.turbo.file is None and options.preset is None and options.scheduler is None:
        limits = pipe.turbo.limits
        message(f"--lora {options.lora}: {limits.name}, used with {limits.steps} steps and without guidance, "
                "as by --preset turbo (another sampler: --preset balanced)")  # fmt: skip


def generate(model: LoadedModel, options: InferenceOptions, on_step: OnStep | None = None) -> Iterator[Path]:
    """Draw `num_samples` pictures of every sound, window or text; yield the path of each, and of the storyboards."""
    pipe, init_image = model.pipe, None if options.init_image is None else open_image(options.init_image)
    model.choose_sampler(options)
    runtime.compile_unet(pipe.sd.unet, options.compile, pipe.sd.device)
    settings = call_settings(pipe, init_image, options) | control_settings(pipe, options)
    words = [remove_placeholder(text) for text in (settings["prompt"], options.negative_text)]
    runtime.report_unknown_words(pipe.sd.text_encoder, [*words, *options.text])
    negatives, negative_seconds = encode_negative(pipe, options)
    subjects = encode_sounds(pipe, files.find_sounds(*options.audio), options)
    folder = runtime.make_folder(options.output_dir)
    sidecar = model.components | _describe(pipe, settings, options) | {"negative_seconds": negative_seconds}
    pictures: list[Picture] = []
    for picture in _draw(pipe, subjects, negatives, settings, sidecar, folder, options, on_step):
        pictures.append(picture)
        yield picture[-1]
    if options.window is not None:
        start = options.span[0][0] if options.span else 0.0
        yield from _write_storyboards(pictures, sidecar, folder, options.hop or options.window, start)
    rejected = len(subjects) * options.num_samples - len(pictures)
    if rejected:
        message(f"the safety checker rejected {rejected} pictures: try another --seed, or --no_safety_checker")


def call_settings(
    pipe: AudioToImagePipeline, init_image: Image.Image | None, options: InferenceOptions
) -> dict[str, Any]:
    """Check the texts, and collect the arguments of the pipeline's call.

    Raises:
        UserError: a text is too long, or the networks cannot draw the size.
    """
    prompt = options.prompt or pipe.encoder.prompt
    try:
        texts = [remove_placeholder(prompt), remove_placeholder(options.negative_text), *options.text]
        pipe.encode_texts(texts, pipe.sd.tokenizer.model_max_length)
        height, width = pipe.size(options.height, options.width)
    except ValueError as error:
        raise UserError(str(error)) from error
    if options.window is not None and options.window < pipe.encoder.min_seconds:
        raise UserError(f"--window must be at least {pipe.encoder.min_seconds:g} s here, got {options.window:g}")
    too_long = options.window is not None and options.window > pipe.encoder.window
    if too_long and pipe.encoder.long_sounds is LongSounds.refuse and not options.average:
        raise UserError(f"--window must be at most {pipe.encoder.window:g} s here, got {options.window:g}")
    return {
        "prompt": prompt,
        "mix": options.mix,
        "audio_strength": options.audio_strength,
        "negative_prompt": options.negative_text,
        "init_image": init_image,
        "strength": None if init_image is None else options.strength or STRENGTH,
        "height": height,
        "width": width,
        "num_inference_steps": options.num_steps or pipe.num_steps,
        "cache_interval": options.cache_interval or 1,
        "guidance_scale": pipe.default_guidance_scale if options.guidance_scale is None else options.guidance_scale,
    }


def control_settings(pipe: AudioToImagePipeline, options: InferenceOptions) -> dict[str, Any]:
    """Load --controlnet, and collect the arguments of the pipeline's call for it."""
    if options.controlnet is None or options.control_image is None:
        return {}
    from sonolume.models.a2i.controlnet import load_controlnet  # slow, and rarely needed

    controlnet = load_controlnet(options.controlnet, dtype=pipe.sd.unet.dtype)
    try:
        pipe.use_controlnet(controlnet)
    except ValueError as error:
        raise UserError(f"--controlnet {options.controlnet}: {error}") from error
    return {"control_image": open_image(options.control_image), "control_strength": options.control_strength}


def _describe(pipe: AudioToImagePipeline, settings: dict[str, Any], options: InferenceOptions) -> dict[str, Any]:
    """Collect everything that decides a picture for its sidecar, except the sound, the text and the seed."""
    same = ("prompt", "audio_strength", "strength", "height", "width", "guidance_scale", "cache_interval")
    given = ("negative_text", "negative_audio", "average", "together", "dtype", "batch_size")
    return runtime.describe(
        **{name: settings[name] for name in same},
        **{name: getattr(options, name) for name in given},
        mix=options.mix if options.text else None,
        num_steps=settings["num_inference_steps"],
        scheduler=type(pipe.sd.scheduler).__name__,
        preset=None if options.scheduler else pipe.preset,
        init_image=None if options.init_image is None else str(options.init_image),
        **_control(options),
        encoder_window=min(options.window or pipe.encoder.window, pipe.encoder.window),
        device=str(pipe.sd.device),
    )


def _control(options: InferenceOptions) -> dict[str, Any]:
    if options.control_image is None:
        return {}
    names = ("controlnet", "control_image", "control_strength")
    return {name: getattr(options, name) for name in names} | {"control_image": str(options.control_image)}


def encode_sounds(pipe: AudioToImagePipeline, paths: list[Path], options: InferenceOptions) -> list[Subject]:
    """Encode every sound once, in the given order; unusable ones are skipped and reported.

    Raises:
        UserError: no sound is usable, or with --together one is not.
    """
    errors: list[SoundError] = []
    encoded: list[tuple[Clip, torch.Tensor]] = []
    waiting: list[tuple[Clip, np.ndarray]] = []
    for number, path in enumerate(tqdm(paths, unit="sound", disable=len(paths) < 2), 1):
        try:
            waiting += read_clips(path, pipe.encoder, options.average, options.span, options.window, options.hop)
        except SoundError as error:
            if options.together:
                raise
            errors.append(error)
        if waiting and (len(waiting) >= WAVES_IN_MEMORY or number == len(paths)):
            clips, waves = zip(*waiting, strict=True)
            encoded += zip(clips, pipe.encode_audio(waves, options.average), strict=True)
            waiting = []
    audio.report_unusable(errors, len(paths))
    groups = [encoded] if options.together else [[one] for one in encoded]
    return [
        Subject([clip for clip, _ in group], torch.cat([tokens for _, tokens in group]), text)
        for group in groups
        for text in options.text or [None]
    ]


def encode_negative(
    pipe: AudioToImagePipeline, options: InferenceOptions
) -> tuple[dict[int, torch.Tensor], list[list[float]] | None]:
    """Encode --negative_audio for each seed -> audio tokens (K, D) by seed, and the seconds of the file that are used.

    Both are empty without the flag; noise has no seconds.

    Raises:
        SoundError: the file is unusable.
    """
    seeds = range(options.seed, options.seed + options.num_samples)
    if options.negative_audio is None:
        return {}, None
    if options.negative_audio == NOISE:  # encoded alone, so that a picture does not depend on its batch
        return {seed: pipe.encode_audio([white_noise(pipe.encoder, seed)])[0] for seed in seeds}, None
    ((clip, wave),) = read_clips(Path(options.negative_audio), pipe.encoder, options.average)
    return dict.fromkeys(seeds, pipe.encode_audio([wave], options.average)[0]), clip.encoded


def _draw(
    pipe: AudioToImagePipeline, subjects: list[Subject], negatives: dict[int, torch.Tensor], settings: dict[str, Any],
    sidecar: dict[str, Any], folder: Path, options: InferenceOptions, on_step: OnStep | None,
) -> Iterator[Picture]:  # fmt: skip
    """Draw and write all pictures, batch by batch; those that the safety checker rejects are missing in the result."""
    jobs = [(subject, options.seed + number) for subject in subjects for number in range(options.num_samples)]
    batches = [jobs[start : start + options.batch_size] for start in range(0, len(jobs), options.batch_size)]
    pipe.sd.set_progress_bar_config(disable=len(batches) > 1)
    for number, batch in enumerate(tqdm(batches, unit="batch", disable=len(batches) < 2)):
        audio_tokens = torch.stack([subject.audio_tokens for subject, _ in batch])     # (B, K, D)
        unwanted = torch.stack([negatives[seed] for _, seed in batch]) if negatives else None  # (B, K, D)
        texts = [subject.text or "" for subject, _ in batch] if options.text else None
        try:
            generators = sampling.generators(seed for _, seed in batch)
            callback = _callback(pipe, on_step, number, len(batches)) if on_step else None
            output = pipe(audio_tokens, text=texts, negative_sounds=unwanted, generator=generators,
                          callback_on_step_end=callback, **settings)  # fmt: skip
        except ValueError as error:
            raise UserError(str(error)) from error
        if output.upcast:
            message(f"the VAE overflowed in {options.dtype}: it was run again in float32")
        for (subject, seed), image in zip(batch, output.images, strict=True):
            if image is not None:
                yield subject, seed, _write(subject, seed, image, sidecar, folder)


def _callback(pipe: AudioToImagePipeline, on_step: OnStep, number: int, batches: int) -> StepCallback:
    """Make a `callback_on_step_end` that reports the steps of the batch `number` of `batches`."""

    def drawn(sd: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        done, total, latents = number * sd.num_timesteps + step + 1, batches * sd.num_timesteps, tensors["latents"]
        on_step(Step(done, total, "denoising step", lambda: preview_picture(pipe, latents)))
        return {}

    return drawn


@torch.no_grad()
def preview_picture(pipe: AudioToImagePipeline, latents: torch.Tensor) -> Image.Image:
    """Decode the first of unfinished latents (B, z, h, w)."""
    vae: Any = pipe.sd.vae
    pixels = vae.decode(latents[:1] / vae.config.scaling_factor).sample                       # (1, 3, H, W)
    return pipe.sd.image_processor.postprocess(pixels.float(), output_type="pil")[0]  # type: ignore[return-value]


def _write(subject: Subject, seed: int, image: Image.Image, sidecar: dict[str, Any], folder: Path) -> Path:
    """Write one picture and its sidecar."""
    window = subject.clips[0].window
    name = subject.name if window is None else f"{subject.name}_w{window}"
    clips = subject.clips
    facts: dict[str, Any] = {
        "audio": [str(clip.path) for clip in clips],
        "seconds": [clip.seconds for clip in clips],
        "encoded_seconds": [clip.encoded for clip in clips],
    }
    if len(clips) == 1:
        facts = {name: values[0] for name, values in facts.items()}
    facts |= {"window": window, "text": subject.text, "seed": seed}
    with runtime.new_result(folder, name, seed, ".png") as path:
        save_png(image, path)
        files.write_json(path.with_suffix(".json"), facts | sidecar)
    return path


def _write_storyboards(
    pictures: list[Picture], sidecar: dict[str, Any], folder: Path, hop: float, start: float
) -> Iterator[Path]:
    """Write a sheet for every recording, name and seed, with a sidecar that lists its pictures; yield its path."""
    boards: dict[tuple[Path, str, int], dict[int | None, tuple[Clip, Path]]] = {}
    for subject, seed, path in pictures:
        clip = subject.clips[0]
        boards.setdefault((clip.path, subject.name, seed), {})[clip.window] = clip, path
    for (audio_path, name, seed), board in boards.items():
        count = next(iter(board.values()))[0].windows
        windows = [{"seconds": clip.seconds, "picture": picture.name} for clip, picture in board.values()]
        facts = {"audio": str(audio_path), "seed": seed, "windows": windows}
        with runtime.new_result(folder, f"{name}_storyboard", seed, ".png") as path:
            write_sheet(path, [board[window][1] if window in board else None for window in range(count)], hop, start)
            files.write_json(path.with_suffix(".json"), facts | sidecar)
        yield path


def write_sheet(path: Path, pictures: Sequence[Path | None], hop: float, start: float = 0.0) -> None:
    """Write a contact sheet (PNG) with the start time of each row above it, and the offset above each column.

    `pictures` follow each other every `hop` seconds from `start` on; None is a silent window, which stays grey.
    """
    width = min(COLUMNS, len(pictures))
    images = [picture and open_image(picture) for picture in pictures]
    titles = ["" if not column else f"+{column * hop:g} s" for column in range(width)]
    starts = [format_time(start + first * hop) for first in range(0, len(pictures), width)]
    picture_grid(path, [images[column::width] for column in range(width)], titles, starts)


def format_time(seconds: float) -> str:
    """Format seconds as minutes and seconds: 75.5 -> "1:15.5"."""
    minutes, rest = divmod(round(seconds, 2), 60)
    text = f"{int(minutes)}:{rest:05.2f}"
    return text.rstrip("0").removesuffix(".") if rest % 1 else text.removesuffix(".00")
