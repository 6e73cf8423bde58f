"""The exported folder: loaded by stock diffusers, where importing sonolume is an error, and by this library."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from huggingface_hub import HfApi, ModelCard

from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.saved_card import PLAIN

STRANGER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sonolume", "pytorch_lightning"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import numpy, torch
from diffusers import DiffusionPipeline
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    numpy.save(folder + "/wave.npy", pipe("a dog barks", generator=torch.Generator().manual_seed(3)).audios)
"""


def test_stock_diffusers_gives_the_same_sound(make_pipeline, tmp_path: Path):
    """At the official latent sizes, which have odd sides inside the U-Net."""
    folders = {(5, 39): tmp_path / "5x39", (10, 78): tmp_path / "10x78"}
    wanted = {}
    for (height, width), folder in folders.items():
        pipe = make_pipeline(frames=624, levels=5 if height == 5 else 4)
        pipe.set_progress_bar_config(disable=True)
        pipe.register_to_config(num_steps=3)
        pipe.vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 0.5, 2.0, 3.0])
        assert pipe._latent_shape() == (4, height, width)
        pipe.save_pretrained(folder)
        wanted[folder] = pipe("a dog barks", generator=torch.Generator().manual_seed(3)).audios
        assert wanted[folder].shape == (1, 159744)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    argv = [sys.executable, "-c", STRANGER, *map(str, folders.values())]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, wave in wanted.items():
        np.testing.assert_array_equal(np.load(folder / "wave.npy"), wave)


def test_the_folder_is_self_contained(tiny_checkpoint: Path):
    code = {path.name: path.read_text() for path in tiny_checkpoint.glob("*.py")}
    assert {"pipeline.py", "inpainting.py", "windows.py"} <= set(code)
    for name, text in code.items():
        imports = [line for line in text.splitlines() if line.lstrip().startswith(("import ", "from "))]
        assert not [line for line in imports if "sonolume" in line], name
    index = json.loads((tiny_checkpoint / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "TextToAudioPipeline"]
    assert not [path for path in tiny_checkpoint.rglob("*.json") if "_name_or_path" in path.read_text()]
    assert not [path for path in tiny_checkpoint.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_the_shipped_folder_has_no_code_and_its_export_has(root: Path, tmp_path: Path):
    shipped = root / "pretrained" / "mini" / "text_to_audio"
    assert not list(shipped.glob("*.py"))
    TextToAudioPipeline.from_pretrained(shipped).save_pretrained(tmp_path)
    assert (tmp_path / "pipeline.py").is_file()


def test_an_older_name_is_read(copy_of_checkpoint: Path):
    path = copy_of_checkpoint / "model_index.json"
    index = json.loads(path.read_text())
    del index["refine"]
    path.write_text(json.dumps(index | {"polish": 7}))
    assert TextToAudioPipeline.from_pretrained(copy_of_checkpoint).config.refine == 7


def test_our_class_loads_it_without_running_its_code(tiny_checkpoint: Path, copy_of_checkpoint: Path):
    (copy_of_checkpoint / "pipeline.py").write_text("raise SystemExit('executed')")
    pipe = TextToAudioPipeline.from_pretrained(copy_of_checkpoint)
    assert type(pipe) is TextToAudioPipeline


def test_an_exported_folder_can_be_exported_again(copy_of_checkpoint: Path, tmp_path: Path):
    pipe = TextToAudioPipeline.from_pretrained(copy_of_checkpoint)
    pipe.save_pretrained(tmp_path / "again")
    first = json.loads((copy_of_checkpoint / "model_index.json").read_text())
    second = json.loads((tmp_path / "again" / "model_index.json").read_text())
    ignored = "_name_or_path"
    assert {k: v for k, v in first.items() if k != ignored} == {k: v for k, v in second.items() if k != ignored}


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_it_loads_in_half_precision(tiny_checkpoint: Path, dtype: torch.dtype):
    pipe = TextToAudioPipeline.from_pretrained(tiny_checkpoint, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {dtype}
    audios = pipe("a dog barks", num_inference_steps=2).audios
    assert audios.dtype == np.float32 and np.isfinite(audios).all()


def test_the_code_is_written_before_the_upload(make_pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Into the repository `repo_id`, by default of the folder's name; a plain card replaces no other one there."""
    uploads: list[tuple[str, str, set[str]]] = []
    cards_there = [False]

    def upload(_: HfApi, *, repo_id: str, folder_path: Path, commit_message: str, **__: object) -> str:
        uploads.append((repo_id, commit_message, {path.name for path in folder_path.iterdir()}))
        return ""

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **__: SimpleNamespace(repo_id=f"me/{name}"))
    monkeypatch.setattr(HfApi, "file_exists", lambda *_, **__: cards_there[0])
    make_pipeline().save_pretrained(tmp_path / "bells", push_to_hub=True, commit_message="Bells")
    cards_there[0] = True
    make_pipeline().push_to_hub("bells")
    (name, message, files), (_, _, without) = uploads
    assert (name, message) == ("me/bells", "Bells")
    assert {"pipeline.py", "sampling.py", "saved_card.py", "model_index.json", "README.md"} <= files
    assert files - without == {"README.md"}


def test_the_card_of_the_same_weights_is_kept(copy_of_checkpoint: Path, tmp_path: Path):
    """Also in stock diffusers. Other weights get a plain card, and a card of somebody else stays."""
    (copy_of_checkpoint / "README.md").write_text(f"{PLAIN}\nOf these weights.\n")
    stock = DiffusionPipeline.from_pretrained(copy_of_checkpoint, trust_remote_code=True)
    for number, pipe in enumerate((TextToAudioPipeline.from_pretrained(copy_of_checkpoint), stock)):
        pipe.save_pretrained(tmp_path / f"same {number}")
        assert (tmp_path / f"same {number}" / "README.md").read_text().endswith("Of these weights.\n")
    pipe = TextToAudioPipeline.from_pretrained(copy_of_checkpoint)
    next(pipe.unet.parameters()).data += 1
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "README.md").write_text("mine")
    for folder in (tmp_path / "other", tmp_path / "own", copy_of_checkpoint):
        pipe.save_pretrained(folder)
    cards = [(place / "README.md").read_text() for place in (tmp_path / "other", tmp_path / "own", copy_of_checkpoint)]
    assert cards == [PLAIN, "mine", PLAIN] and ModelCard(PLAIN).data.pipeline_tag == "text-to-audio"


@torch.no_grad()
def test_the_folder_of_a_unet_says_how_it_is_loaded(tiny_checkpoint: Path):
    blocks = re.findall(r"```python\n(.+?)```", (tiny_checkpoint / "unet" / "README.md").read_text(), re.DOTALL)
    given = {"unet_folder": tiny_checkpoint / "unet"}
    exec(blocks[1], given)
    x, states = torch.randn(1, 6, 5, 39), torch.randn(1, 3, 16)
    wanted = TextToAudioPipeline.from_pretrained(tiny_checkpoint).unet(x, 5, states).sample
    assert given["unet"](x, 5, states).sample.equal(wanted)
    stock = UNet2DConditionModel.from_pretrained(tiny_checkpoint / "unet")(x, 5, states).sample
    assert "wrong" in (tiny_checkpoint / "unet" / "README.md").read_text() and (stock - wanted).abs().max() > 1e-3
