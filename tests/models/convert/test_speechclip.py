"""Fabricated files with SpeechCLIP's names and shapes become encoders of s2i/wavy; others are named in one line."""

import json
import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sonolume.bins import convert as bins_convert
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.convert import speechclip
from sonolume.models.convert.common import SOURCE_FILE
from sonolume.modules.speech_clip import SpeechEncoder
from sonolume.utils import cli
from sonolume.utils.errors import UserError

SMALL = ["--hubert", "my/hubert", "--image_encoder", "my/clip"]  # flags for sizes that are not published


class OrderedNamespace:
    """Pickled as the official class is: an ordered dictionary as its state."""

    def __init__(self, **entries: Any) -> None:
        made = {name: OrderedNamespace(**one) if isinstance(one, dict) else one for name, one in entries.items()}
        object.__setattr__(self, "entries", made)

    def __getstate__(self) -> OrderedDict[str, Any]:
        return OrderedDict(self.entries)

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("code of the file's class ran")


def config(heads: int = 4, normalize: bool = True) -> dict[str, Any]:
    transformer = {"nhead": heads, "norm_first": False, "activation": "gelu"}
    return {
        "model_settings": {"parallel_branch": {"transformer_args": transformer}},
        "audio_encoder": {"name": "hubert_large_ll60k", "trainable": False, "normalize_hiddenstates": normalize},
        "clip": {"name": "ViT-L/14", "image_encoder_trainable": False}, "data": {"dataset": {"name": "flickr"}},
        "cl_loss": {"args": {"temperature": 0.07}},
    }  # fmt: skip


def shapes(width: int, size: int) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of the parallel branch."""
    layer = "self_att.model.layers.0."
    found = {
        "cls": (1, 1, width), layer + "self_attn.in_proj_weight": (3 * width, width),
        layer + "self_attn.in_proj_bias": (3 * width,), layer + "self_attn.out_proj.weight": (width, width),
        layer + "self_attn.out_proj.bias": (width,), layer + "linear1.weight": (4 * width, width),
        layer + "linear1.bias": (4 * width,), layer + "linear2.weight": (width, 4 * width),
        layer + "linear2.bias": (width,), "linear_proj.weight": (size, width), "linear_proj.bias": (size,),
    }  # fmt: skip
    norms = (layer + "norm1", layer + "norm2", "self_att.model.norm")
    return found | {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}


def official(branch: dict[str, Tensor], num_states: int, trained_temperature: bool = True) -> dict[str, Tensor]:
    """Weights of a whole file: the frozen networks, the loss with its buffers, and the branch."""
    masks = {f"criterion.{name}": torch.eye(256) for name in ("eye_mat", "neg_eye_mat", "eye_mat_fl")}
    temperature = {"criterion.temperature": torch.tensor(3.0)} if trained_temperature else {}
    return {
        "audio_encoder.encoder.mask_emb": torch.ones(2), "clip.model.logit_scale": torch.ones(()),
        "audio_encoder.weightedsum_layer.weights": torch.linspace(-1, 1, num_states), **temperature, **masks,
        **{f"parallel_branch.{name}": weight for name, weight in branch.items()},
    }  # fmt: skip


@pytest.fixture
def small(goldens: SimpleNamespace) -> dict[str, Tensor]:
    """The branch of parallel.npz."""
    table = goldens.golden("keys", goldens.SPEECH2IMG)["KW_ParallelBranch"]
    return {name: goldens.value_for(name, tuple(shape)) for name, shape in table.items()}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """write(weights, config={...}): a .ckpt of Lightning with an object of avssl's class; avssl is gone afterwards."""

    def make(weights: Any, stored: dict[str, Any] | None = None, **more: Any) -> Path:
        name = "avssl.base.ordered_namespace"
        with monkeypatch.context() as patch:
            for place in ("avssl", "avssl.base", name):
                patch.setitem(sys.modules, place, ModuleType(place))
            vars(sys.modules[name])["OrderedNamespace"] = OrderedNamespace
            patch.setattr(OrderedNamespace, "__module__", name)
            content = {"hyper_parameters": {"config": OrderedNamespace(**(stored or config()))}, "epoch": 3, **more}
            torch.save(content | {"state_dict": weights}, tmp_path / "published.ckpt")
        return tmp_path / "published.ckpt"

    return make


def settings_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / SETTINGS_FILE).read_text())


def test_the_numbers_are_the_official_ones(
    small: dict[str, Tensor], write: Callable[..., Path], goldens: SimpleNamespace, tmp_path: Path
):
    file, made = write(official(small, 4)), tmp_path / "made"
    assert cli.run(bins_convert.main, ["speechclip", str(file), str(made), *SMALL]) == 0
    encoder: Any = SpeechEncoder.from_pretrained(made / "speech_encoder")
    arrays = goldens.golden("parallel", goldens.SPEECH2IMG)
    with torch.no_grad():
        goldens.assert_close(encoder.encode_frames(arrays["frames"], arrays["lens"]), arrays["unit"], 1e-5)
    assert encoder.layer_weights.data.equal(torch.linspace(-1, 1, 4)) and encoder.logit_scale.item() == 3
    assert encoder.config["num_heads"] == 4 and encoder.normalize_layers is True
    assert settings_of(made) == {
        "recipe": "s2i/wavy", "stage": "encoder", "hubert": "my/hubert", "image_encoder": "my/clip"
    }  # fmt: skip
    assert json.loads((made / SOURCE_FILE).read_text()) == {
        "system": "speechclip", "file": "published.ckpt", "hubert": "hubert_large_ll60k", "clip": "ViT-L/14",
        "data": "flickr",
    }  # fmt: skip
    assert not list(made.rglob("*.ckpt")) and "avssl" not in sys.modules


