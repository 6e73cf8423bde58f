"""Fine-tuning from a pipeline folder on a few clips: what comes out, that it resumes exactly, and what is refused."""

import functools
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sonolume.bins import finetune, inference
from sonolume.config.load import load_config
from sonolume.config.tta.audioldm import FinetuneOptions
from sonolume.models import lora
from sonolume.models.tta.audioldm import run_config
from sonolume.models.tta.audioldm.finetune import configure
from sonolume.models.tta.audioldm.finetune_task import FinetuneTask, load_frozen
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.audioldm.task import Task
from sonolume.utils import audio, checkpoint, cli
from sonolume.utils.errors import UserError
from tests.runs import change_weights, saved

Run = Callable[..., tuple[int, str, str]]


class PowerCut(Exception):
    pass


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three chirps of 0.4 s with captions in text files."""
    folder = tmp_path_factory.mktemp("input") / "my clips"
    folder.mkdir()
    for number in range(3):
        time = np.arange(6400) / 16000
        audio.save_wav(folder / f"chirp{number}.wav", 0.5 * np.sin(6000 * (1 + number) * time**2), 16000)
        (folder / f"chirp{number}.txt").write_text("a rising chirp\na chirp\n")
    return folder


@pytest.fixture
def run(
    root: Path, clips: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """run(name, *arguments) -> (exit code, stdout, error lines): 8 steps of finetune.json, from the tiny pipeline."""
    small = {
        "batch_size": 2, "max_steps": 8, "accumulate": 2, "warmup_steps": 2, "valid_interval": 4,
        "save_checkpoints_steps": 4, "save_summary_steps": 1, "accelerator": "cpu", "devices": 1, "adam.lr": 1e-2,
    }  # fmt: skip
    monkeypatch.setattr(Task, "_preview", lambda task: None)  # 20 steps of denoising at every validation
    shared = [f"train.{name}={value}" for name, value in small.items()]
    shared += [f"log_dir='{tmp_path}'", f"preprocess.processed_dir='{tmp_path}/data'", "preprocess.num_workers=0"]

    def run(name: str, *arguments: str, checkpoint: Path | None = tiny_checkpoint) -> tuple[int, str, str]:
        argv = ["--config", str(root / "egs/tta/audioldm/finetune.json"), *shared, f"exp_name={name}"]
        argv += [] if "--input" in arguments else ["--input", str(clips)]
        argv += [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        capsys.readouterr()
        code = cli.run(finetune.main, [*argv, *arguments])
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith(("error", "Traceback"))]
        return code, captured.out, "\n".join(errors)

    return run


def last(folder: Path) -> dict[str, Any]:
    return checkpoint.read(folder / "checkpoints" / "last.ckpt")


def losses(folder: Path) -> list[float]:
    """val/loss, of fixed noise on the clips themselves."""
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return [event.value for event in board.Scalars("val/loss")]


def test_full_gives_a_pipeline_that_differs_in_its_unet_alone(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    code, printed, errors = run("full")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[-1] == str(tmp_path / "full" / "pipeline")
    assert "val/loss is measured on the training clips" in printed
    assert losses(tmp_path / "full")[-1] < losses(tmp_path / "full")[0] * 0.95
    new, old = tmp_path / "full" / "pipeline", tiny_checkpoint
    names = {str(path.relative_to(old)) for path in old.rglob("*") if path.is_file()} | {"sonolume.json"}
    assert {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()} == names
    for part in ("vae/diffusion_pytorch_model", "text_encoder/model", "unet/diffusion_pytorch_model"):
        weights, before = (load_file(folder / f"{part}.safetensors") for folder in (new, old))
        assert weights.keys() == before.keys()
        same = all(weight.equal(before[name]) for name, weight in weights.items())
        assert same == (not part.startswith("unet"))
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        facts, before = (json.loads((folder / name).read_text()) for folder in (new, old))
        assert {**facts, "_name_or_path": None} == {**before, "_name_or_path": None}
    config = load_config(tmp_path / "full" / "config.json")
    assert (config.preprocess.frames, config.dataset) == (32, ["my_clips"])
    assert config.model.audioldm.channel_mult == [1, 1, 2]


def test_lora_gives_a_small_file_that_has_an_effect(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    everywhere = "model.lora.targets=[attention,feedforward,convolution]"
    code, printed, errors = run("lora", "--method", "lora", "train.max_steps=16", "train.adam.lr=0.03", everywhere)
    assert (code, errors) == (0, "")
    folder = tmp_path / "lora"
    assert printed.splitlines()[-1] == str(folder / "lora")
    assert {path.name for path in folder.iterdir()} == {".lock", "config.json", "checkpoints", "tensorboard", "lora"}
    assert losses(folder)[-1] < losses(folder)[0] * 0.95
    assert all("lora_" in name for name in last(folder)["state_dict"])  # nothing frozen
    states = last(folder)["optimizer_states"][0]["state"]
    assert len(states) == len(last(folder)["state_dict"])

    pipe = TextToAudioPipeline.from_pretrained(tiny_checkpoint)

    def latent() -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipe("a chirp", num_inference_steps=2, generator=generator, output_type="latent").audios

    base = latent()
    lora.load(pipe, folder / "lora" / lora.FILE, scale=0)
    assert latent().equal(base)
    lora.load(pipe, folder / "lora" / lora.FILE)
    assert (latent() - base).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["lora", "full"])
def test_resume_is_exact(run: Run, tmp_path: Path, method: str) -> None:
    settings = ["--method", method, "train.ema_decay=0.8", "model.lora.rank=2"]
    assert run("straight", *settings)[0] == 0
    step = Task.training_step

    @functools.wraps(step)  # Lightning looks at the signature
    def cut(task: Any, batch: Any, batch_index: int) -> Any:
        if batch_index == 11:
            raise PowerCut
        return step(task, batch, batch_index)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Task, "training_step", cut)
        run("killed", *settings)
    assert last(tmp_path / "killed")["callbacks"]["Position"]["batches"] == 8
    resumed = run("killed", *settings, "--resume", checkpoint=None)  # it remembers where it began
    assert resumed[0] == 0, resumed
    one, two = last(tmp_path / "straight"), last(tmp_path / "killed")
    for key in ("state_dict", "current_model_state"):
        assert one[key].keys() == two[key].keys() and all(one[key][name].equal(two[key][name]) for name in one[key])
    assert any(not one["state_dict"][name].equal(weight) for name, weight in one["current_model_state"].items())
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (one, two)]
    assert all(moments[0][i][key].equal(moments[1][i][key]) for i in moments[0] for key in moments[0][i])
    exported = "lora/pytorch_lora_weights" if method == "lora" else "pipeline/unet/diffusion_pytorch_model"
    first, second = (load_file(tmp_path / name / f"{exported}.safetensors") for name in ("straight", "killed"))
    assert first and all(weight.equal(second[name]) for name, weight in first.items())


def test_adapters_resume_only_with_the_weights_they_started_from(
    run: Run, copy_of_checkpoint: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = ["--method", "lora", "model.lora.rank=2"]
    assert run("run", *settings, "train.max_steps=1", checkpoint=copy_of_checkpoint)[0] == 0
    code, _, error = run("run", *settings, "--resume")
    assert code == 2 and f"{copy_of_checkpoint}, not from {tiny_checkpoint}" in error
    pipe = TextToAudioPipeline.from_pretrained(copy_of_checkpoint)
    pipe.unet.conv_out.bias.data += 1
    shutil.rmtree(copy_of_checkpoint)
    pipe.save_pretrained(copy_of_checkpoint)
    code, _, error = run("run", *settings, "--resume", checkpoint=None)
    assert code == 2 and "its weights differ" in error


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_run_resumes_beside_the_weights_that_it_began_with(part: str, root: Path, copy_of_checkpoint: Path) -> None:
    """One of them was trained anew at the same path."""
    config = load_config(root / "egs/tta/audioldm/finetune.json", ["dataset=[x]"])
    config = configure(config, FinetuneOptions(checkpoint=str(copy_of_checkpoint)), [])

    def task() -> FinetuneTask:
        return FinetuneTask(config, load_frozen(config))

    content = saved(task())
    task().on_load_checkpoint(content)
    change_weights(copy_of_checkpoint / part)
    with pytest.raises(UserError, match=f"model.pretrained {copy_of_checkpoint}: these are not the weights"):
        task().on_load_checkpoint(content)


def test_a_config_that_contradicts_the_pipeline(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    code, _, error = run("run", "preprocess.frames=64")
    assert code == 2 and "preprocess.frames: 64 contradicts" in error
    config = tmp_path / "mine.json"
    base = Path(finetune.__file__).parent.parent / "egs/tta/audioldm/finetune.json"
    mine = {"base_config": str(base), "model": {"noise_scheduler": {"prediction_type": "flow"}}}
    config.write_text(json.dumps(mine))
    code, _, error = run("run", "--config", str(config))
    assert code == 2 and "mine.json: model.noise_scheduler.prediction_type: flow" in error


def damage(kind: str) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        if kind == "vae":
            return folder / "vae"
        if kind == "run":
            folder.rename(folder.with_name("pipeline"))
            return folder.parent
        if kind == "other":
            path = folder / "model_index.json"
            path.write_text(path.read_text().replace("TextToAudioPipeline", "StableDiffusionPipeline"))
        elif kind == "no unet":
            (folder / "unet" / "config.json").unlink()
        elif kind == "broken":
            (folder / "scheduler" / "scheduler_config.json").write_text("{")
        elif kind == "unet":
            (folder / "unet" / "config.json").write_text('{"block_out_channels": [8]}')
        elif kind == "cut":
            path = folder / "unet" / "diffusion_pytorch_model.safetensors"
            path.write_bytes(path.read_bytes()[:-100])
        return folder

    return spoil


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vae", "holds AutoencoderKL"),
        ("run", "pipeline?"),
        ("other", "holds StableDiffusionPipeline, not TextToAudioPipeline"),
        ("no unet", "unet/config.json: no such file"),
        ("broken", "scheduler_config.json"),
        ("unet", "unet/config.json"),
        ("cut", "diffusion_pytorch_model.safetensors: cut or damaged"),
    ],
)
def test_a_wrong_checkpoint_is_one_line(run: Run, copy_of_checkpoint: Path, kind: str, message: str) -> None:
    code, _, error = run("run", checkpoint=damage(kind)(copy_of_checkpoint))
    assert code == 2 and message in error and error.count("\n") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "lora", "model.lora.rank=0"], "model.lora.rank"),
        (["model.lora.targets=[]"], "model.lora.targets"),
        (["model.lora.targets=[to_q]"], "targets[0]"),
        (["--method", "lora", "train.compile=true"], "train.compile"),
        (["--input", "no such folder"], "--input no such folder"),
        (["--checkpoint", "./no/such"], "--checkpoint ./no/such"),
        (["--checkpoint", "nobody/nothing"], "--checkpoint nobody/nothing"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_a_mistake_is_one_line(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, error = run("run", *arguments)
    assert code == 2 and message in error and error.count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_lora_without_peft_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name, *rest))
    code, _, error = run("run", "--method", "lora")
    assert code == 2 and f"{shlex.quote(sys.executable)} -m pip install -e" in error and '[lora]"' in error


def test_clips_without_captions(run: Run, clips: Path, tmp_path: Path) -> None:
    silent = tmp_path / "uncaptioned"
    silent.mkdir()
    shutil.copy(clips / "chirp0.wav", silent)
    code, _, error = run("run", "--input", str(silent))
    assert code == 2 and "not one usable clip (1 no caption)" in error


def test_a_recipe_without_fine_tuning(root: Path, capsys: Any) -> None:
    assert cli.run(finetune.main, ["--config", str(root / "egs/tta/autoencoderkl/tiny.json")]) == 2
    assert "tta/autoencoderkl" in capsys.readouterr().err


def test_the_config_of_the_run_travels_in_its_export(tmp_path: Path, root: Path, tiny_checkpoint: Path) -> None:
    """It gives the same as the components' configs, and names no local folder."""
    config = load_config(root / "egs/tta/audioldm/exp_config.json", [f"model.vocoder='{tmp_path}/some/vocoder'"])
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "pipeline"))
    before = run_config.read(folder)
    assert before["model"]["audioldm"]["model_channels"] == 8 and before["preprocess"]["frames"] == 32
    run_config.save(config, folder)
    assert str(tmp_path) not in (folder / "sonolume.json").read_text()
    after = run_config.read(folder)
    assert after["model"]["audioldm"]["model_channels"] == 256 and after["preprocess"]["frames"] == 624
    assert after["model"]["vocoder"] == "" and after["model"]["text_encoder"] == str(folder)


