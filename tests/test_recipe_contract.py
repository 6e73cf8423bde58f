"""The contract of every recipe, tested in the miniature world for every tiny config under egs/.

A recipe is covered as soon as it has a file egs/TASK/RECIPE/tiny*.json: it prepares data, trains, resumes exactly after
a power cut, exports with a model card, generates from its export, and answers mistakes with one line. A config that
names the exported folder of another tiny config, such as an autoencoder, is trained after it; of a recipe of several
trainings, the last one generates.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open

from sonolume.bins import evaluate, inference, preprocess, train
from sonolume.config import command
from sonolume.config import options as shared
from sonolume.config.load import load_config, recipe_module
from sonolume.config.options import Options, declared
from sonolume.models.progress import Step
from sonolume.models.recipes import recipe_code
from sonolume.models.training import RecipeTask
from sonolume.preprocessors.miniworld import world
from sonolume.utils import audio, cli, paths
from tests import runs

EGS = Path(__file__).resolve().parent.parent / "egs"
FILES = sorted([*EGS.glob("*/*/tiny*.json"), *EGS.glob("mini/*.json")])
CONFIGS = {file: load_config(file) for file in FILES}
RECIPES = list({CONFIGS[file].recipe: file for file in FILES}.values())  # a file of each recipe
MAKERS = {config.run_dir / "pipeline": file for file, config in CONFIGS.items()}  # exported folder -> its file
SCENES = {"train_scenes": 6, "valid_scenes": 3}
PATHS = {"miniworld_captions": 8, "valid_paths": 2, "path_steps": 4}  # of a teacher
WINDOW = 20480  # samples of im2wav, half of those of its configs
TRAIN = {
    "max_steps": 2, "batch_size": 2, "save_checkpoints_steps": 1, "save_summary_steps": 1, "valid_interval": 2,
    "valid_batches": 1, "num_workers": 0, "num_threads": 1, "accelerator": "cpu", "devices": 1,
}  # fmt: skip
INPUTS = ("audio", "image", "video", "text")  # the first of these flags is given to inference
QUICK = {"num_steps": "2", "num_samples": "1", "preset": "fast", "device": "cpu"}


def name(file: Path) -> str:
    return str(file.relative_to(EGS).with_suffix(""))


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("train.adam.lr", 1e-4) ... of a config."""
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def needed(file: Path) -> Iterator[Path]:
    """Files whose exported folders a config names."""
    values = (value for _, value in leaves(CONFIGS[file]) if isinstance(value, str))
    return (maker for value in values if (maker := MAKERS.get(paths.resolve(value))))


def generating() -> list[Path]:
    """Files whose exports generate samples: not those of which another training of their recipe makes use."""
    stages = {maker for file in FILES for maker in needed(file) if CONFIGS[maker].recipe == CONFIGS[file].recipe}
    return [file for file in FILES if hasattr(recipe_module(CONFIGS[file].recipe), "InferenceOptions")
            and file not in stages]  # fmt: skip


@dataclasses.dataclass
class Workshop:
    """Trains every config at most once, and before it the configs whose exports it needs."""

    folder: Path
    exports: dict[Path, Path] = dataclasses.field(default_factory=dict)

    def overrides(self, file: Path) -> list[str]:
        """Overrides for a run of seconds in this folder, with the exports it needs."""
        found = [f"train.{key}={value}" for key, value in TRAIN.items()]
        found += [f"exp_name=straight_{file.stem}", f"log_dir='{self.folder}/{name(file.parent)}'"]
        for key, value in leaves(CONFIGS[file]):
            if (field := key.rpartition(".")[2]) in SCENES:
                found.append(f"{key}={SCENES[field]}")
            elif key == "preprocess.window" and CONFIGS[file].recipe == "i2a/im2wav":
                found.append(f"{key}={WINDOW}")
            elif field in PATHS and CONFIGS[file].recipe == "mini/turbo":
                found.append(f"{key}={PATHS[field]}")
            elif field in ("processed_dir", "cache_dir"):
                found.append(f"{key}='{self.folder}/data'")
            elif key == "evaluation.num_samples":
                found.append(f"{key}=0")
            elif isinstance(value, str) and (maker := MAKERS.get(paths.resolve(value))):
                found.append(f"{key}='{self.export(maker)}'")
        return found

    def export(self, file: Path) -> Path:
        """The exported folder of a config, trained now if it is not yet."""
        if file not in self.exports:
            overrides = self.overrides(file)
            if any(key.endswith("processed_dir") for key, _ in leaves(CONFIGS[file])):
                assert cli.run(preprocess.main, ["--config", str(file), *overrides]) == 0
            config = load_config(file, overrides)
            self.exports[file] = runs.train(config) / RecipeTask.export_folder
        return self.exports[file]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("a contract"))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_training_resumes_exactly_and_exports(workshop: Workshop, file: Path) -> None:
    folder = workshop.export(file)
    config = load_config(file, [*workshop.overrides(file), f"exp_name=broken_{file.stem}"])
    with pytest.raises(runs.PowerCut):
        runs.train(config, at=(config.train.accumulate, runs.cut_power))  # the first optimizer step is saved
    assert runs.last(config.run_dir)["callbacks"]["Position"]["batches"] == config.train.accumulate
    runs.train(config, resume=True)
    runs.assert_same_training(folder.parent, config.run_dir)

    assert load_config(config.run_dir / "config.json") == config
    weights = list(folder.rglob("*.safetensors"))
    assert weights and not list(workshop.folder.rglob(".tmp-*"))
    for path in weights:
        with safe_open(path, "np") as file_of_weights:
            assert file_of_weights.keys()
    card = ModelCard.load(folder / "README.md")
    assert "sonolume" in (card.data.tags or []) and config.recipe in card.text and str(workshop.folder) not in card.text


