"""Pictures, videos or texts -> wav, spectrogram and json files, and videos with their new sound."""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from sonolume.config.i2a.im2wav import Config, GenerationOptions, InferenceOptions
from sonolume.models import runtime
from sonolume.models.evaluation.samples import weights_version
from sonolume.models.i2a.im2wav import parts, subjects
from sonolume.models.i2a.im2wav.image_encoder import ImageEncoder
from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline, Request, TokenStore
from sonolume.models.i2a.im2wav.subjects import Subject
from sonolume.models.progress import OnStep, Step
from sonolume.modules.im2wav.quantized import quantize_int8
from sonolume.modules.im2wav.sampler import TokenSampling
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils import files
from sonolume.utils.cache import content_hash, fcntl
from sonolume.utils.errors import ComputationError, UserError
from sonolume.utils.image import spectrogram_png
from sonolume.utils.text import printable
from sonolume.utils.video import mux

SHIPPED = "pretrained/mini/im2wav"  # the miniature exported folder, used where the run has none
FADE_SECONDS = 0.01  # at the end of a result, which goes on in a longer one
UNFINISHED = ".unfinished"  # folder in --output_dir with the tokens of a killed run

Job = tuple[Subject, int]  # subject and seed


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline for any number of generations."""

    pipe: Im2WavPipeline
    source: str  # folder or hub id
    load_encoder: Callable[[], ImageEncoder]  # loads CLIP at the first call


class TokenBar(tqdm):
    """Progress bar that counts sampled tokens, and reports them to `on_step`."""

    on_step: OnStep | None = None

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if self.on_step is not None:
            self.on_step(Step(int(self.n), int(self.total or 0), "token"))
        return shown


def run(config: Config, options: InferenceOptions) -> None:
    """Generate `num_samples` sounds of every input and print the paths of the wavs, and with --mux of the videos.

    Raises:
        UserError: an input or the model cannot be used.
        ComputationError: the result is NaN.
    """
    for path in generate(load_model(config, options), options):
        print(path)


def load_model(config: Config, options: InferenceOptions) -> LoadedModel:
    """Load the pipeline of --checkpoint, with --device, --dtype, --int8 and --compile."""
    source = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    pipe = load(source, options, options.dtype, with_up=options.level == "up")
    return LoadedModel(pipe, source, cache(partial(load_clip, source, pipe)))


def generate(model: LoadedModel, options: InferenceOptions, on_step: OnStep | None = None) -> Iterator[Path]:
    """Generate `num_samples` sounds of every input; yield the path of each wav, and with --mux of its video."""
    pipe = model.pipe
    found = subjects.collect(options, pipe, model.load_encoder)
    negative = subjects.negative(options, model.load_encoder)
    if texts := [text for text in (*options.text, options.negative_text) if text]:
        runtime.report_unknown_words(model.load_encoder().vision, texts)
    folder = runtime.make_folder(options.output_dir)
    jobs = [(subject, options.seed + number) for subject in found for number in range(options.num_samples)]
    rounds = list(_batches(pipe, jobs, options))
    for batch, request in rounds:
        request.negative = None if negative is None else negative.expand(len(batch), 1, -1)
        _check(pipe, batch, request)
    facts = _describe(pipe, options, model.source)
    stores = []
    total = sum(pipe.token_count(request.samples, options.level) for _, request in rounds)
    with TokenBar(total=total, unit="token") as bar, contextlib.ExitStack() as own:
        bar.on_step = on_step
        for batch, request in rounds:
            key = content_hash(_key(batch, request, facts), [options.mux, options.keep_sound])
            key = own.enter_context(_own_key(folder / UNFINISHED, key))
            stores.append(DiskStore(folder / UNFINISHED, key, bar))
            if stores[-1].is_continued and not any(store.is_continued for store in stores[:-1]):
                bar.write(printable(f"{folder}: continuing a run that was stopped there"), file=sys.stderr)
            if not stores[-1].is_complete:
                sampling = options.level, options.window_overlap, options.negative_scale
                waves = sample(pipe, request, options, *sampling, stores[-1], bar)
                for number, ((subject, seed), wave) in enumerate(zip(batch, waves, strict=True)):
                    results = stores[-1].results_of(number, partial(_choose_names, subject, seed, folder, options))
                    _save(subject, seed, wave, facts, results, options)
                stores[-1].finish()
            yield from itertools.chain(*stores[-1].results)
        for store in stores:
            store.remove()


def load(where: str, options: GenerationOptions, dtype: str = "float32", with_up: bool = True) -> Im2WavPipeline:
    """Load the pipeline of a folder or a hub id, and apply --device, --num_threads, --int8 and --compile.

    Raises:
        UserError: damaged, incomplete, or of another kind; or this machine cannot compile.
    """
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    place = runtime.pick_device(options.device)
    try:
        pipe = Im2WavPipeline.from_pretrained(where, place, runtime.pick_dtype(dtype, place), with_up)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if options.guidance_scale not in (None, 1) and not any(one.config.has_null for one in pipe.priors().values()):
        raise UserError(f"--guidance_scale {options.guidance_scale:g}: {where} was trained with guidance_dropout 0")
    if options.compile:
        _check_compiler(place)
        pipe.compiled = True
    for prior in pipe.priors().values() if options.int8 else ():
        quantize_int8(prior.transformer, packed=not options.compile)
    return pipe


def _check_compiler(device: torch.device) -> None:
    if device.type != "cpu":
        raise UserError(f"--compile is for the CPU, the device is {device}: leave it out, or add --device cpu")
    runtime.require_compiler()


def load_clip(where: str, pipe: Im2WavPipeline) -> ImageEncoder:
    """Load the CLIP with which the model was trained.

    Raises:
        UserError: it cannot be loaded, or has other weights, or vectors of another width, than that of the training.
    """
    key = f"{where}/{parts.SETTINGS_FILE}: clip"
    encoder = ImageEncoder.load(pipe.settings["clip"], pipe.low.device, key=key)
    if encoder.width != pipe.image_width:
        raise UserError(f"{key} {pipe.settings['clip']}: its vectors have width {encoder.width}, "
                        f"those of the training {pipe.image_width}: name the CLIP of the training")  # fmt: skip
    if pipe.settings.get("clip_hash", encoder.content_hash) != encoder.content_hash:
        raise UserError(f"{key} {pipe.settings['clip']}: not the CLIP of the training (other weights)")
    return encoder


def sample(
    pipe: Im2WavPipeline, request: Request, options: GenerationOptions, level: str = "up",
    overlap: float | None = None, negative_scale: float | None = None, store: TokenStore | None = None, bar: Any = None,
) -> torch.Tensor:  # fmt: skip
    """Waves (B, n) on the CPU of one batch, by the sampling flags of inference and evaluation.

    Args:
        negative_scale: strength of the negative vectors of the request; default: half of the guidance scale.
    """
    scale, half = _guidance(pipe, options)
    negative = 0.0 if request.negative is None else half if negative_scale is None else negative_scale
    sampling = TokenSampling(options.temperature, options.top_k, options.top_p, scale, negative)
    try:
        waves = pipe(request, level, sampling, overlap, store, bar.update if bar is not None else None)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not waves.isfinite().all():
        raise ComputationError("the result is NaN: try --dtype float32, or a smaller --guidance_scale")
    return waves.float().cpu()


def _guidance(pipe: Im2WavPipeline, options: GenerationOptions) -> tuple[float, float]:
    """Guidance scale, and the default strength of negative vectors."""
    scale = pipe.guidance_scale if options.guidance_scale is None else options.guidance_scale
    return scale, scale / 2


class DiskStore(TokenStore):
    """Tokens of the finished windows of one batch, and the names of its files, from which a killed run continues.

    Attributes:
        results: of each sound its wav and its video.
        is_complete: whether all files of the batch are written.
        is_continued: whether a killed run left tokens or names.
    """

    def __init__(self, folder: Path, key: str, bar: Any) -> None:
        super().__init__()
        self.tokens, self.names = folder / f"{key}.safetensors", folder / f"{key}.json"
        self.is_continued = self.tokens.is_file() or self.names.is_file()
        noted = files.read_json(self.names) if self.names.is_file() else {"results": [], "complete": False}
        self.results = [[Path(path) for path in paths] for paths in noted["results"]]
        self.is_complete = noted["complete"] and all(path.is_file() for path in itertools.chain(*self.results))
        if self.tokens.is_file():
            self.levels = load_file(self.tokens)
            bar.update(sum(tokens.shape[1] for tokens in self.levels.values()))

    def save(self, level: str, tokens: torch.Tensor) -> None:
        super().save(level, tokens.cpu().contiguous())
        self.tokens.parent.mkdir(exist_ok=True)
        with files.atomic_path(self.tokens) as temporary:
            save_file(self.levels, temporary)

    def results_of(self, number: int, choose: Callable[[], list[Path]]) -> list[Path]:
        """Names of the files of a sound, noted before they are written: a killed run writes the same ones again."""
        if number == len(self.results):
            self.results.append(choose())
            self._note(complete=False)
        return self.results[number]

    def finish(self) -> None:
        """Note that all files are written; the tokens stay until the end of the run."""
        self._note(complete=True)

    def _note(self, complete: bool) -> None:
        paths = [[str(path.resolve()) for path in paths] for paths in self.results]
        files.write_json(self.names, {"results": paths, "complete": complete})

    def remove(self) -> None:
        """Delete both files."""
        self.tokens.unlink(missing_ok=True)
        self.names.unlink(missing_ok=True)


@contextlib.contextmanager
def _own_key(folder: Path, key: str) -> Iterator[str]:
    """Yield `key`, numbered if another process runs the same command; it stays this process's own inside the block."""
    keys = itertools.chain([key], (f"{key}-{number}" for number in itertools.count(2)))
    name, lock = next((one, lock) for one in keys if (lock := _lock(folder / f"{one}.lock")))
    try:
        yield name
    finally:
        (folder / f"{name}.lock").unlink(missing_ok=True)
        lock.close()
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _lock(path: Path) -> IO[str] | None:
    """Lock a new file as long as it is open; None if another process has the lock, or has just removed the file."""
    path.parent.mkdir(exist_ok=True)
    try:
        file = path.open("a")
    except FileNotFoundError:  # with its folder
        return None
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # a file system without locks
        return file
    file.close()
    return None


