"""Command-line flags as typed dataclasses: the name, type and default of a field are those of the flag.

    @dataclass(kw_only=True)
    class InferenceOptions(Options):
        text: list[str] = option(help="description of the sound; may be given several times", metavar="TEXT")
        duration: float | None = option(help="length of the sound (default: one clip)", low=0.5, high=600, unit="s")

A subclass inherits flags, adds its own, and changes a default by a plain assignment: `batch_size: int = 16`.
Library functions take such an object, never an `argparse.Namespace`.

The config module of a recipe declares `InferenceOptions`, `EvaluationOptions` and `FinetuneOptions` from the groups
below and flags of its own; without a class it lacks that command. `PreprocessOptions` and `TrainOptions` below serve
every recipe that does not declare its own.
"""

import argparse
import inspect
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

from sonolume.config.part import Part
from sonolume.utils import paths
from sonolume.utils.errors import UserError

PRESETS = ("reference", "balanced", "fast")
TURBO = "turbo"  # preset of distilled models
SCHEDULERS = ("ddim", "pndm", "dpm++", "euler", "unipc", "deis", "flow-euler", "flow-unipc")  # flow-*: for flow models
DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")  # examples; any index is accepted
LARGEST_SEED = 2**62  # torch takes 64 bits; the samples of one run count on from the seed
MAX_GUIDANCE_SCALE = 100.0  # customary: 1 to 15
SPAN = re.compile(r"(\d{1,6}(?:\.\d*)?|\.\d+)-(\d{1,6}(?:\.\d*)?|\.\d+)?")

Spans = list[tuple[float, float | None]]  # start and end in seconds; None is the end of the sound


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Everything about a flag except its default."""

    help: str  # one line; the default is appended where it is a number, a text or a path
    metavar: str | tuple[str, ...] | None = None
    choices: tuple[str, ...] | None = None
    low: float = -math.inf  # smallest allowed number
    high: float = math.inf  # largest allowed number
    above: float = -math.inf  # the number must be larger than this
    multiple: int | None = None  # the number must be divisible by this
    unit: str = ""  # unit of the number, for error messages
    must_exist: bool = False  # the path must name a file or folder
    is_output: bool = False  # the path must be a folder, or can become one
    needs: tuple[str, ...] = ()  # other flags, one of which must be given together with this one
    parse: Callable[[str], Any] | None = None  # converts the text instead of the type; its result extends a list
    positional: bool = False  # an argument without a name; required, a list takes all that remain
    name: str = ""
    type: Any = None  # of the field; X if that is `X | None`

    @property
    def shown(self) -> str:
        """The name in messages."""
        return self.name if self.positional else f"--{self.name}"

    @property
    def is_list(self) -> bool:
        """True for a flag that may be repeated."""
        return typing.get_origin(self.type) is list


def option(default: Any = None, **settings: Any) -> Any:
    """Declare a dataclass field that is a command-line flag; `settings` are the fields of `Flag`, `help` is required.

    The default is None if left out; False for a `bool`; an empty list for a `list[X]`, which may be repeated.
    """
    return field(default=default, metadata={"flag": Flag(**settings)})


@dataclass(kw_only=True)
class Options:
    """Base class of all groups of flags; a UserError names the flag of a wrong value or a missing path."""

    def __post_init__(self) -> None:
        for flag in declared(type(self)):
            value = _expand(flag, getattr(self, flag.name))
            if value is None and (flag.is_list or flag.type is bool):
                value = [] if flag.is_list else False
            setattr(self, flag.name, value)
            for one in value if isinstance(value, list | tuple) else [value]:
                _check(flag, one)

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declare all flags; one that is not given stays absent from the namespace."""
        defaults = {one.name: one.default for one in fields(cls)}
        for flag in declared(cls):
            parser.add_argument(flag.shown, **_argument(flag, defaults[flag.name]))

    @classmethod
    def from_arguments(cls, namespace: argparse.Namespace) -> Self:
        """Build the options from the given flags and the defaults of all others; check that flags have what they need.

        Raises:
            UserError: a flag is given without the flag it needs, or a value is not allowed.
        """
        given = {flag.name: getattr(namespace, flag.name) for flag in declared(cls) if hasattr(namespace, flag.name)}
        for flag in declared(cls):
            if flag.name in given and flag.needs and not given.keys() & set(flag.needs):
                raise UserError(f"--{flag.name} needs --{' or --'.join(flag.needs)}")
        return cls(**given)


def declared(options: type[Options]) -> list[Flag]:
    """List the flags of a class: its own first, then those of its bases in their order."""
    hints, found = typing.get_type_hints(options), {}
    for base in options.__mro__:
        for name in inspect.get_annotations(base):
            flag = vars(base)["__dataclass_fields__"][name].metadata.get("flag")  # None: another default only
            if flag and name not in found:
                hint = hints[name]
                optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
                kind = next(arg for arg in typing.get_args(hint) if arg is not type(None)) if optional else hint
                found[name] = replace(flag, name=name, type=kind)
    return list(found.values())


