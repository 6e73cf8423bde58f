"""Every command of the pages is understood by its script, and every Python block runs."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonolume.bins import build, compare, convert, converters, shards, web
from sonolume.config import command
from sonolume.models import publish
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from sonolume.web import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "egs").rglob("*.md"))]
PAGES += sorted((ROOT / "pretrained").rglob("*.md"))
APP = ROOT / "egs" / "web" / "README.md"  # its blocks need a running server: tests/web/test_api.py
GUIDE = ROOT / "egs" / "ADD_A_RECIPE.md"  # its blocks are the files of a recipe that does not exist
KINDS = {"preprocess": "Preprocess", "train": "Train", "finetune": "Finetune", "inference": "Inference"}
KINDS |= {"evaluate": "Evaluation", "distill": "Distill"}
RECORD = """#!/bin/sh
case "$*" in *version_info* | "-P -c"*) exit 0 ;; esac
{ printf '%s\\037' "$@"; printf '\\n'; } >>"$RECORD"
"""
SUBCOMMAND = """#!/bin/sh
name=$1
shift
exec "$PYTHON" "bins/$name.py" "$@"
"""
CONTINUED = re.compile(r"\\\n\s*")


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.+?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [CONTINUED.sub("", block) for block in found] if language == "sh" else found


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def place(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory like the checkout, in which blocks may write."""
    for name in ("egs", "pretrained"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recorded(place: Path) -> Callable[[str], list[list[str]]]:
    """A function that runs a block in a shell whose only programs note their arguments, and returns these."""
    programs = place / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "torchrun", "pip", "hf", "make"):
        (programs / name).write_text(RECORD)
        (programs / name).chmod(0o755)
    (programs / "sonolume").write_text(SUBCOMMAND)
    (programs / "sonolume").chmod(0o755)
    for tool in ("sh", "dirname"):
        (programs / tool).symlink_to(str(shutil.which(tool)))

    def run(block: str) -> list[list[str]]:
        record = place / "record"
        record.write_text("")
        env = {"PATH": str(programs), "PYTHON": str(programs / "python"), "RECORD": str(record)}
        subprocess.run(["/bin/sh", "-c", block], cwd=place, env=env, capture_output=True, check=False)
        return [line.split("\037")[:-1] for line in record.read_text().splitlines()]

    return run


