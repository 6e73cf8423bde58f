"""Model folders that name other classes or modules than the libraries' own: refused by every command, never run."""

import builtins
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sonolume.models import pretrained
from sonolume.models.a2i import frozen, loading
from sonolume.models.a2i.audiotoken import encoder
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.convert import assemble
from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline
from sonolume.models.tta.audioldm import inference, run_config
from sonolume.models.tta.audioldm.components import TextEncoder
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.modules.judges import SoundJudge
from sonolume.utils import checkpoint, model_folder, paths
from sonolume.utils.errors import UserError

INDEX, SCHEDULER, TOKENIZER = "model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"
VARIANTS: list[tuple[str, str, Any]] = [  # file, key, value
    (INDEX, "_class_name", "evil"),
    (INDEX, "_class_name", ["evil", "KIND"]),
    (INDEX, "_class_name", ["os", "KIND"]),
    (INDEX, "_class_name", ["../x", "KIND"]),
    (INDEX, "_class_name", ["pipeline", "Evil"]),
    (INDEX, "_class_name", ["pipeline", "evil", "KIND"]),
    (INDEX, "_class_name", {"evil": 1}),
    (INDEX, "_class_name", "evil\n# heading\x1b[31m"),
    (INDEX, "unet", ["evil\n# heading\x1b[31m", "X"]),
    (INDEX, "unet", ["evil", "UNet2DConditionModel"]),
    (INDEX, "unet", ["pipeline", "UNet2DConditionModel"]),
    (INDEX, "unet", ["../x", "UNet2DConditionModel"]),
    (INDEX, "unet", "evil"),
    (INDEX, "unet", ["diffusers", "UNet2DConditionModel", "evil"]),
    (INDEX, "vae", ["os", "system"]),
    (INDEX, "vae", ["diffusers", "DiffusionPipeline"]),
    (INDEX, "vae", ["diffusers", ["AutoencoderKL"]]),
    (INDEX, "scheduler", ["diffusers", "EvilScheduler"]),
    (INDEX, "scheduler", ["subprocess", "Popen"]),
    (INDEX, "text_encoder", ["transformers", "pipeline"]),
    (INDEX, "text_encoder", ["evil", "T5EncoderModel"]),
    (INDEX, "tokenizer", ["transformers", "AutoTokenizer"]),
    (INDEX, "tokenizer", ["builtins", "eval"]),
    (INDEX, "extra", ["evil", "Evil"]),
    ("unet/config.json", "_class_name", "evil"),
    ("unet/config.json", "_class_name", ["evil", "UNet2DConditionModel"]),
    ("vae/config.json", "_class_name", "../x"),
    ("vae/config.json", "auto_map", {"AutoModel": "evil.Evil"}),
    ("text_encoder/config.json", "architectures", ["evil", "T5EncoderModel"]),
    ("text_encoder/config.json", "auto_map", {"AutoModel": "evil--evil.Evil"}),
    (SCHEDULER, "_class_name", "StableDiffusionPipeline"),
    (SCHEDULER, "_class_name", "os"),
    (TOKENIZER, "tokenizer_class", "evil"),
    (TOKENIZER, "auto_map", {"AutoTokenizer": ["evil.Evil", None]}),
    ("unet/diffusers.py", "", ""),  # a module in the place of a library
]


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fails a test in which a hostile folder has run anything; it is importable as the module `evil`."""
    ran: list[Any] = []
    monkeypatch.setattr(builtins, "canary", ran.append, raising=False)
    monkeypatch.setattr(os, "system", ran.append)
    monkeypatch.syspath_prepend(tmp_path / "hostile")
    monkeypatch.chdir(tmp_path)
    yield
    assert not ran and "evil" not in sys.modules


def copy(root: Path, name: str, target: Path) -> Path:
    """A shipped model in target/hostile."""
    return Path(shutil.copytree(root / "pretrained" / "mini" / name, target / "hostile", dirs_exist_ok=True))


def poison(folder: Path, file: str, key: str, value: Any, kind: str) -> None:
    """Change one name in a folder, and add the code that it would run."""
    path = folder / file
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {key: json.loads(json.dumps(value).replace("KIND", kind))}))
    for place in (folder, path.parent):
        for name in ("evil.py", "pipeline.py", path.name if path.suffix == ".py" else "x.py"):
            (place / name).write_text("canary('ran')\nclass Evil: pass\nUNet2DConditionModel = Evil\n")
    (folder.parent / "x.py").write_text("canary('ran')")


def refused(folder: Path, loaders: dict[str, Callable[[str], Any]]) -> None:
    taken = []
    for name, load in loaders.items():
        try:
            load(str(folder))
        except (UserError, ValueError) as error:
            assert str(error).isprintable() and str(folder) in str(error), f"{name}: {error}"
        else:
            taken.append(name)
    assert not taken, f"ACCEPTED {taken}"


@pytest.mark.parametrize(("file", "key", "value"), VARIANTS, ids=str)
def test_text_to_audio(tiny_checkpoint: Path, tmp_path: Path, file: str, key: str, value: Any) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "hostile"))
    poison(folder, file, key, value, "TextToAudioPipeline")
    whole = {"vae": str(folder), "unet": str(folder), "text_encoder": str(folder)}
    refused(folder, {
        "inference, evaluation": lambda where: inference.load(where, "cpu"),
        "python": TextToAudioPipeline.from_pretrained,
        "training, autoencoder": autoencoderkl.load,
        "training, texts": TextEncoder,
        "fine-tuning": lambda where: run_config.read(Path(where)),
        "assemble": lambda _: assemble.text_to_audio(tmp_path / "made", whole),
        "assemble, a part": lambda where: assemble._load_unet(f"{where}/unet"),
    })  # fmt: skip
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("file", "key", "value"), VARIANTS, ids=str)
def test_stable_diffusion(
    root: Path, tmp_path: Path, file: str, key: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, exported = copy(root, "stable_diffusion", tmp_path), root / "pretrained" / "mini" / "audiotoken"
    poison(folder, file, key, value, "StableDiffusionPipeline")
    monkeypatch.setattr(encoder, "load", lambda *_: None)
    refused(folder, {
        "training": frozen.frozen_stable_diffusion,
        "inference, evaluation": lambda where: loading.load(str(exported), "a2i/audiotoken", "cpu", "float32", where),
        "without its checker": lambda where: loading.load_stable_diffusion(where, "key", torch.float32, False),
    })  # fmt: skip


NAMES = ["evil", "os", "pipeline", "../x", ["evil", "KIND"], ["KIND", "evil"]]


@pytest.mark.parametrize("value", NAMES, ids=str)
@pytest.mark.parametrize(
    ("part", "key", "kind", "load"),
    [
        ("beats", "_class_name", "BEATs", encoder.load_beats),
        ("sound_judge", "_class_name", "SoundJudge", SoundJudge.from_pretrained),
        ("clip", "architectures", "CLIPModel", lambda where: pretrained.model_settings(where, where, ("clip",))),
        ("im2wav/vqvae", "_class_name", "VQVAE", lambda where: Im2WavPipeline.from_pretrained(Path(where).parent)),
    ],
)
def test_single_networks(root: Path, tmp_path: Path, part: str, key: str, kind: str, load: Any, value: Any) -> None:
    model, *network = part.split("/")
    folder = copy(root, model, tmp_path).joinpath(*network)
    poison(folder, "config.json", key, value, kind)
    refused(folder, {part: load})


def test_recipes_are_compared(root: Path, tmp_path: Path) -> None:
    """The recipe of a folder is the name of a module of this package."""
    from sonolume.models.a2i.pipeline import AudioToImagePipeline

    for name in ("evil", "os", "../x", "a2i/../../evil", "a2i/pipeline", ["a2i/audiotoken"], "tta/audioldm"):
        folder = copy(root, "audiotoken", tmp_path)
        poison(folder, "audio_to_image.json", "recipe", name, "")
        refused(folder, {"python": AudioToImagePipeline.from_pretrained})


@pytest.mark.parametrize(("file", "key", "value"), VARIANTS[:3] + VARIANTS[24:25], ids=str)
def test_a_download_is_trusted_no_more_than_a_folder(
    root: Path, tmp_path: Path, file: str, key: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers
    import huggingface_hub

    folder = copy(root, "stable_diffusion", tmp_path)
    poison(folder, file, key, value, "StableDiffusionPipeline")
    fetched: list[Any] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: (fetched.append(options), str(folder))[1]
    )
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError):
        loading.load_stable_diffusion("owner/name", "--stable_diffusion", torch.float32)
    monkeypatch.setattr(diffusers.AutoencoderKL, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError):
        checkpoint.load_network(diffusers.AutoencoderKL, "owner/name", "model.autoencoder_path", "vae")
    assert fetched == [{"allow_patterns": "*.json"}] * 2  # no weights before the names are known


def test_what_is_stock_goes_on_loading(root: Path, tmp_path: Path) -> None:
    """Names as they stand in published folders of Stable Diffusion 1 and 2."""
    for name in ("text_to_audio", "stable_diffusion"):
        folder = root / "pretrained" / "mini" / name
        checkpoint.check_folder(folder, paths.kind_of(folder))
    folder = copy(root, "stable_diffusion", tmp_path)
    index = json.loads((folder / INDEX).read_text()) | {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"], "requires_safety_checker": True,
    }  # fmt: skip
    (folder / "feature_extractor").mkdir()
    extractor = {"feature_extractor_type": "CLIPFeatureExtractor", "image_processor_type": "CLIPImageProcessor"}
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(extractor))
    for scheduler in model_folder.COMPONENTS["scheduler"][1]:
        (folder / INDEX).write_text(json.dumps(index | {"scheduler": ["diffusers", scheduler]}))
        paths.check_names(folder, "StableDiffusionPipeline")
    import diffusers

    assert all(hasattr(diffusers, scheduler) for scheduler in model_folder.COMPONENTS["scheduler"][1])


@pytest.mark.parametrize("pipeline", [AudioToImagePipeline, Im2WavPipeline, TextToAudioPipeline])
@pytest.mark.parametrize("source", ["./none", "nobody/nothing", "pretrained/mini/beats", "tests"])
def test_what_cannot_be_loaded_is_a_value_error(pipeline: Any, source: str, root: Path, monkeypatch: Any):
    """A missing folder, a hub id that does not exist, a folder of another kind and one of no kind."""
    monkeypatch.chdir(root)
    with pytest.raises(ValueError) as caught:
        pipeline.from_pretrained(source)
    assert "\n" not in str(caught.value) and source.removeprefix("./") in str(caught.value)