def changed(options: Options, names: Iterable[str]) -> list[str]:
    """Return the named flags whose values differ from their defaults; names that the class lacks are ignored."""
    defaults = {one.name: one.default for one in fields(options)}
    return [name for name in names if name in defaults and getattr(options, name) not in (defaults[name], [], False)]


def parse_spans(text: str) -> Spans:
    """Parse "1.5-3,4-" -> [(1.5, 3.0), (4.0, None)], in seconds.

    Raises:
        argparse.ArgumentTypeError: another notation, or an empty or reversed span.
    """
    spans: Spans = []
    for part in text.split(","):
        match = SPAN.fullmatch(part.strip())
        if not match:
            raise argparse.ArgumentTypeError(f"{text!r} is not written as START-END or START- in seconds, like 1.5-3.0")
        start, end = float(match[1]), float(match[2]) if match[2] else None
        if end is not None and end <= start:
            what = "empty" if end == start else "reversed"
            raise argparse.ArgumentTypeError(f"{start:g}-{end:g} is {what}: its end must be after its start")
        spans.append((start, end))
    return spans


def _argument(flag: Flag, default: Any) -> dict[str, Any]:
    """Keyword arguments of `ArgumentParser.add_argument`."""
    kind, inner = flag.type, typing.get_args(flag.type)
    found: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(flag, default)}
    if kind is bool:
        return found | {"action": "store_true"}
    value_type = inner[0] if inner else kind
    found["type"] = flag.parse or (_number_parser(value_type) if value_type in (int, float) else value_type)
    if isinstance(kind, type) and issubclass(kind, Enum):
        found |= {"type": _parser_of(kind), "metavar": f"{{{','.join(one.value for one in kind)}}}"}
    if flag.is_list:
        found |= {"nargs": "+"} if flag.positional else {"action": "extend" if flag.parse else "append"}
    elif typing.get_origin(kind) is tuple:
        found["nargs"] = len(inner)
    shown = {"metavar": flag.metavar, "choices": flag.choices}
    return found | {name: value for name, value in shown.items() if value}


def _number_parser(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"needs {what}, got {text!r}") from None

    return parse


def _parser_of(kind: type[Enum]) -> Callable[[str], Enum]:
    def parse(text: str) -> Enum:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(one.value for one in kind)}") from None

    return parse


def _help(flag: Flag, default: Any) -> str:
    """The help with the default, which argparse itself cannot append because absent flags stay absent."""
    text = flag.help.replace("%", "%%")
    if "(default" in text or default is None or isinstance(default, bool) or default == "":
        return text
    shown = " ".join(f"{part:g}" for part in default) if isinstance(default, tuple) else str(default)
    return f"{text} (default: {shown.replace('%', '%%')})"


def _expand(flag: Flag, value: Any) -> Any:
    """Expand `~` in a path or a list of paths, as shells do not after `--flag=`."""
    if isinstance(value, list):
        return [_expand(flag, one) for one in value]
    return paths.expand(value, flag.shown) if isinstance(value, Path) else value


def _check(flag: Flag, value: Any) -> None:
    """Raise a UserError for a path that is missing or cannot be written to, or a number that is not allowed."""
    if flag.must_exist and isinstance(value, Path) and not os.path.exists(value):
        raise UserError(f"{flag.shown} {value}: no such file or folder")
    if flag.is_output and isinstance(value, Path):
        paths.check_folder(value, flag.shown)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if not abs(value) <= sys.float_info.max:  # NaN too
        raise UserError(f"{flag.shown} must be a finite number, got {value}")
    bounds = f"at least {flag.low:g}" if flag.high == math.inf else f"at most {flag.high:g}"
    if math.isfinite(flag.low) and math.isfinite(flag.high):
        bounds = f"from {flag.low:g} to {flag.high:g}"
    rules = (
        (flag.low <= value <= flag.high, bounds),
        (value > flag.above, f"above {flag.above:g}"),
        (not flag.multiple or value % flag.multiple == 0, f"a multiple of {flag.multiple}"),
    )
    for holds, rule in rules:
        if not holds:
            raise UserError(f"{flag.shown} must be {rule}{f' {flag.unit}' if flag.unit else ''}, got {value:g}")


@dataclass(kw_only=True)
class ModelOptions(Options):
    """The model and its device."""

    checkpoint: str | None = option(
        help="folder or hub id of an exported model (default: that of this config's run, else the shipped one)",
        metavar="FOLDER_OR_ID",
    )
    device: str = option("auto", help=", ".join(DEVICES), metavar="NAME")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)
        if self.checkpoint is not None:
            paths.locate(self.checkpoint, "--checkpoint", flag=True)


def check_device(name: str) -> None:
    """Raise a UserError unless `name` is written like a device; whether this machine has it, only torch knows."""
    if name.partition(":")[0] not in DEVICES:
        raise UserError(f"--device {name}: no such device: choose {', '.join(DEVICES)}")