def parse(script: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command as its script does, without the work."""
    if script in KINDS:
        for flag, value in pairwise(argv):  # the reader's own sounds, captions ...
            theirs = flag.startswith("--") and not value.startswith(("--", "egs/", "pretrained/"))
            if theirs and flag not in ("--config", "--output_dir", "--text") and not Path(value).exists():
                Path(value).parent.mkdir(parents=True, exist_ok=True)
                Path(value).write_text("rain falls") if Path(value).suffix else Path(value).mkdir()
        command.parse(script, f"{KINDS[script]}Options", "", argv)
    elif script == "build":
        monkeypatch.setattr(build, "build", lambda *_: "")
        build.main(argv)
    elif script == "convert":
        kinds = {name: (lambda _: None, kind) for name, (_, kind) in converters.commands().items()}
        monkeypatch.setattr(converters, "commands", lambda: kinds)
        convert.main(argv)
    elif script == "web":
        for flag, value in pairwise(argv):
            if flag == "--auth_file":
                Path(value).write_text("ada:password")
                Path(value).chmod(0o600)
        monkeypatch.setattr(app, "launch", lambda *_: None)
        web.main(argv)
    elif script == "publish":
        monkeypatch.setattr(publish, "plan", lambda *_: publish.Plan(Path()))
        monkeypatch.setattr(publish, "upload", lambda *_: "")
        importlib.import_module("sonolume.bins.publish").main(argv)
    elif script == "shards":
        monkeypatch.setattr(shards, "ACTIONS", dict.fromkeys(shards.ACTIONS, lambda _: None))
        shards.main(argv)
    elif script in ("configs", "info"):
        importlib.import_module(f"sonolume.bins.{script}").main(argv)
    else:
        assert script == "compare"
        with pytest.raises(UserError, match="report"):  # which do not exist
            compare.main(argv)


@pytest.mark.parametrize("page", [page for page in PAGES if page != GUIDE and blocks(page, "sh")], ids=page_name)
def test_every_command_is_understood(
    page: Path, recorded: Callable[[str], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(blocks(page, "sh"))
    calls = recorded(text)
    scripts = [call for call in calls if any(argument.endswith(".py") for argument in call)]
    assert len(scripts) >= len(re.findall(r"^ *(?:sh egs/|\.venv/bin/python bins/|sonolume )", text, re.MULTILINE))
    for call in scripts:
        place = next(number for number, argument in enumerate(call) if argument.endswith(".py"))
        assert Path(call[place]).name in os.listdir(ROOT / "bins"), call
        if not any("..." in argument for argument in call):  # such as "[key=value ...]"
            parse(Path(call[place]).stem, call[place + 1 :], monkeypatch)


def test_a_wrong_command_is_found(
    recorded: Callable[[str], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in ("--texts x", "--text x train.no=1", "--config egs/no.json --text x"):
        ((_, *argv),) = recorded(f"sh egs/tta/audioldm/run_inference.sh {line}  # a comment")
        with pytest.raises(UserError):
            parse("inference", argv, monkeypatch)
    assert recorded("sh egs/tta/audioldm/no_such.sh") == []


def run_blocks(page: Path) -> dict[str, Any]:
    """Run the Python blocks of a page, which may use the `pipe` of README's, and `wave`."""
    given: dict[str, Any] = {}
    exec(blocks(ROOT / "README.md", "python")[0], given)
    given["pipe"].set_progress_bar_config(disable=True)
    given["wave"] = np.random.default_rng(0).normal(0, 0.1, 5 * 16000).astype(np.float32)
    for block in blocks(page, "python") if page.parent != ROOT else []:
        exec(block, given)
    return given


@pytest.mark.parametrize("page", ["README.md", "egs/RUNS.md"])
def test_short_python_blocks_run(page: str, place: Path, tiny_checkpoint: Path) -> None:
    """On an untrained pipeline in the place of the shipped one."""
    (place / "pretrained").unlink()
    for name in ("pretrained/mini/text_to_audio", "ckpts/tta/small_audioldm/pipeline"):
        (place / name).parent.mkdir(parents=True)
        shutil.copytree(tiny_checkpoint, place / name)
    given = run_blocks(ROOT / page)
    assert given["audio"].shape == (8192,)


@pytest.mark.full
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in (GUIDE, APP) and page.parent != ROOT and blocks(page, "python")],
    ids=page_name,
)
def test_every_python_block_runs(page: Path, place: Path) -> None:
    from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline

    shipped = ROOT / "pretrained" / "mini"
    TextToAudioPipeline.from_pretrained(shipped / "text_to_audio").save_pretrained("ckpts/tta/small_audioldm/pipeline")
    (place / "ckpts" / "a2i" / "audiotoken").mkdir(parents=True)
    (place / "ckpts" / "a2i" / "audiotoken" / "pipeline").symlink_to(shipped / "audiotoken")
    run_blocks(page)


@pytest.mark.full
def test_the_first_commands_run(place: Path, recorded: Callable[[str], list[list[str]]]) -> None:
    """README's three commands, one after the other: the second one reads what the first one writes."""
    from sonolume.bins import inference

    for _, *argv in recorded(blocks(ROOT / "README.md", "sh")[0]):
        inference.main(argv)
    made = [path.suffix for path in (place / "outputs").iterdir()]
    assert made.count(".wav") == 2 and made.count(".png") >= 3 and made.count(".json") >= 3


@pytest.mark.full
def test_the_example_recipe_works(tmp_path: Path) -> None:
    """The blocks of ADD_A_RECIPE.md, each written to the file named last before it, in a copy of the code."""
    copy, text = tmp_path / "sonolume", GUIDE.read_text(encoding="utf-8")
    for name in ("bins", "config", "models", "modules", "preprocessors", "utils", "web", "egs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", copy)
    named = re.compile(r"`((?:bins|config|models|modules|egs)/[\w/]+\.(?:py|json))`")
    for block in re.finditer(r"^```(?:python|json)\n(.+?)^```", text, re.DOTALL | re.MULTILINE):
        path = copy / named.findall(text[: block.start()])[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block[1], encoding="utf-8")
    recipe, script = copy / "egs" / "demo" / "loudness", blocks(GUIDE, "sh")[0]
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHON": sys.executable}
    audio.save_wav(tmp_path / "tone.wav", np.sin(np.arange(40960) / 9).astype(np.float32), 16000)
    for step, flags in (("preprocess", []), ("train", []), ("inference", ["--audio", "tone.wav"])):
        (recipe / f"run_{step}.sh").write_text(script.replace("run preprocess", f"run {step}"))
        command_line = ["sh", str(recipe / f"run_{step}.sh"), "--config", str(recipe / "tiny.json"), *flags]
        done = subprocess.run(command_line, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert next((tmp_path / "outputs").glob("*.json"))
    listed = [sys.executable, str(copy / "bins" / "convert.py"), "--help"]
    assert "copy-weights" in subprocess.run(listed, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
