"""Wrong usage is answered before torch is imported, and in a Python without this package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sonolume.config import options
from sonolume.modules import sampling

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (ROOT / "bins").glob("*.py") if path.stem not in ("__init__", "environment"))
CASES = [  # bins/X.py, its config, flags and what the error names
    ("inference", "tta/audioldm/tiny.json", "--text x --preset best", "--preset"),
    ("inference", "tta/audioldm/tiny.json", "--text x --scheduler best", "--scheduler"),
    ("inference", "tta/audioldm/tiny.json", "--text x --device tpu", "--device tpu"),
    ("inference", "tta/audioldm/tiny.json", "--text x --checkpoint ./none", "--checkpoint ./none"),
    ("inference", "tta/audioldm/tiny.json", "--text x --output_dir file", "--output_dir file: is a file"),
    ("inference", "tta/audioldm/tiny.json", "--text x --output_dir /dev/null/x", "--output_dir /dev/null/x"),
    ("inference", "tta/audioldm/tiny.json", "--text x --output_dir ~no_user/x", "--output_dir ~no_user/x"),
    ("inference", "tta/audioldm/tiny.json", f"--text x --output_dir {'x' * 300}", "--output_dir xxx"),
    ("inference", "tta/audioldm/tiny.json", "--text_file file", "file:1: not UTF-8"),
    ("inference", "tta/audioldm/tiny.json", "--text_file empty", "--text_file empty: has no texts"),
    ("inference", "tta/autoencoderkl/tiny.json", "--audio none", "--audio none: no such file"),
    ("inference", "a2i/audiotoken/tiny.json", "--audio none", "--audio none: no such file"),
    ("inference", "i2a/im2wav/tiny.json", "--image none", "--image none: no such file"),
    ("evaluate", "tta/audioldm/tiny.json", "--output_dir file/x", "--output_dir file/x: file is a file"),
    ("evaluate", "tta/audioldm/tiny.json", "--cache_dir file", "--cache_dir file: is a file"),
    ("train", "tta/audioldm/tiny.json", "log_dir='/dev/null/x'", "log_dir /dev/null/x"),
    ("train", "tta/audioldm/tiny.json", "log_dir='~no_user/x'", "log_dir ~no_user/x"),
    ("train", "tta/audioldm/tiny.json", f"exp_name={'x' * 300}", "exp_name"),
    ("train", "tta/autoencoderkl/tiny.json", "log_dir={folder} exp_name=run", "a run exists already"),
    ("train", "tta/autoencoderkl/tiny.json", "log_dir={folder} exp_name=none --resume", "nothing to resume"),
    ("train", "tta/autoencoderkl/tiny.json", "train.num_nodes=2", "train.num_nodes 2: start this command on every"),
    ("train", "tta/hifigan/tiny.json", "log_dir={folder} preprocess.processed_dir={folder}", "prepare the data first"),
    ("train", "i2a/im2wav/tiny_low.json", "log_dir={folder} dataset=[none]", "none/train.json: no such file: prepare"),
    ("finetune", "tta/audioldm/finetune.json",
     "log_dir={folder} exp_name=run --input {folder} --checkpoint pretrained/mini/text_to_audio", "a run exists"),
    ("preprocess", "tta/audioldm/tiny.json", "preprocess.processed_dir='/dev/null/x'", "preprocess.processed_dir"),
    ("finetune", "tta/audioldm/finetune.json", "--input none", "--input none: no such file"),
    ("convert", "", "amphion none file", "folder file: is a file"),
    ("compare", "", "file none", "none: no such"),
    ("build", "", "audiotoken --output_dir file", "--output_dir file: is a file"),
    ("results", "", "--output_dir file/x", "--output_dir file/x: file is a file"),
    ("shards", "", "info none", "none: no such folder"),
    ("shards", "", "verify ftp://x/y", "ftp://x/y: is not the address of a folder"),
    ("shards", "", "export none --output_dir file", "--output_dir file: is a file"),
    ("shards", "", "export none --output_dir x --format zip", "--format: invalid choice: 'zip'"),
]
RUN_ALL = """
import contextlib, importlib, io, json, sys
from sonolume.utils import cli
for name, argv in json.load(sys.stdin):
    main = importlib.import_module(f"sonolume.bins.{name}").main
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = cli.run(main, argv)
    print(json.dumps([code, "torch" in sys.modules, stderr.getvalue()]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, bool, str]]:
    """Exit code, whether torch was imported, and stderr of each case, in one process."""
    folder = tmp_path_factory.mktemp("usage")
    (folder / "file").write_bytes(b"caf\xe9\n")
    (folder / "empty").write_text("\n")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "checkpoints" / "last.ckpt").touch()
    given = [(name, (["--config", str(ROOT / "egs" / config)] if config else []) + flags.format(folder=folder).split())
             for name, config, flags, _ in CASES]  # fmt: skip
    command = [sys.executable, "-c", RUN_ALL]
    done = subprocess.run(command, input=json.dumps(given), cwd=folder, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: "-".join(map(str, CASES[number]))[:60])
def test_a_usage_error_loads_no_torch(answers: list[tuple[int, bool, str]], number: int) -> None:
    code, has_torch, stderr = answers[number]
    assert code == 2 and not has_torch
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and CASES[number][-1] in stderr


def test_the_names_of_samplers() -> None:
    assert set(options.PRESETS) == {name for presets in sampling.PRESETS.values() for name in presets}
    assert set(options.SCHEDULERS) == set(sampling.SCHEDULERS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_python_without_this_package(script: Path) -> None:
    done = subprocess.run([sys.executable, "-E", "-S", str(script)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and f".venv/bin/python bins/{script.name}" in done.stderr
