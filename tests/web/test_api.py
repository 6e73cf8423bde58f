"""The API: the page's snippet runs, and a sound is the same as that of the command line."""

import re
from pathlib import Path

import pytest

from sonolume.bins import inference
from sonolume.utils import cli
from tests.test_pages import APP, blocks

pytestmark = pytest.mark.full
ENDPOINTS = {"/text_to_sound", "/edit_sound", "/sound_to_picture", "/picture_to_sound", "/speech_to_picture"}


def test_the_snippet_of_the_page_runs(server: str, root: Path, tmp_path: Path) -> None:
    (snippet,) = blocks(APP, "python")
    given: dict = {}
    exec(snippet.replace("http://127.0.0.1:7860", server), given)
    wav = Path(given["wav"])
    argv = ["--config", str(root / "egs/tta/audioldm/exp_config.json"), "--text", "A bell rings", "--seed", "1"]
    shipped = ["--checkpoint", str(root / "pretrained/mini/text_to_audio"), "--output_dir", str(tmp_path)]
    assert cli.run(inference.main, [*argv, *shipped]) == 0
    assert (tmp_path / "A_bell_rings_1.wav").read_bytes() == wav.read_bytes()
    assert given["seed"] == 1 and [Path(file).suffix for file in given["files"]][:1] == [".png"]


def test_the_page_lists_the_endpoints(server: str) -> None:
    from gradio_client import Client

    client = Client(server, verbose=False)
    assert set(client.view_api(print_info=False, return_format="dict")["named_endpoints"]) == ENDPOINTS
    assert set(re.findall(r"`(/\w+)`", APP.read_text(encoding="utf-8"))) == ENDPOINTS