@dataclass(kw_only=True)
class OutputOptions(Options):
    """Folder and precision of inference."""

    output_dir: Path = option(Path("outputs"), help="folder of the results", metavar="FOLDER", is_output=True)
    dtype: str = option("float32", help="precision of the networks", choices=("float32", "bfloat16", "float16"))


@dataclass(kw_only=True)
class ReconstructionOptions(ModelOptions, OutputOptions):
    """Inference of a model that reconstructs sounds."""

    audio: list[Path] = option(
        help="sound file, video with sound, or folder of them to reconstruct; may be given several times",
        metavar="PATH", must_exist=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.audio:
            raise UserError("--audio FILE_OR_FOLDER is missing")


@dataclass(kw_only=True)
class SamplingOptions(Options):
    """Sampling from a diffusion model."""

    seed: int = option(0, help="seed of the noise", metavar="N", low=0, high=LARGEST_SEED - 1)
    num_steps: int | None = option(help="denoising steps (default: the preset's)", low=1, metavar="N")
    guidance_scale: float | None = option(
        help="strength of classifier-free guidance; 1 is no guidance (default: the model's)", low=0,
        high=MAX_GUIDANCE_SCALE, metavar="SCALE",
    )  # fmt: skip
    preset: str | None = option(
        help="sampler and number of steps: reference, balanced, fast, or turbo, for models that have it (default: "
        "the model's own)", metavar="NAME", choices=(*PRESETS, TURBO),
    )  # fmt: skip
    cache_interval: int | None = option(
        help="compute the deep layers of the U-Net at every N-th step only (DeepCache; default: the model's, which is "
        "2 for the shipped text to audio in the preset turbo, else 1)", low=1, metavar="N",
    )  # fmt: skip
    batch_size: int = option(4, help="samples generated at once", low=1, metavar="N")


@dataclass(kw_only=True)
class GenerationOptions(SamplingOptions):
    """Sampling for inference: several samples, another sampler, a negative prompt, compilation."""

    num_samples: int = option(1, help="samples of each input, from seed, seed + 1, seed + 2 ...", low=1, metavar="N")
    negative_text: str = option("", help="description of what the result should not contain", metavar="TEXT")
    scheduler: str | None = option(
        help="sampler instead of the preset's: ddim, pndm, dpm++, euler, unipc, deis; for flow: flow-euler, flow-unipc",
        metavar="NAME", choices=SCHEDULERS,
    )
    compile: bool = option(help="compile the U-Net: faster after a slow first call; a CPU needs a C++ compiler")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and (self.cache_interval or 1) > 1:
            raise UserError(f"--cache_interval {self.cache_interval} is not possible with --compile: leave one out")


@dataclass(kw_only=True)
class ReportOptions(ModelOptions):
    """Size and folder of a report."""

    output_dir: Path = option(
        Path("evaluation/TASK_RECIPE"), help="folder of the report", metavar="FOLDER", is_output=True
    )
    num_samples: int = option(600, help="maximum number of captions or clips to score", low=1, metavar="N")


@dataclass(kw_only=True)
class FolderOptions(Options):
    """Existing files to score instead of generating, and frozen feature extractors used for scoring."""

    generated: Path | None = option(
        help="folder of sounds or pictures to score; nothing is generated", metavar="FOLDER", must_exist=True
    )
    reference: Path | None = option(
        help="real sounds or pictures to compare with", metavar="FOLDER_OR_MANIFEST", must_exist=True
    )
    embedder: list[str] = option(
        help="feature extractor used for scoring, such as clap:laion/clap-htsat-unfused; may be given several times",
        metavar="KIND:SOURCE",
    )
    cache_dir: Path | None = option(
        help="folder of cached features (default: in the output folder)", metavar="FOLDER", is_output=True
    )


@dataclass(kw_only=True)
class PreprocessOptions(Options):
    """Raw files to prepare."""

    input: Path | None = option(
        help="recordings: a folder with captions in text files, a csv, json or jsonl manifest, or AudioCaps "
        "(default: the config's synthetic scenes, else {processed_dir}/{dataset}/raw)",
        metavar="FOLDER_OR_MANIFEST",
        must_exist=True,
    )
    audio_dir: Path | None = option(
        help="folder of the sound files named by --input (default: the folder of --input)", metavar="FOLDER",
        needs=("input",),
    )  # fmt: skip
    dataset: str | None = option(
        help="name of the prepared data set (default: the first `dataset` of the config)", metavar="NAME"
    )

    features: bool = option(help="compute also the features of frozen networks, with which training begins otherwise")
    part: Part | None = option(
        help="compute only one of several parts of the shards and features, such as 3/64: the others are for processes "
        "elsewhere, in any order; run once more without --part at the end",
        metavar="INDEX/COUNT", parse=Part.parse,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.audio_dir is not None and not self.audio_dir.is_dir():
            raise UserError(f"--audio_dir {self.audio_dir}: no such folder")


@dataclass(kw_only=True)
class TrainOptions(Options):
    """Start of a training run."""

    resume: bool = option(help="continue the run from checkpoints/last.ckpt")
    auto_resume: bool = option(help="continue the run if it has a checkpoint, else start it (for schedulers)")
