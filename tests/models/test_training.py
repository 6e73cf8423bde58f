import contextlib
import copy
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.optim.swa_utils import AveragedModel

from sonolume.config.base import LRSchedule, TrainConfig
from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.callbacks import EMA, SaveRun
from sonolume.models.data_order import EpochOrder
from sonolume.models.training import Frozen, StepBatches, build, optimizer, step_draws, step_generator
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.audioldm.task import Task
from sonolume.models.tta.autoencoderkl.task import Task as AutoencoderTask
from sonolume.utils import checkpoint, cli, files
from sonolume.utils.errors import UserError
from tests import runs
from tests.runs import HOLD, PIPES, PowerCut, change_weights, cut_power, last

RECIPES = ["tta/autoencoderkl", "tta/audioldm"]
FOLDER = ("config.json", "checkpoints", "tensorboard", "pipeline")


@pytest.fixture
def no_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the 20 steps of denoising at every validation."""
    monkeypatch.setattr(Task, "_preview", lambda task: None)


def train(
    config_file: Path, name: str, *overrides: str, resume: bool = False, at: tuple[int, Any] | None = None
) -> Path:
    return runs.train(load_config(config_file, [f"exp_name={name}", *overrides]), resume, at)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same_training(one: Path, two: Path) -> None:
    """The runs are equal, and their average differs from the weights."""
    runs.assert_same_training(one, two)
    content = last(one)
    trained = {name: weight for name, weight in content["current_model_state"].items()
               if weight.ndim > 1 and not name.startswith("discriminator.")}  # which begins to learn later
    assert trained and not any(content["state_dict"][name].equal(weight) for name, weight in trained.items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_resume_is_exact(recipe: str, tiny_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]):
    config = tiny_config(recipe)
    straight = train(config, "straight")
    with pytest.raises(PowerCut):
        train(config, "killed", at=(11, cut_power))  # the checkpoint is of batch 8
    assert last(straight.parent / "killed")["callbacks"]["Position"] == {"batches": 8}
    assert_same_training(straight, train(config, "killed", resume=True))

    with pytest.raises(SystemExit) as stopped:
        train(config, "stopped", at=(4, terminate))  # in the middle of an accumulation
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "SIGTERM after 6 batches" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_same_training(straight, train(config, "stopped", resume=True))
    assert not list(straight.parent.rglob(".tmp-*"))  # nothing half-written


@pytest.mark.usefixtures("no_previews")
def test_resume_after_sigkill_is_exact_with_workers(tiny_config: Callable[..., Path], root: Path):
    """SIGKILL in the middle of an epoch and of an accumulation, with an average; both stages."""
    configs = [tiny_config(recipe, train={"num_workers": 2, "max_steps": 6, "valid_interval": 6}) for recipe in RECIPES]
    command = [sys.executable, str(root / "tests" / "models" / "processes.py"), "killed", "11", *map(str, configs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for config in configs:
        name = f"killed_{config.stem}"
        folder = load_config(config, [f"exp_name={name}"]).run_dir
        assert last(folder)["callbacks"]["Position"] == {"batches": 8}
        train(config, name, resume=True)
        assert_same_training(train(config, f"straight_{config.stem}", "train.num_workers=0"), folder)
        assert not list(folder.rglob(".tmp-*"))


@pytest.mark.usefixtures("no_previews")
def test_a_finished_run_continues_when_steps_are_added(
    tiny_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    constant = {"lr_schedule": "constant"}
    config = tiny_config("tta/audioldm", train=constant)
    folder = train(config, "run", "train.max_steps=4")
    train(config, "run", "train.max_steps=4", resume=True)
    assert "train.max_steps" in capsys.readouterr().err
    assert last(folder)["callbacks"]["Position"]["batches"] == 8
    train(config, "run", resume=True)
    assert_same_training(train(config, "straight"), folder)


@pytest.mark.usefixtures("no_previews")
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_accumulated_step_is_one_step_of_every_optimizer(recipe: str, tiny_config: Callable[..., Path]):
    folder = train(tiny_config(recipe), "run", "train.max_steps=3")
    steps = [int(optimizer["state"][0]["step"]) for optimizer in last(folder)["optimizer_states"]]
    assert last(folder)["callbacks"]["Position"]["batches"] == 6
    assert steps == ([3, 1] if recipe == "tta/autoencoderkl" else [3])
    assert all(schedule["last_epoch"] == 3 for schedule in last(folder)["lr_schedulers"])


@pytest.mark.usefixtures("no_previews")
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_batch_has_its_own_random_numbers(
    recipe: str, tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    drawn: list[tuple[int, ...]] = []
    monkeypatch.setattr(training, "step_draws", lambda *place: (drawn.append(place), step_draws(*place))[1])
    train(tiny_config(recipe), "run", "train.max_steps=3", "train.random_seed=7")
    assert drawn == [(7, batch, 2, 0, 1) for batch in range(6)]


def test_the_run_folder(tiny_config: Callable[..., Path]):
    folder = train(tiny_config("tta/audioldm"), "run")
    assert {path.name for path in folder.iterdir()} == {".lock", *FOLDER}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert load_config(folder / "config.json").train.ema_decay == 0.8
    pipe = TextToAudioPipeline.from_pretrained(folder / "pipeline")
    average = {name.removeprefix("unet."): weight for name, weight in last(folder)["state_dict"].items()}
    runs.assert_same(dict(pipe.unet.state_dict()), average)
    assert all(name.startswith("unet.") for name in last(folder)["state_dict"])  # nothing frozen


@pytest.mark.usefixtures("no_previews")
def test_a_resumed_run_keeps_its_best_loss(tiny_config: Callable[..., Path]):
    """last.ckpt is written before the validation of its step, so that only best.ckpt contains the best loss."""
    config = tiny_config("tta/audioldm")
    with pytest.raises(PowerCut):
        train(config, "run", at=(9, cut_power))
    folder = load_config(config).run_dir / "checkpoints"
    best = checkpoint.read(folder / "best.ckpt")["callbacks"]["SaveRun"]["best"]
    assert best < checkpoint.read(folder / "last.ckpt")["callbacks"]["SaveRun"]["best"] == float("inf")
    with pytest.raises(PowerCut):  # the learning rate makes the next validation worse, if there is one
        train(config, "run", "train.adam.lr=100", "train.save_checkpoints_steps=2", resume=True, at=(15, cut_power))
    assert last(folder.parent)["callbacks"]["SaveRun"]["best"] == best


@pytest.mark.usefixtures("no_previews")
@pytest.mark.parametrize(
    ("recipe", "steps", "moment"), [("tta/audioldm", 3, "on_validation_end"), ("tta/autoencoderkl", 2, "_save")]
)
def test_best_is_exact_after_a_kill(
    recipe: str, steps: int, moment: str, tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    """Killed in the only validation, of a step whose last.ckpt is written, in the middle and at the end of the run."""
    config = tiny_config(recipe, train={"max_steps": steps, "valid_interval": 2, "save_checkpoints_steps": 2})
    straight, done = train(config, "straight"), getattr(SaveRun, moment)

    def killed(save: SaveRun, *args: Any) -> None:
        if save.position.batches == 4 and args[-1] != "last.ckpt":
            raise PowerCut
        done(save, *args)

    with monkeypatch.context() as context:
        context.setattr(SaveRun, moment, killed)
        with pytest.raises(PowerCut):
            train(config, "killed")
    folder = train(config, "killed", resume=True)
    assert_same_training(straight, folder)
    one, two = (checkpoint.read(run / "checkpoints" / "best.ckpt") for run in (straight, folder))
    for key in ("state_dict", "current_model_state", "callbacks", "global_step"):
        runs.assert_same(one[key], two[key], key)


def test_no_checkpoint_stands_before_its_export(tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """A run that was killed between them would count as finished, with an older export or none."""
    monkeypatch.setattr(Task, "export", lambda *_: cut_power())
    config = tiny_config("tta/audioldm", train={"max_steps": 1})
    with pytest.raises(PowerCut):
        train(config, "run")
    assert not list((load_config(config, ["exp_name=run"]).run_dir / "checkpoints").iterdir())


def test_scaled_gradients_are_clipped_after_unscaling(
    tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    """Under manual optimization, whose tasks clip themselves; one step of SGD moves the weights by the clipped norm."""
    clip, make = 1e-3, training._trainer
    config = tiny_config("tta/autoencoderkl", train={"max_steps": 1, "accumulate": 1, "gradient_clip": clip,
                                                     "ema_decay": 0.0, "warmup_steps": 0})  # fmt: skip
    weights: list[torch.Tensor] = []

    def with_scaler(*args: Any) -> Any:
        trainer = make(*args)
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        trainer.strategy.precision_plugin.forward_context = contextlib.nullcontext  # float16 is slow on a CPU
        return trainer

    def sgd(task: Any) -> Any:
        weights.append(torch.nn.utils.parameters_to_vector(task.vae.parameters()).detach().clone())
        optimizers = [torch.optim.SGD(network.parameters(), 1.0) for network in (task.vae, task.discriminator)]
        return optimizers, [torch.optim.lr_scheduler.ConstantLR(one, 1.0) for one in optimizers]

    monkeypatch.setattr(training, "_trainer", with_scaler)
    monkeypatch.setattr(AutoencoderTask, "configure_optimizers", sgd)
    state = last(train(config, "run"))["state_dict"]
    trained = torch.cat([weight.flatten() for name, weight in state.items() if name.startswith("vae.")])
    assert float((trained - weights[0]).norm()) == pytest.approx(clip, rel=0.01)


class TestFusedAdamW:
    """One call for all weights; what it computes is what AdamW computes."""

    @staticmethod
    def network() -> torch.nn.Sequential:
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(36, 2)]
        return torch.nn.Sequential(*layers)

    @staticmethod
    def steps(network: torch.nn.Module, adamw: torch.optim.Optimizer, first: int = 0, count: int = 4) -> torch.Tensor:
        for step in range(first, first + count):
            x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(step))
            adamw.zero_grad()
            network(x.to(memory_format=torch.channels_last)).square().sum().backward()  # gradients of other strides
            adamw.step()
        return torch.nn.utils.parameters_to_vector(network.parameters()).detach()

    def test_it_computes_the_same(self):
        one, other = self.network(), self.network()
        fused, _ = optimizer(one.parameters(), TrainConfig())
        plain = torch.optim.AdamW(other.parameters(), fused.defaults["lr"], weight_decay=0.01)
        assert fused.defaults["fused"] and not plain.defaults["fused"]
        fused.param_groups[0]["lr"] = plain.param_groups[0]["lr"] = 0.01
        before = torch.nn.utils.parameters_to_vector(one.parameters()).detach()
        after, expected = self.steps(one, fused), self.steps(other, plain)
        assert (after - before).abs().max() > 0.01
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.complex64, torch.float32])
    def test_other_weights_take_the_plain_one(self, dtype: torch.dtype):
        device = "cpu" if dtype.is_complex else "meta"
        weight = torch.nn.Parameter(torch.zeros(2, dtype=dtype, device=device))
        assert not optimizer([weight], TrainConfig())[0].defaults["fused"]

    def test_a_run_that_began_with_the_plain_one_continues_with_it(self):
        """Bit for bit, as every resumed run."""
        one, other = self.network(), self.network()
        plain = torch.optim.AdamW(one.parameters(), 0.01)
        self.steps(one, plain)
        other.load_state_dict(one.state_dict())
        resumed, _ = optimizer(other.parameters(), TrainConfig())
        resumed.load_state_dict(copy.deepcopy(plain.state_dict()))
        assert self.steps(other, resumed, first=4).equal(self.steps(one, plain, first=4))

    def test_scaled_gradients_are_unscaled_and_clipped_before_it(self):
        one, other = self.network(), self.network()
        for network, scaler in ((one, torch.amp.GradScaler("cpu", 2.0**8)), (other, None)):
            adamw, _ = optimizer(network.parameters(), TrainConfig())
            loss = network(torch.ones(2, 3, 5, 5)).square().sum()
            (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.unscale_(adamw)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            scaler.step(adamw) if scaler else adamw.step()
        for left, right in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(left, right)

    def test_gradients_are_clipped_with_mixed_precision(self, tiny_config: Callable[..., Path]):
        """Lightning refuses to clip before an optimizer that unscales gradients itself."""
        config = tiny_config("tta/audioldm", train={"max_steps": 1, "accumulate": 1, "gradient_clip": 1e-3})
        found = last(train(config, "run", "train.precision=bf16-mixed"))["optimizer_states"][0]
        assert found["param_groups"][0]["fused"]
        moments = torch.cat([state["exp_avg"].flatten() for state in found["state"].values()])
        assert float(moments.norm()) == pytest.approx(0.1 * 1e-3, rel=0.01)  # 1 - beta_1 of the clipped gradient


@pytest.mark.usefixtures("no_previews")
def test_the_average_is_exponential(tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """It begins with the weights after the first step, and is always `ema_decay` of itself and the rest of them."""
    weights: list[torch.Tensor] = []
    monkeypatch.setattr(
        Task, "on_train_batch_end", lambda task, *_: weights.append(next(task.parameters()).detach().clone()),
        raising=False,
    )  # fmt: skip
    once = {"accumulate": 1, "max_steps": 2, "save_checkpoints_steps": 2, "ema_decay": 0.75}
    state = last(train(tiny_config("tta/audioldm", train=once), "run"))["state_dict"]
    assert len(weights) == 2 and not weights[0].equal(weights[1])
    torch.testing.assert_close(next(iter(state.values())), 0.75 * weights[0] + 0.25 * weights[1])


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_run_resumes_beside_the_weights_that_it_began_with(
    part: str, tiny_config: Callable[..., Path], copy_of_checkpoint: Path
):
    """They were trained anew at the same path."""
    source = {"autoencoder_path": str(copy_of_checkpoint), "text_encoder": str(copy_of_checkpoint)}
    config = tiny_config("tta/audioldm", model=source)
    train(config, "run", "train.max_steps=1")
    change_weights(copy_of_checkpoint / part)
    refused("model.autoencoder_path .*weights that the run began with", config, "run", resume=True)


@pytest.mark.usefixtures("no_previews")
def test_a_run_keeps_the_latents_that_it_began_with(tiny_config: Callable[..., Path], tiny_data: Path, tmp_path: Path):
    data = Path(shutil.copytree(tiny_data / "noise", tmp_path / "data" / "noise"))
    config = tiny_config("tta/audioldm", preprocess={"processed_dir": str(data.parent)})
    latents = last(train(config, "run", "train.max_steps=1"))["latents"]
    assert np.shape(latents["latents_std"]) == (4,)
    np.save(data / "mel" / "train0.npy", np.load(data / "mel" / "train0.npy") * 5)  # other data, and thus other moments
    assert last(train(config, "other", "train.max_steps=1"))["latents"] != latents
    folder = train(config, "run", "train.max_steps=2", resume=True)
    assert last(folder)["latents"] == latents
    stored = files.read_json(folder / "pipeline" / "vae" / "config.json")
    assert {name: stored[name] for name in latents} == latents


def test_previews_use_the_average(tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    average: list[torch.Tensor] = []
    shown: list[torch.Tensor] = []
    start = EMA.on_validation_epoch_start

    def remember(ema: Any, trainer: Any, task: Any) -> None:
        average.append(next(ema._average_model.module.parameters()).detach().clone())
        start(ema, trainer, task)

    monkeypatch.setattr(EMA, "on_validation_epoch_start", remember)
    monkeypatch.setattr(Task, "_preview", lambda task: shown.append(next(task.parameters()).detach().clone()))
    folder = train(tiny_config("tta/audioldm"), "run", "train.max_steps=4")
    validations = average[2:]  # without step 0, which has no previews, and an export
    assert shown[0].equal(validations[0])
    first = next(iter(last(folder)["current_model_state"].values()))
    assert not shown[0].equal(first)


@pytest.mark.usefixtures("no_previews")
@pytest.mark.parametrize("recipe", RECIPES)
def test_validation_runs_before_the_first_step(
    recipe: str, tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    logged: list[tuple[int, float]] = []

    def remember(logger: Any, metrics: dict[str, float], step: int) -> None:
        if "val/loss" in metrics:
            logged.append((step, metrics["val/loss"]))

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", remember)
    config = tiny_config(recipe)
    for batches in (0, 1):  # 3 items in batches of 2
        with pytest.raises(PowerCut):
            train(config, f"run{batches}", f"train.valid_batches={batches}", at=(0, cut_power))
    assert [step for step, _ in logged] == [0, 0] and logged[0][1] != logged[1][1]
    folder = load_config(config, ["exp_name=run0"]).run_dir
    assert not (folder / "checkpoints").exists() and not (folder / "pipeline").exists()

    train(config, "run", "train.max_steps=4")
    before = logged[-1]
    logged.clear()
    train(config, "run", resume=True)  # the validation of the checkpoint's step may have been interrupted
    assert logged[0] == before and len(logged) == 2 and logged[1][0] > before[0]


def test_the_average_shares_what_is_frozen(tiny_config: Callable[..., Path]):
    task: Any = build(load_config(tiny_config("tta/audioldm")))[0]
    average: Any = AveragedModel(task).module
    assert isinstance(task.frozen, Frozen) and average.frozen["vae"] is task.frozen["vae"]
    assert not any(one is two for one, two in zip(average.parameters(), task.parameters(), strict=True))


@pytest.mark.usefixtures("no_previews")
def test_a_checkpoint_that_does_not_fit_on_the_disk(tiny_config: Callable[..., Path], capsys: Any):
    """A limited file size simulates a full disk; the run continues from the previous checkpoint, which stays."""
    config = tiny_config("tta/audioldm", train={"save_checkpoints_steps": 1})
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    def main(argv: list[str]) -> None:
        train(config, "run", at=(2, fill_disk))

    try:
        code = cli.run(main, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    folder = load_config(config).run_dir
    assert code == 1 and len(errors) == 1 and str(folder / "checkpoints" / "last.ckpt") in errors[0]
    assert last(folder)["callbacks"]["Position"] == {"batches": 2}
    assert not list(folder.rglob(".tmp-*"))
    train(config, "run", "train.max_steps=2", resume=True)
    assert last(folder)["callbacks"]["Position"] == {"batches": 4}


def refused(message: str, *args: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(*args, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", [
    "train.accelerator=tpu", "train.accelerator=cuda", "train.devices=-1", "train.devices=0", "train.devices=1000",
    "train.strategy=none",
])  # fmt: skip
def test_what_this_machine_has_not(override: str, tiny_config: Callable[..., Path]):
    if torch.cuda.is_available() and "cuda" in override:
        pytest.skip("this machine has it")
    refused("train.accelerator, devices, strategy or precision", tiny_config("tta/autoencoderkl"), "run", override)
    assert not load_config(tiny_config("tta/autoencoderkl")).run_dir.exists()


def test_a_run_is_not_overwritten(tiny_config: Callable[..., Path]):
    config = tiny_config("tta/autoencoderkl")
    folder = train(config, "run", "train.max_steps=1")
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    refused("--resume", config, "run")
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before


def test_two_trainings_in_one_folder(tiny_config: Callable[..., Path]):
    config = tiny_config("tta/autoencoderkl", train={"max_steps": 1})
    folder = load_config(config, ["exp_name=run"]).run_dir
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / ".tmp-last.ckpt").write_bytes(b"half")  # of a training that was killed
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder / ".lock")], text=True, **PIPES) as other:
        assert other.stdout and other.stdout.readline() == "inside\n"
        refused("another process is training in", config, "run")
        assert {path.name for path in folder.iterdir()} == {".lock", "checkpoints"}
        other.kill()
    train(config, "run")
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}


def test_other_checkpoints_are_refused(tiny_config: Callable[..., Path]):
    config = tiny_config("tta/autoencoderkl")
    refused("run/checkpoints/last.ckpt", config, "run", resume=True)
    assert not load_config(config).run_dir.exists()
    folder = train(config, "run", "train.max_steps=2")
    refused(
        "another model: .* is .*, not",
        config, "run", "model.autoencoderkl.ch=8", resume=True,
    )  # fmt: skip
    other = tiny_config("tta/audioldm")
    refused("another model: it has no unet", other, "run", resume=True)
    path = folder / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused("last.ckpt: ", config, "run", resume=True)
    torch.save({"weights": torch.zeros(1)}, path)
    refused("last.ckpt: not a training checkpoint", config, "run", resume=True)
    path.write_bytes(b"")
    refused("last.ckpt: ", config, "run", resume=True)


def test_the_discriminator_begins_at_disc_start(tiny_config: Callable[..., Path]):
    """Until then it is not trained; from then on both networks are trained on every batch."""

    config = tiny_config("tta/autoencoderkl")

    def steps(count: int, *overrides: str) -> list[int]:
        folder = train(config, f"run{count}", f"train.max_steps={count}", *overrides)
        states = [optimizer["state"] for optimizer in last(folder)["optimizer_states"]]
        return [int(state[0]["step"]) if state else 0 for state in states]

    assert steps(2) == [2, 0]
    assert steps(5) == [5, 3]
    assert steps(6, "model.loss.alternate=true") == [3, 2]  # the VAE at 0, 2, 4; the discriminator at 3, 5


def test_every_item_comes_once_an_epoch_in_new_order():
    batches = list(StepBatches(EpochOrder(10, seed=1), batch_size=4, steps=10))
    items = [item for batch in batches for item in batch]
    assert Counter(items) == Counter((epoch, index) for epoch in range(4) for index in range(10))
    orders = [[index for epoch, index in items if epoch == number] for number in range(4)]
    assert len({tuple(order) for order in orders}) == 4 and sorted(orders[0]) != orders[0]
    again, other = (list(StepBatches(EpochOrder(10, seed=seed), 4, 10)) for seed in (1, 2))
    assert batches == again != other


def test_batches_begin_where_the_run_stopped():
    whole = list(StepBatches(EpochOrder(10, seed=1), 4, 10))
    assert list(StepBatches(EpochOrder(10, seed=1), 4, 10, start=7)) == whole[7:]


def test_two_processes_share_the_batches_of_one():
    one = list(StepBatches(EpochOrder(10, seed=1), 4, 10))
    ranks = [list(StepBatches(EpochOrder(10, seed=1), 2, 10, rank=rank, world=2)) for rank in (0, 1)]
    assert [left + right for left, right in zip(*ranks, strict=True)] == one


def test_random_numbers_of_a_step():
    places = itertools.product((0, 1), range(50), (0, 1))  # seed, step, rank
    assert len({step_generator(*place).initial_seed() for place in places}) == 200


def test_the_learning_rate():
    def rates(start: int = 0, **options: Any) -> list[float]:
        config = TrainConfig(max_steps=10, **options)
        adamw, schedule = optimizer([torch.nn.Parameter(torch.zeros(1))], config, start)
        found = []
        for _ in range(11):
            found.append(adamw.param_groups[0]["lr"] / config.adam.lr)
            adamw.step()
            schedule.step()
        return found

    assert rates() == [1.0] * 11
    assert rates(warmup_steps=3)[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert rates(start=4, warmup_steps=3)[4:9] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    cosine = rates(lr_schedule=LRSchedule.cosine)
    assert rates(start=4, lr_schedule=LRSchedule.cosine)[4:] == cosine[4:]
    assert cosine[0] == 1 and cosine[5] == pytest.approx(0.5) and cosine[10] == pytest.approx(0, abs=1e-7)


def test_the_linear_schedule_equals_the_published_one(root: Path):
    """Of SpeechCLIP; only the step max_steps, which is not trained, may go below `final_lr`."""
    golden = np.load(root / "tests/goldens/speech2img/scheduler.npz")
    config = TrainConfig(max_steps=50_000, warmup_steps=5000, lr_schedule=LRSchedule.linear, final_lr=1e-8)
    config.adam.lr = 1e-4
    adamw, schedule = optimizer([torch.nn.Parameter(torch.zeros(1))], config)
    assert adamw.param_groups[0]["lr"] == pytest.approx(golden["lr_at_start"].item(), rel=1e-6)
    found = [config.adam.lr * schedule.lr_lambdas[0](step) for step in golden["steps"].tolist()]
    assert found == pytest.approx(golden["lr"].tolist(), rel=1e-6)


def test_the_linear_schedule_ends_at_zero():
    config = TrainConfig(max_steps=4, lr_schedule=LRSchedule.linear)
    rate = optimizer([torch.nn.Parameter(torch.zeros(1))], config)[1].lr_lambdas[0]
    assert [rate(step) for step in range(6)] == pytest.approx([0.75, 0.5, 0.25, 0, 0, 0])
    late = optimizer([torch.nn.Parameter(torch.zeros(1))], TrainConfig(max_steps=4, lr_schedule=LRSchedule.linear), 2)
    assert [late[1].lr_lambdas[0](step) for step in range(4)] == pytest.approx([0, 0, 0.25, 0])
