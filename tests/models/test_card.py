"""Model cards of exported folders: facts only, no local path, read by huggingface_hub's parser."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_load

from sonolume.config.load import load_config, recipe_module, recipes
from sonolume.models import card
from sonolume.models.card import WORLD, Run, compose, declared, licence_of, refresh
from sonolume.models.convert import common
from sonolume.models.evaluation.report import Report, Score, finish
from sonolume.utils import local_paths
from sonolume.utils.errors import UserError

HEADINGS = ["Use", "Training", "Measured", "Licence", "Limits", "Citation"]
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")


@pytest.fixture
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini" / "text_to_audio"


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    """A report of two scores and one that could not be computed."""
    scores = [
        Score("single", 0.9876, low=0.97, high=0.995, count=260, chance=1 / 12, unit="%", headline=True,
              baselines={"VAE": (0.996, 0.98, 0.999)}),
        Score("FAD mini:x | y", 3.1749, "down", 2.74, 3.59, 600, note="N 600"),
        Score("then: order", float("nan"), count=0),
    ]  # fmt: skip
    facts = {"model": "/home/anna/runs/pipeline", "num_steps": 20, "of": "miniature world"}
    finish(Report({"seed": 7, "reference": 600}, scores, facts), tmp_path)
    return json.loads((tmp_path / "report.json").read_text())


def section(text: str, name: str) -> str:
    return text.split(f"\n## {name}\n")[1].split("\n## ")[0]


def test_the_card_of_a_shipped_miniature(shipped: Path) -> None:
    text = compose(shipped)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    head = ModelCard(text).data
    assert (head.library_name, head.pipeline_tag, head.license) == ("diffusers", "text-to-audio", None)
    assert {"sonolume", "tta-audioldm"} <= set(head.tags or [])
    assert "sonolume inference tta/audioldm --checkpoint FOLDER_OR_ID" in section(text, "Use")
    assert "trust_remote_code" not in text  # the shipped folder holds no code
    assert section(text, "Measured").split("\n")[1:4] == ["<!-- measured -->", "Not measured.", "<!-- /measured -->"]
    assert "not known" in section(text, "Training") and "not set yet" in section(text, "Licence")
    assert "2304.00830" in section(text, "Citation")


def test_every_number_of_the_scores_is_in_the_report(shipped: Path, report: dict[str, Any]) -> None:
    text = refresh(compose(shipped), "bells", "cc-by-4.0", report)
    known = NUMBER.findall(json.dumps(report))
    formatted = {f"{scale * float(one):{digits}}" for one in known for scale, digits in ((100, ".1f"), (1, ".4g"))}
    measured = section(text, "Measured").replace("95 %", "")
    wrong = [one for one in NUMBER.findall(measured) if one not in formatted | set(known)]
    assert not wrong and "98.8 % (97.0 to 99.5)" in measured and "| - |" in measured
    assert "anna" not in text and r"FAD mini:x \| y" in measured

    head = ModelCard(text).data
    assert head.license == "cc-by-4.0" and "`cc-by-4.0`" in section(text, "Licence")
    single, distance = head.eval_results or []  # without the one that is NaN
    assert (single.metric_value, distance.metric_value) == (0.9876, 3.1749)
    assert single.metric_args == {"low": 0.97, "high": 0.995, "samples": 260, "unit": "share, 0 to 1",
                                  "conditions": report["content_hash"]}  # fmt: skip
    again = refresh(text, "bells", None, report)
    assert ModelCard(again).data.to_dict() == head.to_dict() and section(again, "Measured") == section(text, "Measured")


def test_what_a_person_added_stays(shipped: Path, report: dict[str, Any]) -> None:
    text = compose(shipped).replace("inference: false", "inference: false\ndatasets:\n- me/bells") + "\nMy words.\n"
    changed = refresh(text, "bells", "mit", report)
    assert changed.endswith("\nMy words.\n") and ModelCard(changed).data.datasets == ["me/bells"]


@pytest.mark.parametrize(
    ("text", "named"),
    [("# No head", "head"), ("---\nlicense: [\n---\n", "head"), ("---\nlicense: mit\n---\nwords", "<!-- measured -->")],
)
def test_a_card_that_cannot_be_refreshed(text: str, named: str, report: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        refresh(text, "bells", None, report)


def test_the_card_of_a_run(root: Path, tmp_path: Path) -> None:
    """Steps, data and parts of the run; hours only if all rows have a duration; no local path."""
    stage_1 = tmp_path / "home" / "anna" / "vae"
    stage_1.mkdir(parents=True)
    (stage_1 / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    data = tmp_path / "data"
    for name, rows in (("bells", [{"Duration": 1800}, {"Duration": 1800.0}]), ("rain", [{"Duration": 1}, {}])):
        (data / name).mkdir(parents=True)
        (data / name / "train.json").write_text(json.dumps(rows))
        (data / name / "report.json").write_text(json.dumps({"examples": {"train": len(rows)}}))
    overrides = [f"preprocess.processed_dir='{data}'", f"model.autoencoder_path='{stage_1}'", f"log_dir='{tmp_path}'"]
    overrides += ["dataset=[bells,rain,lost]", "train.max_steps=50000"]
    config = load_config(root / "egs/tta/audioldm/exp_config.json", overrides)
    text = compose(tmp_path, Run(config, 1200, 2, (1000, 0.12345)))
    training = section(text, "Training")
    assert "1,200 of 50,000 planned" in training and "0.1235 at step 1,000" in training
    rows = [line for line in training.splitlines() if line.startswith(("| bells", "| rain", "| lost"))]
    assert [row.split(" | ")[1:4] for row in rows] == [
        ["2", "0", "1"], ["2", "0", "not known"], ["not known", "not known", "not known"],
    ]  # fmt: skip
    licences = section(text, "Licence")
    assert "cc-by-nc-4.0" in licences and "| `text_encoder` | `google-t5/t5-base` | not known |" in licences
    assert str(tmp_path) not in text and local_paths.find_in_text(text) is None
    assert "| recordings | not known |" in training and "not known | not known |" in training
    assert "before the end of its training" in section(text, "Limits")


@pytest.mark.parametrize("recipe", [one for one in recipes() if not one.startswith("mini/")])
def test_what_the_recipes_declare(recipe: str, root: Path) -> None:
    """Each names its paper, of which an address is in CITATION.cff or on the recipe's page."""
    found = declared(recipe, root)
    assert found is recipe_module(recipe).CARD and found.title and found.summary and found.limits and found.tags
    known = (root / "CITATION.cff").read_text() + (root / "egs" / recipe / "README.md").read_text()
    addresses = re.findall(r"url = \{(?:https://arxiv\.org/abs/)?(.+)\}", found.citation)
    assert found.citation.startswith("@") and all(address in known for address in addresses)
    if found.code:
        compile(found.code, recipe, "exec")


