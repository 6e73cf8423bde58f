"""Training of the latent model: each of its options has an effect."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, T5EncoderModel

from sonolume.config.load import load_config
from sonolume.config.tta.audioldm import AudioLDMConfig
from sonolume.models import precision, training
from sonolume.models.training import step_draws
from sonolume.models.tta.audioldm.components import build_unet
from sonolume.models.tta.audioldm.data import training_data
from sonolume.models.tta.audioldm.task import Task, load_frozen
from sonolume.utils.errors import UserError


def test_unmasked_training_attends_to_t5s_outputs_at_padding(tiny_config: Callable[..., Path], tiny_checkpoint: Path):
    """As in Amphion: padded to the longest of the batch, T5 gets the mask, the U-Net attends to padding too."""
    path = tiny_config("tta/audioldm", preprocess={"cond_mask_prob": 0.5})
    config = load_config(path, ["model.text_mask=false"])
    data = training_data(config, load_frozen(config))
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint / "tokenizer")
    t5 = T5EncoderModel.from_pretrained(tiny_checkpoint / "text_encoder").eval()
    dataset: Any = data.train
    lengths = set()
    for epoch in range(4):
        batch = data.collate([dataset[epoch, index] for index in range(3)])
        lengths.add(batch.states.shape[1])
        choices = ["", "hiss", *(f"noise {index}" for index in range(3))]
        texts = [min(choices, key=lambda text, n=n: abs(len(text) + 1 - n)) for n in batch.mask.sum(1).tolist()]
        texts = [f"noise {index}" if text.startswith("noise") else text for index, text in enumerate(texts)]
        tokens = tokenizer(texts, padding="longest", return_tensors="pt")
        assert tokens.attention_mask.equal(batch.mask)
        wanted = t5(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        torch.testing.assert_close(batch.states, wanted, rtol=2e-3, atol=2e-3)  # kept in half precision
        assert batch.states[batch.mask == 0].abs().sum() > 0 or batch.mask.all()
    assert len(lengths) > 1

    config = load_config(path)
    masked: Any = training_data(config, load_frozen(config))
    batch = masked.collate([masked.train[0, index] for index in range(8)])
    assert not batch.mask.all() and batch.states[batch.mask == 0].eq(0).all()


def test_captions_that_the_text_encoder_cannot_read_are_left_out(
    tiny_config: Callable[..., Path], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_data, tmp_path / "data")
    config = load_config(tiny_config("tta/audioldm", preprocess={"processed_dir": str(tmp_path / "data")}))
    path = Path(config.preprocess.processed_dir) / config.dataset[0] / config.preprocess.train_file
    rows = json.loads(path.read_text())
    endless = "rain " * 42_000
    rows[0]["Caption"], rows[1]["Caption"] = [endless, "hiss"], endless
    path.write_text(json.dumps(rows))
    dataset: Any = training_data(config, load_frozen(config)).train
    assert len(dataset) == len(rows) - 1 and dataset.rows[0].captions == ["hiss"]
    assert "train: 1 captions of more than" in capsys.readouterr().err
    path.write_text(json.dumps(rows[1:2]))
    with pytest.raises(UserError, match="no captions but of more than"):
        training_data(config, load_frozen(config))


def test_every_objective_reaches_the_loss(tiny_config: Callable[..., Path]):
    """Of one network and the same random numbers; what the numbers are is tested in tests/modules/test_diffusion.py."""
    config = load_config(tiny_config("tta/audioldm"))
    frozen = load_frozen(config)
    data, task = training_data(config, frozen), Task(config, frozen)
    torch.manual_seed(0)
    torch.nn.init.normal_(task.unet.conv_out.weight, std=0.1)  # else its prediction is zero
    for name, weight in task.unet.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(weight, std=0.1)
    batch = data.collate([data.train[0, index] for index in range(6)])

    def loss() -> float:
        with torch.no_grad():
            return float(task.loss(batch, step_draws(0, 0, 6)))

    plain = loss()
    objective = task.objective
    changes: list[tuple[Any, str, Any]] = [
        (task, "objective", replace(objective, prediction_type="v_prediction")),
        (task, "objective", replace(objective, prediction_type="flow")),
        (task, "objective", replace(objective, timestep_sampling="logit_normal")),
        (task, "objective", replace(objective, min_snr_gamma=5.0)),
        (config.model, "text_mask", False),
    ]
    found = [plain]
    for section, name, value in changes:
        before = getattr(section, name)
        setattr(section, name, value)
        found.append(loss())
        setattr(section, name, before)
    assert len({round(value, 5) for value in found}) == len(found), found
    assert loss() == plain


def test_the_gradient_is_clipped_and_the_precision_is_used(
    tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    norms, kinds = [], []

    def before_zero_grad(task: Task, optimizer: Any) -> None:
        gradients = [weight.grad for weight in task.parameters() if weight.grad is not None]
        if gradients:  # those of the step before, as they were used
            norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        task.unet.conv_in.register_forward_hook(lambda _, inputs, output: kinds.append(output.dtype))

    monkeypatch.setattr(Task, "on_before_zero_grad", before_zero_grad)
    monkeypatch.setattr(Task, "_preview", lambda task: None)
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    path = tiny_config("tta/audioldm", train={"max_steps": 2, "accumulate": 1, "valid_interval": 9})
    for clip, name in ((1e-3, "clipped"), (0, "free")):
        overrides = [f"train.gradient_clip={clip}", f"exp_name={name}", "train.precision=bf16-mixed"]
        training.run(load_config(path, overrides), resume=False)
    assert len(norms) == 2 and norms[0] == pytest.approx(1e-3, rel=1e-3) and norms[1] > 2e-3
    assert set(kinds) == {torch.bfloat16}


def test_gradient_checkpointing_computes_twice_and_the_same():
    found = []
    for choice in (False, True):
        torch.manual_seed(0)
        config = AudioLDMConfig(
            model_channels=8, channel_mult=[1, 1], attention_resolutions=[1, 2], num_res_blocks=1, num_heads=2,
            context_dim=16, norm_num_groups=4, use_checkpoint=choice,
        )  # fmt: skip
        unet = build_unet(config).train()
        calls: list[int] = []
        first: Any = unet.down_blocks[0]
        first.resnets[0].conv1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        loss = unet(torch.ones(1, 4, 6, 4), torch.tensor([5]), torch.ones(1, 3, 16)).sample.square().mean()
        loss.backward()
        found.append((len(calls), unet.conv_in.weight.grad))
    assert [count for count, _ in found] == [1, 2]
    torch.testing.assert_close(found[0][1], found[1][1])
