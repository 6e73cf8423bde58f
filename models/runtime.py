"""Shared parts of inference and evaluation: choice of model and device, random generators, and results on disk."""

import importlib.metadata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sonolume.config.base import RunConfig
from sonolume.config.options import TURBO, SamplingOptions, check_device
from sonolume.models.precision import cpu_has_bfloat16
from sonolume.modules.compiling import check_compiler, compile_network
from sonolume.modules.prepacking import prepack
from sonolume.utils import audio, files, model_folder, names, paths
from sonolume.utils.errors import ModelError, UserError, first_line
from sonolume.utils.text import message

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RESULT_SUFFIXES = (".wav", ".png")  # one result has them all, also those of several recipes in a folder
SILENCE_PEAK = 0.01  # -40 dB of full scale; a generated sound with a lower peak is reported as silent
MAX_WORDS = 10  # unknown ones that a message names
PACKAGES = ("sonolume", "torch", "diffusers", "transformers")  # their versions affect results


def find_checkpoint(checkpoint: str | None, config: RunConfig, shipped: str) -> str:
    """Resolve --checkpoint to a folder or hub id; by default the run's own export, else the shipped miniature one.

    The use of the latter, the folder `shipped` relative to the repository, is announced on stderr.
    """
    if checkpoint is not None:
        given = paths.expand(checkpoint)
        if (given / "pipeline").is_dir() and (given / "checkpoints").is_dir():
            raise UserError(f"--checkpoint {checkpoint}: is a run; its model is {given / 'pipeline'}")
        return paths.locate(checkpoint, "--checkpoint", flag=True)
    trained = config.run_dir / "pipeline"
    if trained.is_dir():
        return str(trained)
    message(f"no trained pipeline at {trained}: using {shipped} (another: --checkpoint FOLDER)")
    return str(paths.root() / shipped)


def report_unknown_words(model: Any, texts: Iterable[str]) -> None:
    """Name the words that are new to a text encoder of the miniature world in one line; a no-op for any other one.

    Args:
        model: of transformers; its config has the version of the `world` that it was trained on, if there is one.
    """
    if getattr(model.config, "world", None) is None:
        return
    from sonolume.preprocessors.miniworld.captions import unknown_words  # other models do not need it

    unknown = list(dict.fromkeys(word for text in texts for word in unknown_words(text)))
    if unknown:
        more = f" and {len(unknown) - MAX_WORDS} more" if len(unknown) > MAX_WORDS else ""
        listed = ", ".join(unknown[:MAX_WORDS]) + more
        message(f"{describe_miniature()}; it does not know: {listed} (the result is arbitrary)")


def describe_miniature() -> str:
    """Name what a model of the miniature world knows, for messages."""
    from sonolume.preprocessors.miniworld.scene import KINDS

    return f"the shipped miniature knows {len(KINDS)} synthetic kinds of sound only ({', '.join(KINDS)})"


def read_settings(source: str, file_name: str, *recipes: str, key: str = "--checkpoint") -> tuple[Path, dict[str, Any]]:
    """Locate an exported folder, downloading it if `source` is a hub id, and read its settings.

    Args:
        file_name: name of the settings in the folder.
        recipes: recipes of which one must have made the folder.
        key: config key or flag of `source`, for messages.

    Raises:
        UserError: not an exported folder, damaged, or of another recipe.
    """
    folder, recipe = paths.download(source, key), " or ".join(recipes)
    path = folder / file_name
    if not path.is_file():
        kind = paths.kind_of(folder)
        found = f"holds {model_folder.describe_kind(kind)}" if kind else f"no {file_name} in it{paths.CONVERT}"
        raise ModelError(f"{key} {source}: not an exported folder of {recipe}: {found}")
    settings = files.read_json(path, f"the settings of {recipe}")
    if settings.get("recipe") not in recipes:
        found = settings.get("recipe") or "no recipe"
        raise ModelError(f"{path}: made by {found}, not by {recipe}: choose another {key}")
    return folder, settings


def pick_device(name: str) -> torch.device:
    """Return the device of --device; "auto" is cuda, else mps, else cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(name)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not on this machine ({first_line(error)})") from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of --dtype."""
    if name == "float16" and device.type == "cpu":
        raise UserError("--dtype float16 is for GPUs: on a CPU use bfloat16 or float32")
    if name == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
        message("--dtype bfloat16: this processor does not multiply bfloat16, PyTorch emulates it: float32 is faster")
    return DTYPES[name]


