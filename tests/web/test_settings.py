"""Flags of `sonolume web`: one line for every mistake, before Gradio is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from sonolume.bins import web
from sonolume.utils import cli
from sonolume.utils.errors import UserError
from sonolume.web import app
from sonolume.web.settings import Settings


def test_by_default_only_this_computer_can_connect() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1" and not settings.is_public and settings.users() == []
    assert Settings(host="0.0.0.0").is_public


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--share"], "--auth_file"),
        (["--port", "0"], "--port must be from 1 to 65535"),
        (["--root_path", "sound/"], "like /sound"),
        (["--checkpoint", "tta/audioldm"], "RECIPE=FOLDER_OR_ID"),
        (["--checkpoint", "tta/nothing=x"], "RECIPE=FOLDER_OR_ID with a recipe of"),
        (["--checkpoint", "tta/audioldm=pretrained/mini/nothing"], "no such folder"),
        (["--device", "quantum"], "no such device"),
        (["--auth_file", "missing.txt"], "no such file"),
        (["--max_secs", "3"], "did you mean --max_seconds"),
    ],
)
def test_a_mistake_is_answered_in_one_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(web.main, argv) == 2
    stderr = capsys.readouterr().err
    assert expected in stderr and stderr.count("\n") == 1


def test_users_are_read_from_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("ada:a:b\n\nbob:secret\n")
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        Settings(auth_file=path)
    path.chmod(0o600)
    assert Settings(auth_file=path).users() == [("ada", "a:b"), ("bob", "secret")]
    for wrong in ("ada\n", "ada:\n", "\n"):
        path.write_text(wrong)
        with pytest.raises(UserError, match="user:password"):
            Settings(auth_file=path)


def test_every_tab_has_a_recipe_that_exists() -> None:
    names = [name for name, _ in app.tabs()]
    assert names == [name for name in app.TABS if name in names] and names[0] == "text_to_sound"


def test_help_needs_neither_gradio_nor_torch() -> None:
    code = ("import sys\nfrom sonolume.bins import web\ntry: web.main(['--help'])\nexcept SystemExit: pass\n"
            "print({'torch', 'gradio', 'numpy'} & set(sys.modules))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
