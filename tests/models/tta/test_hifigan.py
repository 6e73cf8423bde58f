"""The vocoder recipe on half-second recordings: waves and their mels, training, export, resynthesis."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SpeechT5HifiGan

from sonolume.bins import inference
from sonolume.config.load import load_config
from sonolume.config.tta.hifigan import HifiGanConfig
from sonolume.models.training import Frozen, fit
from sonolume.models.tta.audioldm.components import load_vocoder
from sonolume.models.tta.features import load_mel, mel_path
from sonolume.models.tta.hifigan import model
from sonolume.models.tta.hifigan.data import WaveDataset, training_data
from sonolume.models.tta.hifigan.task import Task
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.vocoder_loss import WaveformDiscriminator
from sonolume.preprocessors import text_audio
from sonolume.utils import audio, checkpoint, cli
from sonolume.utils.errors import UserError

RATE, HOP, FRAMES, SEGMENT = 16000, 256, 32, 4  # as in conftest.py


def run(path: Path, name: str, *overrides: str, resume: bool = False) -> Path:
    config = load_config(path, [f"exp_name={name}", *overrides])
    return fit(Task(config, Frozen()), training_data(config, Frozen()), config, config.train, resume)


def refused(message: str, call: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call(*args)
    assert "\n" not in str(caught.value)


def length(data: WaveDataset, index: int) -> int:
    """Frames of a clip without its padding."""
    return min(FRAMES, round((data.rows[index].duration or 0) * 16000 / HOP))


def test_waves_belong_to_their_mels(make_config: Callable[..., Path]):
    """The mel of a wave is the stored mel wherever a frame sees no edge; windows start where the last one ended."""
    config = load_config(make_config())
    data = WaveDataset(config, "train")
    uids = [row.uid for row in data.rows]
    assert any(uid.endswith("_w1") for uid in uids) and len(uids) == len(set(uids))
    mel = MelSpectrogram()
    for index, row in enumerate(data.rows):
        wave = torch.from_numpy(np.array(data.waves[index], np.float32)) / 32767
        stored = load_mel(mel_path(config.preprocess, row), 80, FRAMES)[0]
        inside = slice(2, length(data, index) - 2)
        assert inside.stop > inside.start
        difference = (mel(wave[None])[0] - stored)[:, inside].abs()
        assert difference.mean() < 0.01, row.uid  # 16 bits


def test_segments_are_cut_from_both_alike(make_config: Callable[..., Path]):
    config = load_config(make_config())
    data = WaveDataset(config, "train")
    for index in range(len(data)):
        part, wave = data[3, index]
        assert part.shape == (80, SEGMENT) and wave.shape == (SEGMENT * HOP,)
        whole = torch.from_numpy(np.array(data.waves[index], np.float32)) / 32767
        starts = [s for s in range(FRAMES - SEGMENT + 1) if whole[s * HOP : (s + SEGMENT) * HOP].equal(wave)]
        stored = load_mel(mel_path(config.preprocess, data.rows[index]), 80, FRAMES)[0]
        assert any(stored[:, start : start + SEGMENT].equal(part) for start in starts)


def test_segments_depend_on_epoch_and_index_alone(make_config: Callable[..., Path]):
    config = load_config(make_config())
    data, again = WaveDataset(config, "train"), WaveDataset(config, "train")
    longest = max(range(len(data)), key=lambda index: length(data, index))
    segments = [data[epoch, longest][1] for epoch in range(8)]
    assert all(again[epoch, longest][1].equal(segment) for epoch, segment in enumerate(segments))
    assert len({tuple(segment.tolist()) for segment in segments}) > 4


def test_segments_avoid_the_padding(make_config: Callable[..., Path]):
    data = WaveDataset(load_config(make_config()), "train")
    shortest = min(range(len(data)), key=lambda index: length(data, index))
    assert SEGMENT < length(data, shortest) < FRAMES
    assert all(data[epoch, shortest][1].abs().max() > 0.01 for epoch in range(20))


def test_validation_takes_whole_clips(make_config: Callable[..., Path]):
    data = WaveDataset(load_config(make_config()), "valid")
    assert [tensor.shape for tensor in data[0, 0]] == [(80, FRAMES), (FRAMES * HOP,)]
    assert data[0, 0][1].equal(data[5, 0][1])


def test_a_part_of_the_clips(make_config: Callable[..., Path]):
    whole = WaveDataset(load_config(make_config()), "train")
    some = WaveDataset(load_config(make_config(preprocess={"train_clips": 3})), "train")
    assert [row.uid for row in some.rows] == [whole.rows[i].uid for i in (0, (len(whole) - 1) // 2, len(whole) - 1)]
    assert len(some.waves) == 3


def test_waves_are_read_once(make_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    WaveDataset(load_config(make_config()), "train")
    module = importlib.import_module("sonolume.models.tta.hifigan.data")
    monkeypatch.setattr(module, "load_wave", lambda *_: pytest.fail("read again"))
    WaveDataset(load_config(make_config()), "train")


def test_a_missing_recording_is_named(make_config: Callable[..., Path], processed: Path, tmp_path: Path):
    folder = tmp_path / "data" / "gone"
    (folder / "mel").mkdir(parents=True)
    np.save(folder / "mel" / "a_w0.npy", np.zeros((80, FRAMES), np.float32))
    for file, audio_file in (("train.json", {"Audio": "away.wav"}), ("valid.json", {})):
        (folder / file).write_text(json.dumps([{"Uid": "a_w0"} | audio_file]))
    config = load_config(make_config(preprocess={"processed_dir": str(tmp_path / "data")}), ["dataset=[gone]"])
    refused("away.wav: no such sound file", WaveDataset, config, "train")
    refused("a_w0 has neither Audio nor a Scene", WaveDataset, config, "valid")
    assert not list(folder.rglob("waves.npy"))


def test_scenes_are_rendered_again(make_config: Callable[..., Path], tmp_path: Path):
    world = {"train_scenes": 2, "valid_scenes": 1}
    path = make_config(preprocess={"processed_dir": str(tmp_path), "miniworld": world, "frames": 160, "windows": 1})
    config = load_config(path, ["dataset=[world]"])
    text_audio.prepare(config.preprocess, "world")
    mel, wave = WaveDataset(config, "valid")[0, 0]
    assert (MelSpectrogram()(wave[None])[0] - mel)[:, 2:-2].abs().mean() < 0.01


def test_reconstructed_mels(make_config: Callable[..., Path], tiny_checkpoint: Path):
    """With a VAE, that share of the items has its mel instead; the wave stays."""
    plain = WaveDataset(load_config(make_config()), "train")
    model = {"reconstruct": str(tiny_checkpoint), "reconstruct_prob": 0.5}
    mixed = WaveDataset(load_config(make_config(model=model)), "train")
    pairs = [(plain[epoch, 0], mixed[epoch, 0]) for epoch in range(20)]
    assert all(one[1].equal(two[1]) for one, two in pairs)
    same = sum(one[0].equal(two[0]) for one, two in pairs)
    assert 3 <= same <= 17


def test_training_lowers_the_mel_loss(make_config: Callable[..., Path]):
    path = make_config(train={"batch_size": 4, "accumulate": 1, "ema_decay": 0.0, "adam": {"lr": 3e-3}})
    scalars = run(path, "run", "train.max_steps=60", "train.valid_interval=30", "model.loss.disc_start=40")
    best = checkpoint.read(scalars / "checkpoints" / "best.ckpt")["callbacks"]["SaveRun"]["best"]
    untrained = run(path, "short", "train.max_steps=1")
    first = checkpoint.read(untrained / "checkpoints" / "best.ckpt")["callbacks"]["SaveRun"]["best"]
    assert best < 0.7 * first


def test_resume_is_exact(make_config: Callable[..., Path]):
    path = make_config()
    straight = run(path, "straight")
    run(path, "broken", "train.max_steps=5")
    broken = run(path, "broken", resume=True)
    one, two = (checkpoint.read(folder / "checkpoints" / "last.ckpt") for folder in (straight, broken))
    for key in ("state_dict", "current_model_state"):
        assert all(tensor.equal(two[key][name]) for name, tensor in one[key].items())
    for first, second in zip(one["optimizer_states"], two["optimizer_states"], strict=True):
        for number, state in first["state"].items():
            assert all(value.equal(second["state"][number][name]) for name, value in state.items())
    assert [schedule["last_epoch"] for schedule in one["lr_schedulers"]] == [8, 8]
    assert [int(states["state"][0]["step"]) for states in one["optimizer_states"]] == [8, 6]  # disc_start 2


def test_the_learning_rate_decays_by_epochs(make_config: Callable[..., Path]):
    path = make_config(preprocess={"train_clips": 4})
    folder = run(path, "run")  # 4 items a step, 4 clips: an epoch a step
    rates = [schedule["_last_lr"][0] for schedule in checkpoint.read(folder / "checkpoints/last.ckpt")["lr_schedulers"]]
    assert rates == pytest.approx([2e-4 * 0.9**8] * 2)


def test_the_export_is_a_stock_vocoder(make_config: Callable[..., Path]):
    """Weight norm folded: transformers alone makes the same wave of it."""
    config = load_config(make_config(), ["train.ema_decay=0.0"])
    task = Task(config, Frozen())
    assert any("parametrizations" in name for name in task.generator.state_dict())
    with torch.no_grad():
        for weight in task.parameters():
            weight.add_(0.01)
    task.export(folder := config.run_dir / "pipeline")
    mel = torch.randn(2, 80, 10)
    loaded: Any = SpeechT5HifiGan.from_pretrained(folder, output_loading_info=True)
    stock, notes = loaded
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    with torch.no_grad():
        wave = stock(mel.transpose(1, 2))
        assert wave.shape == (2, 10 * HOP) and wave.abs().max() > 0
        assert torch.allclose(wave, model.vocode(task.generator, mel), atol=1e-6)
    assert any("parametrizations" in name for name in task.generator.state_dict())  # training goes on
    assert json.loads((folder / "mel.json").read_text())["hop_size"] == HOP


def test_the_published_size():
    with torch.device("meta"):
        generator = model.build(HifiGanConfig(), MelSettings())
        assert sum(weight.numel() for weight in generator.parameters()) == 13_926_017
        generator.apply_weight_norm()
    assert sum(weight.numel() for weight in generator.parameters()) == 13_936_130  # as the official one is counted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop_size": 128}, "hop_size 256, not 128"),
        ({"sample_rate": 24000}, "sample_rate 16000, not 24000"),
        ({"n_mel": 64}, "n_mel 80, not 64"),
        ({"fmin": 50.0}, "fmin 0.0, not 50.0"),
        ({"fmax": 7600.0, "win_size": 800}, "win_size 1024, not 800; fmax 8000.0, not 7600.0"),
    ],
)
def test_a_vocoder_of_other_mels_is_refused(vocoder: Path, change: dict[str, Any], message: str):
    wanted = f"model.vocoder {vocoder}: a vocoder of other mel settings: {message}$"
    refused(wanted, load_vocoder, str(vocoder), MelSettings(**change))
    assert load_vocoder(str(vocoder), MelSettings()) is not None


def test_a_stock_folder_is_checked_by_its_config(vocoder: Path):
    (vocoder / "mel.json").unlink()
    refused("hop_size 256, not 128", load_vocoder, str(vocoder), MelSettings(hop_size=128))
    refused("sample_rate 16000, not 24000", load_vocoder, str(vocoder), MelSettings(sample_rate=24000))
    refused("n_mel 80, not 64", load_vocoder, str(vocoder), MelSettings(n_mel=64))
    assert load_vocoder(str(vocoder), MelSettings(fmin=50)) is not None  # its fmin is not known
    assert load_vocoder("", MelSettings()) is None


def test_broken_vocoder_folders(vocoder: Path, tiny_checkpoint: Path, tmp_path: Path):
    absent = f"{tmp_path}/none"
    refused(f"model.vocoder {absent}: no such folder; train one", load_vocoder, absent, MelSettings())
    refused("holds AutoencoderKL", load_vocoder, str(tiny_checkpoint / "vae"), MelSettings())
    (vocoder / "mel.json").write_text("{")
    refused("mel.json", load_vocoder, str(vocoder), MelSettings())


def test_starting_from_a_trained_generator(make_config: Callable[..., Path], vocoder: Path):
    config = load_config(make_config(), [f"model.pretrained='{vocoder}'"])
    mel = torch.randn(1, 80, 6)
    with torch.no_grad():
        wave = model.vocode(model.load(str(vocoder), "x"), mel)
        assert torch.allclose(model.vocode(Task(config, Frozen()).generator, mel), wave, atol=1e-6)
    wider = load_config(make_config(), [f"model.pretrained='{vocoder}'", "model.hifigan.upsample_initial_channel=16"])
    refused("model.pretrained .* model.hifigan: conv_pre.weight is", Task, wider, Frozen())


def test_starting_from_official_discriminators(make_config: Callable[..., Path], tmp_path: Path):
    shape = load_config(make_config()).model.discriminator
    discriminator = WaveformDiscriminator(shape.periods, shape.scales, shape.width)
    older = {"original": "weight_orig", "0._u": "weight_u", "0._v": "weight_v"}
    older |= {"original0": "weight_g", "original1": "weight_v"}
    file: dict[str, Any] = {"mpd": {}, "msd": {}, "optim_g": {}, "optim_d": {}, "steps": 7, "epoch": 1}
    for name, tensor in discriminator.state_dict().items():
        part, _, rest = name.partition(".")
        stem, _, leaf = rest.partition(".parametrizations.weight.")
        file[part][f"{stem}.{older[leaf]}" if leaf else rest] = tensor
    assert "discriminators.0.convs.0.weight_g" in file["mpd"] and "discriminators.0.conv_post.weight_u" in file["msd"]
    torch.save(file, tmp_path / "do_00000007")
    config = load_config(make_config(), [f"model.pretrained_discriminators='{tmp_path}/do_00000007'"])
    task = Task(config, Frozen())
    given = discriminator.state_dict()
    assert all(tensor.equal(given[name]) for name, tensor in task.discriminator.state_dict().items())

    missing = ["model.discriminator.scales=3", f"model.pretrained_discriminators='{tmp_path}/do_00000007'"]
    refused("model.discriminator: it has no msd.discriminators.2", Task, load_config(make_config(), missing), Frozen())
    torch.save({"generator": {}}, tmp_path / "g_1")
    wrong = [f"model.pretrained_discriminators='{tmp_path}/g_1'"]
    refused("holds generator, not the mpd and msd", Task, load_config(make_config(), wrong), Frozen())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hifigan.upsample_rates=[8,8]", r"multiply to 64, not to preprocess.hop_size 256"),
        ("model.hifigan.upsample_kernel_sizes=[32,31]", "upsample_kernel_sizes 31 must be upsample_rates 16 plus"),
        ("model.hifigan.upsample_kernel_sizes=[32]", "2 upsample_rates but 1 upsample_kernel_sizes"),
        ("model.hifigan.upsample_initial_channel=6", "6 cannot be halved 2 times"),
        ("model.hifigan.resblock_kernel_sizes=[4]", r"resblock_kernel_sizes must be odd, got \[4\]"),
        ("model.hifigan.resblock_kernel_sizes=[3,7]", "2 resblock_kernel_sizes but 1 resblock_dilation_sizes"),
        ("model.hifigan.resblock_dilation_sizes=[[0]]", "must be lists of numbers from 1 to 1024"),
        ("preprocess.segment_size=1000", "segment_size 1000 is not divisible by hop_size 256"),
        ("preprocess.segment_size=256", "segment_size 256 must be above"),
        ("preprocess.segment_size=16384", "at most frames 32 x hop_size"),
        ("model.discriminator={periods: [], scales: 0}", "no periods and no scales"),
        ("model.discriminator.width=0", "width must be above 0"),
        ("model.reconstruct_prob=2", "reconstruct_prob must be from 0 to 1, got 2"),
        ("train.lr_decay=0", "lr_decay must be above 0 and at most 1"),
        ("model.loss.mel_weight=-1", "mel_weight must be at least 0"),
    ],
)
def test_mistakes_in_the_config(make_config: Callable[..., Path], override: str, message: str):
    refused(message, load_config, make_config(), [override])


def test_resynthesis(make_config: Callable[..., Path], vocoder: Path, sounds: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.wav").write_text("no sound")
    audio.save_wav(tmp_path / "in" / "short.wav", np.full(100, 0.1, np.float32), RATE)
    given = ["--config", str(make_config()), "--checkpoint", str(vocoder)]
    wanted = ["--audio", str(sounds / "glide3.wav"), "--audio", str(tmp_path / "in"), "--device", "cpu"]
    assert cli.run(inference.main, [*given, *wanted, "--output_dir", str(tmp_path / "out")]) == 0
    made = {path.stem: audio.load(path, RATE) for path in (tmp_path / "out").glob("*.wav")}
    original = audio.load(sounds / "glide3.wav", RATE)
    assert set(made) == {"glide3_vocoded", "short_vocoded"}
    assert 0 <= len(made["glide3_vocoded"]) - len(original) < HOP and len(made["short_vocoded"]) == 2 * HOP
    facts = json.loads((tmp_path / "out" / "glide3_vocoded.json").read_text())
    assert facts["model"] == str(vocoder) and facts["mel_l1"] > 0
    assert (tmp_path / "out" / "glide3_vocoded.png").is_file()


def test_inference_needs_a_sound(make_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]):
    assert cli.run(inference.main, ["--config", str(make_config())]) == 2
    assert "--audio" in capsys.readouterr().err
