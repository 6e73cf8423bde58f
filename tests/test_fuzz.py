"""Mutated configs, command lines, manifests and sounds: done (0) or one line that names the mistake (2).

FUZZ_SEED=7 pytest -m '' -k test_mutations tests/test_fuzz.py draws other mutations.
"""

import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from sonolume.bins import (
    build,
    compare,
    convert,
    converters,
    evaluate,
    finetune,
    inference,
    preprocess,
    results,
    shards,
    train,
)
from sonolume.config import command
from sonolume.config import options as shared
from sonolume.config.load import load_config, recipe_module
from sonolume.config.options import declared
from sonolume.models import runtime, training
from sonolume.models.evaluation import compare as reports
from sonolume.models.recipes import recipe_code
from sonolume.models.tta.audioldm import finetune as finetuning
from sonolume.utils import cli, manifest

EGS = Path(__file__).resolve().parent.parent / "egs"
LIMIT = 20  # seconds of computing for one case, of which most take milliseconds
DEEP: Any = json.loads("[" * 60 + "]" * 60)
NUMBERS = (0, -1, 1, 3, 0.5, -0.5, 1e-320, 1e308, 10**9, 10**18, 2**63, 10**400, float("nan"), float("inf"))
TEXTS = (
    "", " ", "x", "None", "null", "true", "-1", "1e5", "~", "~nobody/x", "~no_user/x", "file", "file/x", "x" * 300,
    "x/" * 3000, "/proc/x", "/dev/null/x", "../..", "a\0b", "\udcff", "\ud800", "é\n\x1b[31m", "${oops}", "${", "???",
    "${train.max_steps}", "%s", "*",
)  # fmt: skip
VALUES = (*NUMBERS, *TEXTS, None, True, False, [], {}, [None], [[]], ["x", 1], [1, 2, 3], {"a": {}}, DEEP)
SNIPPETS = (
    "{", "}", "[", '"', ",", ":", "\0", "\t", "\n", "\\", "#", "é", "1" * 5000, "[" * 5000, '{"a":' * 5000, "*", "null",
    "\udcff", "a: &a [*a]\n", "hydra: null\n", "hydra: {x: 1}\n", "defaults: [x]\n", "? [1]\n", "- x\n", "--- x\n",
    "%TAG x\n", "&a [*a]", "<<: *a", "!!python/name:os",
)  # fmt: skip
WORDS = (  # nearly overrides
    "~{0}", "+{0}={1}", "++{0}={1}", "{0}", "{0}=", "={1}", "{0}@x={1}", "{0}=[{1}", "{0}={{a:{1}}}", "{0}=1,2",
    "{0}=range(1,9)", "{0}=glob(*)", "{0}=int(x)", "{0}={1} {1}", "{0}.x={1}", "x.{0}={1}", "{0}=[[1]]", "{0}='{1}'",
    '{0}="{1}"', "{0}=${{{0}}}", "{0}=${{env:{1}}}", "{0}=" + "1" * 5000, "{0}=" + "[" * 3000, "{0}=" + "{{a:" * 1000,
)  # fmt: skip
COMMANDS = {"InferenceOptions": inference, "EvaluationOptions": evaluate, "FinetuneOptions": finetune,
            "PreprocessOptions": preprocess, "TrainOptions": train}  # fmt: skip
REST: dict[Any, Sequence[str]] = {  # commands without a config, and their flags
    build.main: ("audiotoken", "--output_dir", "--work_dir"),
    compare.main: ("--unranked",),
    results.main: ("--output_dir", "--num_samples"),
    shards.main: ("info", "verify", "export", "upload", "pack", "extract", "--output_dir", "--format", "--remove", "memory://x/y"),
    convert.main: (*converters.commands(), "--config", "--latent", "--text_encoder", "text-to-audio", "vae=x"),
}
PREPARED = (  # configs for preparation
    "tta/autoencoderkl/tiny.json", "tta/audioldm/tiny.json", "tta/hifigan/tiny.json", "a2i/audiotoken/tiny.json",
    "i2a/im2wav/tiny_low.json", "i2a/im2wav/tiny_vqvae.json",
)  # fmt: skip
Case = tuple[Callable[[list[str]], None], list[str]]