def _batches(
    pipe: Im2WavPipeline, jobs: Sequence[Job], options: InferenceOptions
) -> Iterator[tuple[list[Job], Request]]:
    """Batches of inputs of the same number of frames and samples."""

    def size(job: Job) -> tuple[int, int]:
        seconds = options.duration or job[0].seconds or pipe.window / pipe.sample_rate
        return len(job[0].frames), round(seconds * pipe.sample_rate)

    for (_, samples), group in itertools.groupby(sorted(jobs, key=size), key=size):
        same = list(group)
        for start in range(0, len(same), options.batch_size):
            batch = same[start : start + options.batch_size]
            frames = torch.stack([subject.frames for subject, _ in batch])  # (B, F, V)
            yield batch, Request(frames, [seed for _, seed in batch], samples)


def _check(pipe: Im2WavPipeline, batch: Sequence[Job], request: Request) -> None:
    """Refuse a batch before the first one is sampled."""
    try:
        pipe.check(request)
    except ValueError as error:
        raise UserError(f"{', '.join(batch[0][0].source.values())}: {error}") from error


def _key(batch: Sequence[Job], request: Request, facts: dict[str, Any]) -> list[Any]:
    """Everything that decides the results of a batch: its inputs by name and content, and the settings."""
    sources = [subject.source for subject, _ in batch]
    plain = {name: value for name, value in facts.items() if name != "versions"}
    negative = [] if request.negative is None else [request.negative]
    return [plain, sources, request.frames, list(request.seeds), request.samples, *negative]