@pytest.mark.parametrize("size", ["large", "base"])
def test_the_published_sizes(size: str, write: Callable[..., Path], tmp_path: Path):
    """Values of one number take no disk and no time."""
    width, vectors, states = (1024, 768, 25) if size == "large" else (768, 512, 13)
    branch = {name: torch.full((1,), 0.01).expand(shape) for name, shape in shapes(width, vectors).items()}
    path = write(official(branch, states, trained_temperature=size == "large"), config(8, size == "large"))
    encoder, _ = speechclip.read(path)
    count = {"large": 13.39e6, "base": 7.48e6}[size]
    assert sum(weight.numel() for weight in encoder.parameters()) == pytest.approx(count, rel=1e-3)
    assert encoder.normalize_layers is (size == "large") and encoder.config["num_heads"] == 8
    wanted = 3.0 if size == "large" else math.log(1 / 0.07)
    assert encoder.logit_scale.item() == pytest.approx(wanted)
    ids = speechclip._hubert(path, encoder, None), speechclip._image_encoder(path, encoder, None)
    assert ids == {
        "large": ("facebook/hubert-large-ll60k", "openai/clip-vit-large-patch14"),
        "base": ("facebook/hubert-base-ls960", "openai/clip-vit-base-patch32"),
    }[size]  # fmt: skip


def refusal(path: Path, folder: Path, hubert: str | None = "my/hubert", clip: str | None = "my/clip") -> str:
    with pytest.raises(UserError) as error:
        speechclip.convert(path, folder, hubert, clip)
    assert not folder.exists() and "\n" not in str(error.value)
    return str(error.value)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_a_file_that_runs_code_is_refused(
    small: dict[str, Tensor], write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = tmp_path / "made"
    assert "refused" in refusal(write(official(small, 4), callbacks=Evil()), made)
    torch.save({"state_dict": {"parallel_branch.cls": Evil()}}, tmp_path / "plain.ckpt")
    assert "refused" in refusal(tmp_path / "plain.ckpt", made)
    assert "executed" not in capsys.readouterr().out


def test_what_is_no_parallel_branch_is_named(
    small: dict[str, Tensor], write: Callable[..., Path], goldens: SimpleNamespace, tmp_path: Path
):
    made, whole = tmp_path / "made", official(small, 4)
    cascaded = {f"cascaded_branch.{name}": torch.ones(1) for name in ("cls", "linear_proj.weight")}
    frozen = {name: weight for name, weight in whole.items() if not name.startswith("parallel_branch")}
    assert "cascaded branch" in refusal(write(frozen | cascaded), made)
    assert "not SpeechCLIP's parallel branch" in refusal(write(frozen), made)
    assert "no weights under" in refusal(write({"a": 1}), made)
    assert "it has no proj.weight" in refusal(write({k: w for k, w in whole.items() if "linear_proj" not in k}), made)
    assert "it has no pool.norm.bias" in refusal(
        write({k: w for k, w in whole.items() if not k.endswith("model.norm.bias")}), made
    )
    assert "parallel_branch.more" in refusal(write(whole | {"parallel_branch.more": torch.ones(1)}), made)
    assert "NaN" in refusal(write(whole | {"parallel_branch.linear_proj.bias": torch.full((12,), torch.nan)}), made)
    assert "linear2.weight is" in refusal(
        write(whole | {"parallel_branch.self_att.model.layers.0.linear2.weight": torch.ones(16, 7)}), made
    )
    trained = config()
    trained["audio_encoder"]["trainable"] = True
    assert "was trained, too" in refusal(write(whole, trained), made)
    assert "5 heads" in refusal(write(whole, config(heads=5)), made)
    assert "nhead is 'many'" in refusal(write(whole, config(heads="many")), made)  # type: ignore[arg-type]
    assert "2 checkpoints" in refusal(_two(tmp_path), made)


def _two(folder: Path) -> Path:
    (folder / "two").mkdir()
    for name in ("a.ckpt", "b.ckpt"):
        (folder / "two" / name).touch()
    return folder / "two"


def test_networks_of_other_widths(small: dict[str, Tensor], write: Callable[..., Path], tmp_path: Path):
    path, made = write(official(small, 4)), tmp_path / "made"
    assert "--hubert" in refusal(path, made, hubert=None)
    assert "--image_encoder" in refusal(path, made, clip=None)
    hubert, clip = tmp_path / "hubert", tmp_path / "clip"
    for folder, settings in ((hubert, {"model_type": "hubert", "num_hidden_layers": 3, "hidden_size": 24}),
                             (clip, {"model_type": "clip", "projection_dim": 12})):  # fmt: skip
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(settings))
    assert "4 hidden states of width 16, --hubert" in refusal(path, made, hubert=str(hubert))
    (hubert / "config.json").write_text(json.dumps({"model_type": "hubert", "num_hidden_layers": 3, "hidden_size": 16}))
    speechclip.convert(path, made, str(hubert), str(clip))
    assert settings_of(made)["hubert"] == str(hubert) and settings_of(made)["image_encoder"] == str(clip)
    (clip / "config.json").write_text(json.dumps({"model_type": "clip", "projection_dim": 32}))
    assert "have width 12, those of" in refusal(path, tmp_path / "again", clip=str(clip))