def test_a_loss_on_training_rows_is_called_so(root: Path, tmp_path: Path) -> None:
    """Fine-tuning has no validation rows by default."""
    (tmp_path / "bells").mkdir()
    (tmp_path / "bells" / "report.json").write_text('{"examples": {"train": 3}}')
    overrides = [f"preprocess.processed_dir='{tmp_path}'", "dataset=[bells]"]
    config = load_config(root / "egs/tta/audioldm/tiny.json", overrides)
    assert "0.5 at step 1, on training rows" in compose(tmp_path, Run(config, 1, 1, (1, 0.5)))


def test_a_recipe_that_declares_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"recipe": "demo/loudness"}')  # of a version that this is not
    assert "# A model of demo/loudness\n" in compose(tmp_path)
    (tmp_path / "config.json").write_text('{"recipe": "mini/sound_judge"}')
    text = compose(tmp_path)
    first_line = str(recipe_module("mini/sound_judge").__doc__).partition("\n")[0].removeprefix("mini/sound_judge: ")
    assert first_line.lower() in text.lower() and "`egs/mini/README.md`" in text


def test_models_that_a_stage_does_not_use_are_not_listed(root: Path, tmp_path: Path) -> None:
    """They stand in the config as defaults."""
    for name, used, unused in (
        ("s2i/wavy/encoder.json", "facebook/hubert-large-ls960-ft", "CompVis/stable-diffusion-v1-4"),
        ("s2i/wavy/exp_config.json", "CompVis/stable-diffusion-v1-4", "facebook/hubert-large-ls960-ft"),
        ("a2i/audio2img/exp_config_attention.json", "CompVis/stable-diffusion-v1-4", "facebook/w2v-bert-2.0"),
        ("i2a/im2wav/low.json", "openai/clip-vit-base-patch32", "im2wav_low"),
        ("i2a/im2wav/vqvae.json", "", "openai/clip-vit-base-patch32"),
    ):
        licences = section(compose(tmp_path, Run(load_config(root / "egs" / name), 1)), "Licence")
        assert used in licences and unused not in licences, name