def _describe(pipe: Im2WavPipeline, options: InferenceOptions, where: str) -> dict[str, Any]:
    """Everything that decides the sounds except the input and the seed, for the json."""
    sampling = ("temperature", "top_k", "top_p", "negative_text", "negative_scale")
    flags = {name: getattr(options, name) for name in (*sampling, "int8", "compile", "dtype", "batch_size")}
    scale, half = _guidance(pipe, options)
    if (options.negative_text or options.negative_image) and options.negative_scale is None:
        flags["negative_scale"] = half
    overlaps = {name: pipe.settings[name] for name in ("low_overlap", "up_overlap")}
    return runtime.describe(
        model=where,
        weights=weights_version(where),
        clip=pipe.settings["clip"],
        level=str(options.level),
        guidance_scale=scale,
        negative_image=str(options.negative_image) if options.negative_image else None,
        window_overlap=overlaps if options.window_overlap is None else options.window_overlap,
        sample_rate=pipe.sample_rate,
        device=str(pipe.low.device),
        **flags,
    )


def _choose_names(subject: Subject, seed: int, folder: Path, options: InferenceOptions) -> list[Path]:
    """Reserve the names of the wav, and with --mux of the video."""
    suffixes = [".wav", *([subject.video.suffix] if options.mux and subject.video else [])]
    wav = runtime.reserve_result(folder, subject.name, seed, *suffixes)
    return [wav.with_suffix(suffix) for suffix in suffixes]


def _fade_out(wave: torch.Tensor, samples: int) -> torch.Tensor:
    """Let a wave (n,) end in silence instead of a click, over its last `samples`."""
    ramp = torch.linspace(1, 0, min(samples, len(wave)))
    return torch.cat([wave[: len(wave) - len(ramp)], wave[len(wave) - len(ramp) :] * ramp])


def _save(
    subject: Subject, seed: int, wave: torch.Tensor, facts: dict[str, Any], results: Sequence[Path],
    options: InferenceOptions,
) -> None:  # fmt: skip
    """Write wav, spectrogram and json of one sound, and with --mux its video."""
    rate, path = facts["sample_rate"], results[0]
    wave = _fade_out(wave, round(FADE_SECONDS * rate))
    level = runtime.save_sound(path, wave.numpy(), rate, generated=wave.numpy())
    mel = MelSpectrogram(MelSettings.full_band(rate))(wave[None])[0]
    spectrogram_png(path.with_suffix(".png"), mel.numpy(), rate, fmax=rate / 2)
    described = subject.source | {"seed": seed, "duration": len(wave) / rate} | facts | level
    for target in results[1:]:
        assert subject.video is not None
        mux(subject.video, wave.numpy(), rate, target, options.keep_sound)
        described |= {"muxed": target.name, "keep_sound": options.keep_sound}
    files.write_json(path.with_suffix(".json"), described)
