"""Fixtures of all tests; no network, one thread."""

import contextlib
import json
import os
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = (  # files with a test of 15 seconds or more, which no other worker can share
    "test_from_nothing.py", "test_audioldm_learns.py", "test_im2wav_learning.py", "test_audiotoken_learns.py",
    "test_distributed.py", "test_audio2img_learns.py", "test_training.py", "test_wavy_learns.py",
)  # fmt: skip


def pytest_configure() -> None:
    """Use memory again as commands do: a short training spends a tenth of its time on new pages otherwise."""
    with contextlib.suppress(ModuleNotFoundError):  # the check of links runs without this package
        from sonolume.utils.allocator import keep_freed_memory

        keep_freed_memory()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that other workers run the rest at the same time."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a space in its name."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def goldens(root: Path) -> SimpleNamespace:
    """The functions of tests/goldens/inputs.py: `input_for`, `weights_for`, `golden`, `assert_close` ..."""
    return SimpleNamespace(**runpy.run_path(str(root / "tests" / "goldens" / "inputs.py")))


@pytest.fixture(scope="session")
def make_pipeline() -> Callable[..., Any]:
    """A function that builds a text-to-audio pipeline of a few thousand random weights.

    make_pipeline(objective="epsilon", frames=32, levels=3, position_channels=2, text_mask=True)
    """

    def make(
        objective: str = "epsilon",
        frames: int = 32,
        levels: int = 3,
        position_channels: int = 2,
        text_mask: bool = True,
    ) -> Any:
        import torch
        from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

        from sonolume.config.tta.audioldm import AudioLDMConfig
        from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
        from sonolume.models.tta.audioldm.components import build_unet
        from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
        from sonolume.models.tta.autoencoderkl.model import build
        from sonolume.modules.sampling import preset

        torch.manual_seed(0)
        text = T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        unet = AudioLDMConfig(
            model_channels=8, channel_mult=[1, 1, 2], num_res_blocks=1, num_heads=2, context_dim=16,
            norm_num_groups=4, position_channels=position_channels, use_checkpoint=False,
        )  # fmt: skip
        vae = AutoencoderKLConfig(ch=4, ch_mult=[1] * levels, num_res_blocks=1, norm_num_groups=2)
        scheduler, steps = preset("balanced", objective, {})
        return TextToAudioPipeline(
            build(vae).eval(), T5EncoderModel(text).eval(), ByT5Tokenizer(), build_unet(unet).eval(), scheduler,
            frames=frames, text_mask=text_mask, num_steps=steps,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_pipeline: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported pipeline for clips of half a second; read-only, see `copy_of_checkpoint`."""
    folder = tmp_path_factory.mktemp("exported") / "pipeline"
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processed_dir with random mels of 16 frames: 10 for training (two captions each), 3 for validation."""
    import numpy as np

    folder = tmp_path_factory.mktemp("processed") / "noise"
    (folder / "mel").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("valid", 3)):
        rows = [{"Dataset": "noise", "Uid": f"{split}{i}", "Caption": [f"noise {i}", "hiss"]} for i in range(count)]
        (folder / f"{split}.json").write_text(json.dumps(rows))
        for row in rows:
            np.save(folder / "mel" / f"{row['Uid']}.npy", random.normal(-4, 2, (80, 16)).astype(np.float32))
    return folder.parent


@pytest.fixture
def tiny_config(tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a config for a short run in tmp_path: tiny_config(recipe, train={"max_steps": 4})."""
    train = {
        "batch_size": 2, "max_steps": 8, "accumulate": 2, "ema_decay": 0.8, "save_checkpoints_steps": 4,
        "valid_interval": 4, "num_workers": 0, "accelerator": "cpu", "devices": 1, "warmup_steps": 2,
        "lr_schedule": "cosine", "gradient_clip": 1.0, "adam": {"lr": 1e-2},
    }  # fmt: skip
    models: dict[str, dict[str, Any]] = {
        "tta/autoencoderkl": {
            "autoencoderkl": {"ch": 4, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "norm_num_groups": 2},
            "loss": {"disc_start": 2, "disc_channels": 4, "disc_num_layers": 2},
        },
        "tta/audioldm": {
            "autoencoder_path": str(tiny_checkpoint), "text_encoder": str(tiny_checkpoint),
            "audioldm": {
                "model_channels": 8, "channel_mult": [1, 1], "attention_resolutions": [1, 2], "num_res_blocks": 1,
                "num_heads": 2, "context_dim": 16, "norm_num_groups": 4, "use_checkpoint": False,
            },
        },
    }  # fmt: skip

    def write(recipe: str, **sections: dict[str, Any]) -> Path:
        path = tmp_path / f"{recipe.replace('/', '_')}.json"
        content = {
            "recipe": recipe, "exp_name": "run", "log_dir": str(tmp_path), "dataset": ["noise"],
            "preprocess": {"processed_dir": str(tiny_data), "frames": 16} | sections.get("preprocess", {}),
            "model": models[recipe] | sections.get("model", {}), "train": train | sections.get("train", {}),
        }  # fmt: skip
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def copy_of_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_checkpoint` that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy of a pipeline"))


@pytest.fixture(scope="session")
def published(goldens: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `ckpts/tta` like that of Amphion, with the small networks of the golden files in both latent sizes.

    It contains training checkpoints with optimizer states, and a vocoder with its config.json.
    """
    import torch

    root = tmp_path_factory.mktemp("amphion") / "ckpts" / "tta"

    def checkpoint(run: str, name: str, table: str) -> None:
        weights = goldens.weights_for(table)
        moments = {i: {"exp_avg": w * 0, "exp_avg_sq": w * 0, "step": 5} for i, w in enumerate(weights.values())}
        optimizer = {"state": moments, "param_groups": [{"lr": 5e-5, "params": list(moments)}]}
        (root / run / "checkpoints").mkdir(parents=True)
        content = {"model": weights, "step": int(name[5:12]), "epoch": 7, "batch_size": 12}
        content |= {"optimizer_ae" if "kl" in run else "optimizer": optimizer}
        torch.save(content, root / run / "checkpoints" / name)

    checkpoint("autoencoder_kl_debug", "step-0445000_loss-0.3306.pt", "vae_4_5_39_small")
    checkpoint("autoencoder_kl_debug_latent_size_4_10_78", "step-0390000_loss-0.2876.pt", "vae_4_10_78_small")
    checkpoint("audioldm_debug_latent_size_4_5_39", "step-0570000_loss-0.2521.pt", "unet_small")
    checkpoint("audioldm_debug_latent_size_4_10_78", "step-0325000_loss-0.1936.pt", "unet_small")
    vocoder = root / "hifigan_checkpoints"
    vocoder.mkdir()
    torch.save({"generator": goldens.weights_for("hifigan_small")}, vocoder / "g_01250000")
    settings = {
        "resblock": "1", "upsample_rates": [8, 8, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4],
        "upsample_initial_channel": 512, "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3, "num_mels": 80, "n_fft": 1024, "hop_size": 256,
        "win_size": 1024, "sampling_rate": 16000, "fmin": 0, "fmax": 8000, "fmax_for_loss": None,
    }  # fmt: skip
    (vocoder / "config.json").write_text(json.dumps(settings))
    return root