@pytest.mark.parametrize("file", [file for file in FILES if hasattr(CONFIGS[file], "preprocess")], ids=name)
def test_training_contradicts_the_prepared_data(
    workshop: Workshop, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.export(file)
    argv = ["--config", str(file), *workshop.overrides(file), f"exp_name=other_{file.stem}"]
    assert cli.run(train.main, [*argv, "preprocess.sample_rate=44100"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "16000" in error[0] and "44100" in error[0]


def inputs(folder: Path) -> dict[str, str]:
    """A value for each of the flags in `INPUTS`."""
    scene = next(iter(world.scenes("test", 1, seed=5)))
    audio.save_wav(folder / "scene.wav", world.render(scene), 16000)
    Image.fromarray(np.asarray(world.picture(scene))).save(folder / "scene.png")
    return {"audio": f"{folder}/scene.wav", "image": f"{folder}/scene.png", "text": world.captions(scene, 1, "test")[0]}


@pytest.mark.parametrize("file", generating(), ids=name)
def test_inference_from_the_export(workshop: Workshop, file: Path, tmp_path: Path) -> None:
    flags = {flag.name for flag in declared(options(file, "InferenceOptions"))}
    given = inputs(tmp_path)
    kind = next(kind for kind in INPUTS if kind in flags)
    values = {kind: given[kind], **{flag: value for flag, value in QUICK.items() if flag in flags}}
    values |= {"checkpoint": str(workshop.export(file)), "output_dir": str(tmp_path / "results")}
    argv = [part for flag, value in values.items() for part in (f"--{flag}", value)]
    assert cli.run(inference.main, ["--config", str(file), *argv]) == 0
    results = [path for path in (tmp_path / "results").iterdir() if path.suffix in (".wav", ".png")]
    assert results
    sidecar = json.loads(next((tmp_path / "results").glob("*.json")).read_text())
    assert sidecar["versions"]["sonolume"]
    code = recipe_code(CONFIGS[file].recipe, "inference")
    if hasattr(code, "generate"):  # as the app in the browser calls it
        _check_steps(code, command.parse("inference", "InferenceOptions", "", ["--config", str(file), *argv]), results)


def _check_steps(code: ModuleType, given: command.Command, results: list[Path]) -> None:
    """One loaded model generates twice: stopped at its first step, and then the same bytes as the command line."""
    model, steps = code.load_model(given.config, given.options), list[Step]()

    def stop(step: Step) -> None:
        raise runs.PowerCut

    with pytest.raises(runs.PowerCut):
        list(code.generate(model, given.options, stop))
    made = list(code.generate(model, given.options, steps.append))
    same = {path.read_bytes() for path in results if path.suffix == made[0].suffix}
    assert {path.read_bytes() for path in made} == same
    for unit in {step.unit for step in steps}:
        numbers = [(step.number, step.total) for step in steps if step.unit == unit]
        assert [number for number, _ in numbers] == sorted({number for number, _ in numbers})
        assert numbers[-1][0] == numbers[-1][1]
    assert all(step.preview().size > (0, 0) for step in steps if step.preview)


COMMANDS = {"inference": ("InferenceOptions", inference), "evaluate": ("EvaluationOptions", evaluate),
            "train": ("TrainOptions", train), "preprocess": ("PreprocessOptions", preprocess)}  # fmt: skip


def options(file: Path, kind: str) -> type[Options]:
    return getattr(recipe_module(CONFIGS[file].recipe), kind, None) or getattr(shared, kind, Options)


@pytest.mark.parametrize("script", COMMANDS)
@pytest.mark.parametrize("file", RECIPES, ids=name)
def test_help_and_mistakes(file: Path, script: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists the flags of the recipe; every mistake is one line that names it, with exit code 2."""
    kind, module = COMMANDS[script]
    flags = declared(options(file, kind))

    def refused(*argv: str) -> str:
        assert cli.run(module.main, ["--config", str(file), *argv]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    if options(file, kind) is Options:
        assert f"has no {script} command" in refused()
        return
    with pytest.raises(SystemExit) as caught:
        cli.run(module.main, ["--config", str(file), "--help"])
    listed = re.findall(r"^  (?:-h, )?--(\w+)", capsys.readouterr().out, re.MULTILINE)
    assert caught.value.code == 0 and sorted(listed) == sorted(["help", "config", *(flag.name for flag in flags)])

    assert "--zzz" in refused("--zzz")
    assert "train.zzz" in refused("train.zzz=1")
    assert "train.max_steps" in refused("train.max_steps=-1")
    for flag in flags:
        if math.isfinite(flag.low) and flag.type in (int, float):
            assert f"--{flag.name}" in refused(f"--{flag.name}", f"{flag.low - 1:g}")
        elif flag.must_exist:
            assert f"--{flag.name}" in refused(f"--{flag.name}", "no such file")