def test_scenes_of_the_miniature_world_are_told_from_recordings(root: Path, tmp_path: Path) -> None:
    """By the rows of the manifest."""
    (tmp_path / "bells").mkdir()
    overrides = [f"preprocess.processed_dir='{tmp_path}'", "dataset=[bells]"]
    config = load_config(root / "egs/tta/autoencoderkl/tiny.json", overrides)
    for number, (scene, origin, is_limit) in enumerate((({}, WORLD, True), (None, "recordings", False))):
        (tmp_path / "bells" / "train.json").write_text(json.dumps([{"Scene": scene, "Duration": 36 + number}]))
        text = compose(tmp_path, Run(config, 1, 1, (1, 0.5)))
        assert "| 0.5 at step 1 |" in text
        assert f"| 0.01{'03' * number} | {origin} |" in text and ("miniature world only" in text) is is_limit


@dataclass
class Folder:
    """Files of an exported folder, and what its card says."""

    files: dict[str, str]
    library: str
    words: str


@pytest.mark.parametrize(
    "given",
    [
        Folder({"pytorch_lora_weights.safetensors": ""}, "diffusers", "--lora FOLDER"),
        Folder({"config.json": '{"_class_name": "AutoencoderKL"}'}, "diffusers", "AutoencoderKL.from_pretrained"),
        Folder({"config.json": '{"_class_name": "UNet2DConditionModel"}'}, "diffusers", "use_crop_upsampling"),
        Folder({"config.json": '{"architectures": ["SpeechT5HifiGan"]}'}, "transformers", "SpeechT5HifiGan"),
        Folder({"im2wav.json": '{"recipe": "i2a/im2wav"}', "vqvae/config.json": "{}"}, "sonolume", "earlier stage"),
        Folder({"config.json": '{"_class_name": "BEATs"}'}, "sonolume", "# BEATs\n"),
        Folder({"config.json": "{"}, "sonolume", "# Model\n"),
        Folder({"model_index.json": '{"_class_name": "TextToAudioPipeline"}', "pipeline.py": ""}, "diffusers",
               "runs the Python files of this folder"),
    ],
)  # fmt: skip
def test_kinds_of_folders(given: Folder, tmp_path: Path) -> None:
    for name, content in given.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    text = compose(tmp_path)
    assert ModelCard(text).data.library_name == given.library and given.words in text


def test_a_converted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"system": "x", "encoder": "/home/anna/runs/a/encoder", "terms": "Yours to check"}
    with common.converted_folder(tmp_path / "made", tmp_path / "x.tar", "a network", source) as folder:
        (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    text = (tmp_path / "made" / "README.md").read_text()
    assert "`a/encoder`" in text and "Yours to check." in section(text, "Licence") and "anna" not in text
    assert "anna" not in (tmp_path / "made" / "source.json").read_text()


def test_licences_are_those_of_the_parts_own_cards(
    shipped: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert licence_of(str(shipped)) == licence_of("pretrained/mini/clip") == "MIT"
    assert "Licence: MIT" in (root / "pretrained/mini/README.md").read_text()
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: my-terms\n---\n")
    assert licence_of(str(tmp_path)) == "my-terms"
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae").mkdir()
    assert licence_of(str(tmp_path / "vae")) == "my-terms"
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert licence_of(str(tmp_path)) == licence_of("org/never-downloaded") == "not known"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    monkeypatch.setattr(card, "try_to_load_from_cache", lambda *_: str(tmp_path / "README.md"))
    assert licence_of("org/downloaded") == "apache-2.0"


def test_the_head_in_the_file(tmp_path: Path, root: Path) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    config = SimpleNamespace(recipe="tta/audioldm", exp_name="a_*b*", dataset=[], to_dict=lambda: {
        "model": {"pretrained": "me/bells", "vae": "pretrained/mini/clip", "prompt": "a/b c" * 99}})  # fmt: skip
    card.write(tmp_path, Run(config, 3))  # type: ignore[arg-type]
    head = metadata_load(tmp_path / "README.md") or {}
    assert head["base_model"] == ["me/bells"] and "lora" in head["tags"]
    assert r"\*b\*" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("value", "stripped"),
    [
        ("/home/anna/ckpts", "ckpts"), ("/srv/models/a/b/", "a/b"), ("clip:/srv/a/clip", "clip:a/clip"),
        ("~/runs/a/b", "a/b"), ("C:\\Users\\anna\\x\\y", "x/y"), ("google-t5/t5-base", "google-t5/t5-base"),
        ("https://example.org/a/b", "https://example.org/a/b"), ("a photo of <*>, 4k", "a photo of <*>, 4k"),
        ("/data", "data"), ("/", "/"),
    ],
)  # fmt: skip
def test_local_paths(value: str, stripped: str) -> None:
    assert local_paths.strip({"a": [value]}) == {"a": [stripped]}
    assert (local_paths.find_in_value(value) is None) == (value in (stripped, "/data"))
