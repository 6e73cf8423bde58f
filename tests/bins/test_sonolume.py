"""The command sonolume: subcommands found by files, recipes by name, copied configs, one line for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sonolume.bins import info, main
from sonolume.config import shipped, sources
from sonolume.config.load import load_config
from sonolume.utils import cli, paths

START = """
import atexit, sys
from sonolume.bins import main
atexit.register(lambda: print("torch" in sys.modules))
sys.exit(main.command_line())
"""


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is restored after each test."""
    monkeypatch.setenv("SONOLUME_COMMAND", "")


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    try:
        code = cli.run(main.main, list(argv))
    except SystemExit as stopped:  # argparse, after --help
        code = int(stopped.code or 0)
    return code, *capsys.readouterr()


def mistake(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that answers a mistake."""
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_files_are_commands(root: Path) -> None:
    files = {path.stem for path in (root / "bins").glob("*.py")}
    assert set(main.commands()) == files - {"__init__", "environment", "main"}
    assert all(text and "python" not in text for text in main.commands().values())


def test_a_new_file_is_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dance.py").write_text('"""Dance: python bins/dance.py"""\ndef main(argv): ...\n')
    (tmp_path / "helper.py").write_text('"""Steps."""\ndef step(): ...\n')
    monkeypatch.setattr(main, "__file__", str(tmp_path / "main.py"))
    assert main.commands() == {"dance": "Dance"}


def test_help_lists_the_commands_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", START, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert all(f"\n    {name} " in done.stdout for name in main.commands())
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("name", main.commands())
def test_each_command_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, page, _ = run(capsys, name, "--help")
    assert code == 0 and page.startswith(f"usage: sonolume {name} ")


def test_help_of_a_command_in_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "recipes: " in run(capsys, "inference", "--help")[1]
    code, page, _ = run(capsys, "inference", "tta/audioldm", "--help")
    assert code == 0 and "--text TEXT" in page and page.startswith("usage: sonolume inference ")


def test_no_arguments_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys)[1].startswith("usage: sonolume ")
    assert run(capsys, "--version")[1].startswith("sonolume 0.")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["infer"], "'infer', did you mean inference? (there are: build, "),
        (["--halp"], "did you mean --help?"),
        (["inference", "tta/audioldn"], "tta/audioldn: no recipe's config has this name: did you mean tta/audioldm?"),
        (["train", "tta/audioldm/tinny"], "did you mean tta/audioldm/tiny?"),
        (["train", "xyz"], "sonolume configs lists them"),
        (["train", "mine.json"], "mine.json: is a file: write --config mine.json"),
        (["train"], "no config: name a recipe first, such as tta/audioldm, or give --config FILE"),
        (["inference", "tta/audioldm", "--txt", "x"], "sonolume inference: unknown flag --txt, did you mean --text?"),
        (["configs", "tta/audioldn"], "did you mean tta/audioldm?"),
        (["configs", "tta/audioldm", "--to", "mine.json"], "--to mine.json: is a file"),
        (["info", "now"], "unexpected argument 'now'"),
    ],
)
def test_a_mistake_is_one_line(
    argv: list[str], message: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.json").touch()
    assert message in mistake(capsys, *argv)


def test_names_of_configs(root: Path) -> None:
    egs = root / "egs"
    for name in ("tta/audioldm", "tta/audioldm/exp_config"):
        assert shipped.find(name, "inference") == egs / "tta/audioldm/exp_config.json"
    assert shipped.find("tta/audioldm/tiny", "train") == egs / "tta/audioldm/tiny.json"
    assert shipped.find("tta/audioldm", "finetune") == egs / "tta/audioldm/finetune.json"  # as in run_finetune.sh
    assert shipped.find("mini/clip", "train") == egs / "mini/clip.json"
    assert sorted(shipped.configs().values()) == sorted(egs.rglob("*.json"))


def test_a_recipe_by_name_or_by_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sonolume.bins import train

    ran = []
    monkeypatch.setattr(train.launch, "check_run", lambda folder, _: ran.append(folder))
    monkeypatch.setattr(train.launch, "check_data", lambda _: sys.exit(0))
    for argv in (["tta/hifigan/tiny"], ["--config", str(root / "egs/tta/hifigan/tiny.json")]):
        with pytest.raises(SystemExit):
            main.main(["train", *argv, "exp_name=named"])
    assert ran == [root / "ckpts/tta/named"] * 2 and os.environ["SONOLUME_COMMAND"] == "sonolume train"


def test_configs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run(capsys, "configs")[1].splitlines()
    assert [row.split()[0] for row in rows] == list(shipped.configs())
    assert all(len(row.split()) > 3 for row in rows)  # described
    assert run(capsys, "configs", "tta/audioldm")[1].splitlines()[0].split()[0] == "tta/audioldm"


def test_configs_are_copied(root: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "configs", "tta/audioldm", "--to", "my/")
    assert code == 0 and sorted(out.split()) == sorted(map(str, Path("my").iterdir()))
    egs = root / "egs"
    for file in (egs / "tta/audioldm").glob("*.json"):
        assert load_config(Path("my") / file.name) == load_config(file)
    refused = mistake(capsys, "configs", "tta/audioldm/tiny", "--to", "my")
    assert "my/tiny.json: exists and is not overwritten" in refused


def test_one_config_is_copied_with_its_bases(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "configs", "i2a/im2wav/tiny", "--to", "a/b")[0] == 0
    assert {path.name for path in Path("a/b").iterdir()} == {"tiny.json", "tiny_low.json"}
    assert load_config("a/b/tiny.json").recipe == "i2a/im2wav"


def test_all_configs_are_copied(root: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "configs", "--to", "all")[0] == 0
    assert {path.relative_to("all") for path in Path("all").rglob("*.json")} == {
        path.relative_to(root / "egs") for path in (root / "egs").rglob("*.json")
    }


@pytest.mark.parametrize("name", shipped.configs())
def test_a_base_is_in_the_folder_of_its_config(name: str) -> None:
    """Otherwise a copy of a recipe's configs would lack it."""
    assert len({Path(source.name).parent for source in sources.read(shipped.find(name))}) == 1


def test_info(root: Path, in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = in_folder / "ckpts" / "tta" / "mine"
    (run_dir / "pipeline").mkdir(parents=True)
    (run_dir / "config.json").write_text(json.dumps({"recipe": "tta/audioldm"}))
    (in_folder / "ckpts" / "tta" / "unfinished").mkdir()
    monkeypatch.setattr(paths, "work_dir", lambda: in_folder)
    monkeypatch.setattr(info, "devices", lambda: ["cpu"])  # without the import of torch
    lines = dict(line.split(maxsplit=1) for line in run(capsys, "info")[1].splitlines())
    assert lines["package"] == f"{root} (checkout)" and lines["Python"].startswith("3.")
    assert "text_to_audio" in lines["shipped"] and lines["devices"] == "cpu"
    assert lines["trained"] == f"model      tta/audioldm: {run_dir / 'pipeline'}"


def test_the_devices() -> None:
    assert next(info.devices()).startswith("cpu (")