class OutOfTime(BaseException):
    """A case takes too long; no OSError like TimeoutError, which the command line reports."""


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values and sections in nested content."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def mutate(draw: random.Random, content: Any) -> None:
    """Remove, rename, replace or nest one value of nested content, in place."""
    *path, key = draw.choice(list(leaves(content)) or [("x",)])
    for part in path:
        content = content[part]
    action = draw.choice(("remove", "rename", "replace", "replace", "replace", "nest"))
    if isinstance(content, list) or action == "replace":
        content[key] = draw.choice(VALUES)
    elif action == "nest":
        content[key] = draw.choice(([content.get(key)], {key: content.get(key)}))
    else:
        value = content.pop(key, None)
        content |= {draw.choice((f"{key}x", key[1:], key.upper(), f"{key}.x", "")): value} if action == "rename" else {}


def garble(draw: random.Random, text: str) -> bytes:
    """Cut, or insert something into, the text of a file."""
    place = draw.randrange(len(text) + 1)
    text = text[:place] + (draw.choice((draw.choice(SNIPPETS) + text[place:], "")))
    return text.encode("utf-8", "surrogatepass")


def write(draw: random.Random, path: Path, text: str) -> None:
    path.write_bytes(garble(draw, text) if draw.random() < 0.2 else text.encode("utf-8", "backslashreplace"))


def argument(value: Any) -> str:
    """A command-line argument without the characters that no process can be given."""
    return str(value).replace("\0", "").replace("\ud800", "")


def word(draw: random.Random, key: str) -> str:
    """An override, or nearly one."""
    form = draw.choice(WORDS) if draw.random() < 0.4 else "{0}={1}"
    return argument(form.format(key, draw.choice(VALUES)))


def flags(draw: random.Random, options: Any) -> Iterator[str]:
    """Up to three flags with wrong values, without a value, or misspelt."""
    for flag in draw.sample(found := declared(options), min(draw.choice((0, 1, 3)), len(found))):
        yield f"--{flag.name}" + draw.choice(("", "", "", "x", "=", "=1"))
        if draw.random() < 0.8 and flag.type is not bool:
            yield argument(draw.choice((*NUMBERS, *TEXTS, *(flag.choices or ()))))


def config_case(draw: random.Random, contents: Sequence[dict[str, Any]], folder: Path) -> Case:
    """A mutated config file with flags and overrides."""
    content = json.loads(json.dumps(draw.choice(contents)))
    recipe, keys = content["recipe"], [".".join(map(str, path)) for path in leaves(content)]
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        mutate(draw, content)
    in_yaml = draw.random() < 0.15
    path = folder / ("c.yaml" if in_yaml else "c.json")
    write(draw, path, yaml.dump(content) if in_yaml else json.dumps(content))
    kinds = {kind: getattr(recipe_module(recipe), kind, None) or getattr(shared, kind, None) for kind in COMMANDS}
    kind = draw.choice([kind for kind, options in kinds.items() if options])
    overrides = [word(draw, draw.choice(keys)) for _ in range(draw.choice((0, 0, 1, 2)))]
    needed = {"InferenceOptions": ["--text", "x", "--audio", "x"]}.get(kind, []) if draw.random() < 0.9 else []
    argv = ["--config", str(path), *needed, *overrides, *flags(draw, kinds[kind])]
    return COMMANDS[kind].main, argv


def command_case(draw: random.Random, contents: Sequence[dict[str, Any]], folder: Path) -> Case:
    """A wrong command line: of a recipe with its plain config, or of a command without a config."""
    main = draw.choice([*REST, *(one.main for one in COMMANDS.values())])
    words = [*REST.get(main, ("--config", str(EGS / "tta/audioldm/tiny.json"), "--text", "--audio", "--checkpoint"))]
    words = [one for one in words if draw.random() < 0.8]
    pool = [*words, *TEXTS, *map(str, NUMBERS), "--help", "--x", "-x", "--", "-", "--=", "=", "a=b", str(folder)]
    for _ in range(draw.choice((1, 2, 4))):
        words.insert(draw.randrange(len(words) + 1), argument(draw.choice(pool)))
    return main, ["--readme", str(folder / "page.md"), *words] if main is results.main else words


def sounds(folder: Path) -> list[str]:
    """Good and bad sounds and pictures."""
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    waves = {"a": noise, "b": noise, "eight": np.stack([noise] * 8, 1), "nan": noise * np.nan, "one": noise[:1],
             "inf": noise * np.inf, "zero": noise * 0, "none": noise[:0]}  # fmt: skip
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave, 16000, subtype="FLOAT")
    whole = (folder / "a.wav").read_bytes()
    for name, content in {"cut": whole[:3000], "header": whole[:30], "empty": b"", "text": b"hello\n" * 99}.items():
        (folder / f"{name}.wav").write_bytes(content)
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:50])
    return sorted(path.name for path in folder.iterdir())