def test_the_shipped_pipeline_has_the_config_of_its_recipe(root: Path) -> None:
    config = load_config(root / "egs/tta/audioldm/tiny.json")
    found = run_config.read(root / "pretrained/mini/text_to_audio")["model"]
    assert found["refine"] == config.model.refine == 16
    assert found["audioldm"]["model_channels"] == config.model.audioldm.model_channels
    assert found["noise_scheduler"]["prediction_type"] == "flow"


def test_the_config_of_a_pipeline_is_read_without_torch(tiny_checkpoint: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sonolume.models.tta.audioldm import run_config\n"
        f"facts = run_config.read(Path({str(tiny_checkpoint)!r}))\n"
        "print(facts['preprocess']['frames'], *{'torch', 'numpy', 'diffusers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "32"


def test_without_a_checkpoint_the_shipped_one_is_named(
    run: Run, root: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sonolume.models.tta.audioldm import finetune as recipe

    seen: list[Path] = []
    monkeypatch.setattr(recipe.run_config, "read", lambda folder: (seen.append(folder), sys.exit("enough"))[0])
    with pytest.raises(SystemExit):
        run("run", checkpoint=None)
    assert seen == [root / recipe.SHIPPED]
    assert "fine-tuning pretrained/mini/text_to_audio" in capsys.readouterr().err


def test_the_tuned_pipeline_is_what_inference_takes(run: Run, root: Path, tmp_path: Path) -> None:
    assert run("run", "train.max_steps=1")[0] == 0
    argv = ["--config", str(root / "egs/tta/audioldm/finetune.json"), "exp_name=run", f"log_dir='{tmp_path}'"]
    out = ["--output_dir", str(tmp_path / "out"), "--text", "a chirp", "--num_steps", "2"]
    assert cli.run(inference.main, [*argv, *out]) == 0
    assert json.loads((tmp_path / "out/a_chirp_0.json").read_text())["model"] == str(tmp_path / "run" / "pipeline")