def speed_up(*networks: torch.nn.Module | None) -> None:
    """Make networks that a command calls many times faster on a CPU: results differ from the library's by rounding."""
    for network in networks:
        if network is not None:
            prepack(network)


def require_compiler() -> None:
    """Raise a UserError if --compile is not possible on this machine."""
    try:
        check_compiler()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.endswith(":")), type(error).__name__)
        raise UserError(f"--compile: PyTorch cannot compile here ({reason}): "
                        "install a C++ compiler such as g++, or leave --compile out") from error  # fmt: skip


def compile_unet(unet: torch.nn.Module, is_wanted: bool, device: torch.device) -> None:
    """Apply --compile to the U-Net that samples, and say that its first call takes long; a no-op without the flag."""
    if not is_wanted or unet._compiled_call_impl is not None:
        return
    require_compiler()
    message("--compile: the first call of the U-Net takes one to several minutes, again for each other batch size")
    compile_network(unet, device)


def report_no_turbo(options: SamplingOptions, name: str, steps: str) -> None:
    """Print which flag rules the preset turbo out, and the preset in its place; `steps` are those that turbo takes."""
    allowed = f" (it takes {steps} steps)" if name == "num_steps" else ""
    given = f"--{name} {getattr(options, name)}" if name == "num_steps" else f"--{name}"
    message(f"{given} is not possible with the preset {TURBO}{allowed}: the preset balanced is used")


def choose_sampler(pipe: Any, preset: str | None, scheduler: str | None = None) -> None:
    """Switch a pipeline to the sampler of --preset and --scheduler; raises a UserError for an unknown one."""
    try:
        if preset:
            pipe.use_preset(preset)
        if scheduler:
            pipe.use_scheduler(scheduler)
    except ValueError as error:
        raise UserError(str(error)) from error


def versions() -> dict[str, str]:
    """Versions of the packages that affect results."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def reserve_result(folder: Path, text: str, end: int | str, *suffixes: str) -> Path:
    """Reserve an unused name {text}_{end} for the files of a result, and return that of `suffixes[0]`.

    Args:
        text: input of the result.
        end: such as the seed.
        suffixes: of its files; a wav, a png and a json need not be named.
    """
    return names.reserve(folder, f"{files.safe_name(text)}_{end}", (*suffixes, *RESULT_SUFFIXES))


@contextmanager
def new_result(folder: Path, text: str, end: int | str, suffix: str) -> Iterator[Path]:
    """Yield `reserve_result`, and give the name up if the block fails before it has written the json."""
    path = reserve_result(folder, text, end, suffix)
    try:
        yield path
    finally:
        names.release(path)


def make_folder(folder: Path) -> Path:
    """Create the folder of --output_dir."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder}: {error.strerror}: name a writable folder") from error
    return folder


def save_sound(
    path: Path, wave: np.ndarray, sample_rate: int, gain: float = 1.0, generated: np.ndarray | None = None
) -> dict[str, float]:
    """Write a wav (n,), scaled down if it exceeds full scale; messages on stderr report that, and silence.

    Return for the sidecar: "peak" of the generated wave, and the total "gain", with the one already applied to it.

    Args:
        generated: samples that a model with a seed made; None: not tested for silence.
    """
    if generated is not None and generated.size and (loudest := np.abs(generated).max()) < SILENCE_PEAK:
        what = "it" if len(generated) == len(wave) else "the generated part"
        message(f"{path.name}: {what} is silent (peak {loudest:.1g}): try another --seed, or --num_samples 4")
    peak = max(float(np.abs(wave).max(initial=0.0)), 1 / gain if gain < 1 else 0.0)
    wave, factor = audio.limit_peak(wave)
    gain *= factor
    if gain < 1:
        message(f"{path.name}: its peak was {peak:.2f}, scaled by {gain:.3f} to fit")
    audio.save_wav(path, wave, sample_rate)
    return {"peak": peak, "gain": gain}


def describe(**facts: Any) -> dict[str, Any]:
    """Content of the sidecar, the json next to a result: the facts and the versions of packages."""
    return facts | {"versions": versions()}