def manifest_case(draw: random.Random, contents: Sequence[dict[str, Any]], folder: Path) -> Case:
    """A mutated manifest with good and bad sounds and pictures."""
    names = sounds(folder)
    good = {"Caption": "noise", "Audio": "a.wav", "Image": "a.png"}
    rows: list[Any] = [good | {"Uid": f"r{number}"} for number in range(2)]
    for _ in range(draw.choice((1, 2, 3))):
        row: dict[str, Any] = good | {"Uid": f"x{len(rows)}", "Audio": draw.choice(names)}
        for _ in range(draw.choice((0, 1, 2))):
            row[draw.choice((*manifest.COLUMNS, "Video", "caption_2"))] = draw.choice((*VALUES, *names))
        rows.append(draw.choice(VALUES) if draw.random() < 0.05 else row)
    path = folder / f"m.{draw.choice(('json', 'jsonl', 'csv'))}"
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    if path.suffix == ".csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row)))
        writer.writeheader()
        writer.writerows(row for row in rows if isinstance(row, dict))
        text = table.getvalue()
    write(draw, path, text)
    config, source = EGS / draw.choice(PREPARED), draw.choice((path, path, path, folder))
    argv = ["--config", str(config), "--input", str(source), "--dataset", "d"]
    quick = [f"preprocess.processed_dir='{folder}/data'", "preprocess.num_workers=0"]
    return prepare, [*argv, *quick]


def prepare(argv: list[str]) -> None:
    """Like bins/preprocess.py, which `no_work` replaces."""
    given = command.parse("preprocess", "PreprocessOptions", "", argv)
    recipe_code(given.config.recipe, "data").preprocess(given.config, given.options)


def outcome(case: Case) -> str:
    """Run a case in this process; "" if it passes, else what was wrong."""

    def late(signal_number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            code: Any = cli.run(*case)
    except SystemExit as error:  # --help
        code = error.code
    except (Exception, OutOfTime) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    stderr.flush()
    printed = stderr.buffer.getvalue().decode()  # type: ignore[attr-defined]
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    expected = {0: 0, 2: 1}.get(code)
    return "" if len(errors) == expected and "Traceback" not in printed else f"exit code {code}: {printed}"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end when their configs, flags and data are checked; preparation works."""
    monkeypatch.delenv("SONOLUME_DEBUG", raising=False)

    def start(config: Any, options: Any) -> None:
        runtime.find_checkpoint(options.checkpoint, config, "pretrained/mini/text_to_audio")
        runtime.make_folder(options.output_dir)

    nothing = SimpleNamespace(run=start, preprocess=lambda config, options: None)
    for module in (inference, evaluate, preprocess):
        monkeypatch.setattr(module, "recipe_code", lambda recipe, part: nothing)
    monkeypatch.setattr("sonolume.models.preprocessing.run", lambda config, options: None)
    monkeypatch.setattr(training, "run", lambda config, resume: config.run_dir)
    monkeypatch.setattr(finetuning, "prepare", lambda config, options: None)
    monkeypatch.setattr(build, "build", lambda part, output_dir, work_dir: output_dir)
    monkeypatch.setattr(reports, "shipped_parts", lambda: [])


@pytest.mark.parametrize("count", [200, pytest.param(int(os.environ.get("FUZZ_N", "3000")), marks=pytest.mark.full)])
def test_mutations(count: int, no_work: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(int(os.environ.get("FUZZ_SEED", "0")))
    contents = [load_config(file).to_dict() for file in sorted(EGS.rglob("*.json")) if file.parent.name != "examples"]
    outside = {folder: set(folder.iterdir()) for folder in (tmp_path, EGS.parent, Path.cwd())}
    failures = []
    for number in range(count):
        folder = tmp_path / "a case"
        folder.mkdir()
        monkeypatch.chdir(folder)
        Path("file").touch()
        case = draw.choice((config_case, config_case, command_case, manifest_case))(draw, contents, folder)
        if wrong := outcome(case):
            failures.append(f"{number} {case[0].__module__} {case[1]!r:.600}: {wrong:.200} ... {wrong[-600:]}")
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)
    assert not failures, f"{len(failures)} of {count} failed:\n" + "\n".join(failures)
    assert {folder: set(folder.iterdir()) for folder in outside} == outside
