"""Model cards of exported folders: README.md, composed of facts. What is not known is printed as not known.

A recipe adds what no file states by the constant CARD of its config module, see config/card.py.
"""

import functools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load, try_to_load_from_cache

from sonolume.config.base import DataConfig, RunConfig
from sonolume.config.card import FOLDER, Card
from sonolume.config.load import recipe_module, recipes
from sonolume.models import lora, runtime
from sonolume.models.evaluation.report import Score, score_table
from sonolume.modules import unet
from sonolume.modules.saved_card import END_LICENCE, END_MEASURED, FILE, LICENCE, MARK, MEASURED
from sonolume.preprocessors.prepared import REPORT_FILE, dataset_folder, is_sharded
from sonolume.utils import files, local_paths, paths
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.model_folder import COMPONENTS, HUB_ID, PIPELINES, SETTINGS, WHOLE_MODELS, class_in
from sonolume.utils.storage import SHARDS_FILE
from sonolume.utils.text import code, markdown

RUN_FILE = "sonolume.json"  # of models/tta/audioldm/run_config.py
BASELINES = "The columns after chance are baselines and upper bounds: the same score of other samples."
WORLD = "generated scenes of the miniature world"
UNKNOWN, NOT_MEASURED = "not known", "Not measured."
BASES = ("pretrained", "init_path")  # in config.model: the model that training began with
SHIPPED, SHIPPED_LICENCE = Path("pretrained", "mini"), "MIT"  # as its README.md says
RECIPES = {  # class of a folder that names no recipe -> the recipe whose networks it has
    "TextToAudioPipeline": "tta/audioldm", "UNet2DConditionModel": "tta/audioldm",
    "AutoencoderKL": "tta/autoencoderkl", "SpeechT5HifiGan": "tta/hifigan",
}  # fmt: skip
LIBRARIES = {name: library for library, names in COMPONENTS.values() for name in names}
LIBRARIES |= dict.fromkeys(PIPELINES, "diffusers") | dict.fromkeys(WHOLE_MODELS, "transformers")
LORA_USE = f"""\
```sh
sonolume inference {{recipe}} --checkpoint BASE_FOLDER_OR_ID --lora FOLDER {{arguments}}
```

In diffusers, a pipeline of the base model takes the file by `pipe.load_lora_weights("{FOLDER}")`, which needs peft."""
STOCK_USE = f"""\
Stock diffusers loads the folder where sonolume is not installed:

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{FOLDER}", trust_remote_code=True)
```

`trust_remote_code=True` runs the Python files of this folder: read them first. sonolume never runs them."""
SOFTWARE = """\
@software{{sonolume,
  title = {{sonolume}},
  author = {{sonolume contributors}},
  version = {{{version}}}
}}"""


@dataclass(frozen=True)
class Run:
    """The state of a training at an export."""

    config: RunConfig
    steps: int  # optimizer steps done
    processes: int = 1
    validation: tuple[int, float] | None = None  # step and val/loss of the last validation, if there was one


def write(folder: Path, run: Run | None = None, source: Mapping[str, Any] | None = None) -> None:
    """Write the card of an exported folder.

    Args:
        run: the training that exports it.
        source: facts of its conversion from published files, or the parts that it was assembled from.
    """
    (folder / FILE).write_text(compose(folder, run, source), encoding="utf-8")


def compose(folder: Path, run: Run | None = None, source: Mapping[str, Any] | None = None) -> str:
    """Compose the card of an exported folder; arguments as in `write`."""
    recipe = run.config.recipe if run else _recipe_of(folder)
    card = declared(recipe, folder)
    stored = _read(folder / RUN_FILE)  # the config of a run, in some exports
    parts = _trained_with(run.config, card) if run else sources(source or stored.get("model") or {})
    parts |= {key: place for key, place in sources(settings_of(folder)).items() if place not in parts.values()}
    bases = [place for key, place in parts.items() if key.rpartition(".")[2] in BASES and is_hub_id(place)]
    tags = ["sonolume", *card.tags, recipe.replace("/", "-"), "lora" if is_lora(folder) else ""]
    head = ModelCardData(
        library_name=_library(folder), pipeline_tag=card.pipeline_tag or None, tags=list(filter(None, tags)),
        base_model=bases or None, inference=False,
    )  # fmt: skip
    sections = {
        "Use": _use(folder, recipe, card),
        "Training": _training(run, source, bool(stored)),
        "Measured": f"{MEASURED}\n{NOT_MEASURED}\n{END_MEASURED}",
        "Licence": "\n\n".join([f"{LICENCE}\n{_own_licence(None)}\n{END_LICENCE}", *_licences(folder, parts, source)]),
        "Limits": _limits(run, card),
        "Citation": _citation(card),
    }
    title = f"{card.title}: {markdown(run.config.exp_name)}" if run else card.title
    has_page = (paths.root() / "egs" / recipe).is_dir()
    page = f"egs/{recipe if has_page else recipe.partition('/')[0]}/README.md"
    page = f" Recipe `{recipe}`; its page in sonolume is `{page}`." if recipe else ""
    what = "Low-rank adapters (LoRA) of the U-Net of such a model. " if is_lora(folder) else ""
    body = [MARK, f"# {title}", f"{what}{card.summary}{page}"]
    body += [f"## {name}\n\n{text}" for name, text in sections.items()]
    return f"---\n{head.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n"


def declared(recipe: str, folder: Path) -> Card:
    """Return CARD of a recipe's config module; without it, a card with its name and the module's first line."""
    module = recipe_module(recipe) if recipe in recipes() else None  # a folder may name anything
    if found := getattr(module, "CARD", None):
        return found
    if not recipe:
        return Card(class_in(settings_of(folder)) or "Model", "A model of sonolume.")
    line = (getattr(module, "__doc__", None) or "").partition("\n")[0].removeprefix(f"{recipe}: ")
    return Card(f"A model of {recipe}", f"{line[:1].upper()}{line[1:]}" if line else "")


def settings_of(folder: Path) -> dict[str, Any]:
    """Read the settings of an exported folder, those of sonolume and those of the libraries; {} if it has none."""
    return {key: value for name in SETTINGS for key, value in _read(folder / name).items()}


def _read(path: Path) -> dict[str, Any]:
    """Read a json; {} if it is missing or damaged: a card must not stop an export."""
    try:
        return files.read_json(path) if path.is_file() else {}
    except UserError:
        return {}


def is_lora(folder: Path) -> bool:
    """Whether a folder holds the adapters of a U-Net."""
    return (folder / lora.FILE).is_file()


def _recipe_of(folder: Path) -> str:
    """Recipe of a folder by its settings, else by its class; "" if neither tells."""
    stored = (settings_of(folder), _read(folder / RUN_FILE), _read(folder / "source.json"))
    found = next((one["recipe"] for one in stored if isinstance(one.get("recipe"), str)), "")
    return found or ("tta/audioldm" if is_lora(folder) else RECIPES.get(class_in(stored[0]), ""))


def _library(folder: Path) -> str:
    settings = settings_of(folder)
    if "recipe" in settings:  # a folder that sonolume alone reads
        return "sonolume"
    other = "transformers" if "transformers_version" in settings else "sonolume"
    return "diffusers" if is_lora(folder) else LIBRARIES.get(class_in(settings), other)


def _use(folder: Path, recipe: str, card: Card) -> str:
    if is_lora(folder):
        return LORA_USE.format(recipe=recipe, arguments=card.arguments)
    if class_in(settings_of(folder)) == "UNet2DConditionModel":
        return unet.CARD.partition("\n\n")[2].strip()
    if card.needs and not all((folder / name).is_dir() for name in card.needs):
        return "An earlier stage of the recipe: later stages are trained on it. It does not generate by itself."
    found = [f"`{FOLDER}` is the path of this folder, or the id of the model on the hub."]
    if recipe in recipes() and hasattr(recipe_module(recipe), "InferenceOptions"):
        found.append(f"```sh\nsonolume inference {recipe} --checkpoint {FOLDER} {card.arguments}".rstrip() + "\n```")
    if card.code:
        found.append(f"```python\n{card.code.strip()}\n```")
    if (folder / "pipeline.py").is_file():
        found.append(STOCK_USE)
    return "\n\n".join(found if len(found) > 1 else [f"The page of the recipe describes it. {found[0]}"])


def _training(run: Run | None, source: Mapping[str, Any] | None, has_config: bool) -> str:
    if run is not None:
        return "\n\n".join(_describe(run))
    if source is None:
        known = f"`{RUN_FILE}` is the config of its run. The rest is" if has_config else "This is"
        return f"{known} {UNKNOWN}."
    facts = {key: local_paths.strip(value) for key, value in source.items() if key != "terms"}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    table = _table(("fact", "value"), [(markdown(key), code(value)) for key, value in texts.items()])
    origin = f"Converted from published files, or assembled from parts, with sonolume {version('sonolume')}"
    return f"{origin}:\n\n{table}\n\nHow the parts were trained, and on what: {UNKNOWN}."


def _describe(run: Run) -> Iterator[str]:
    """Steps and settings of a run, its data, and the whole config."""
    config = run.config
    train: Any = getattr(config, "train", None)
    rows = [("optimizer steps", f"{run.steps:,}" + (f" of {train.max_steps:,} planned" if train else ""))]
    if train:
        rows += [
            ("batch", f"{train.batch_size} x {train.accumulate} accumulated x {run.processes} processes"),
            ("learning rate", f"{train.adam.lr:g}, {train.lr_schedule}, {train.warmup_steps:,} steps of warm-up"),
            ("precision", train.precision),
            ("weights", f"average with decay {train.ema_decay:g}" if train.ema_decay else "as they were at this step"),
            ("random seed", str(train.random_seed)),
        ]
    data = [_data(config, name) for name in config.dataset]
    loss = f"{run.validation[1]:.4g} at step {run.validation[0]:,}" if run.validation else UNKNOWN
    if run.validation and data and all(row[2] == "0" for row in data):
        loss += ", on training rows"
    rows += [("validation loss", loss), ("time", UNKNOWN)]
    rows += [("versions", ", ".join(f"{name} {number}" for name, number in runtime.versions().items()))]
    yield _table(("setting", "value"), [(name, markdown(value)) for name, value in rows])
    header = ("data set", "training rows", "validation rows", "hours of training data", "origin", "licence")
    yield _table(header, data)
    text = json.dumps(local_paths.strip(config.to_dict()), indent=1, ensure_ascii=False)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    yield f"<details><summary>The whole config</summary>\n\n{fence}json\n{text}\n{fence}\n\n</details>"


def _data(config: RunConfig, dataset: str) -> tuple[str, ...]:
    """One row about a prepared data set: counts, hours and origin, as far as its files tell."""
    data: Any = getattr(config, "preprocess", None)
    counts, hours, origin = {}, UNKNOWN, UNKNOWN
    if isinstance(data, DataConfig):
        folder = dataset_folder(data, dataset)
        examples = _read(folder / REPORT_FILE).get("examples")
        counts = {"valid": 0, **examples} if isinstance(examples, dict) and examples else {}
        if is_sharded(data, dataset):
            origin = WORLD if _read(folder / SHARDS_FILE).get("input") == "miniworld" else "recordings"
        elif (manifest := folder / data.train_file).is_file():
            hours, origin = _content(manifest, manifest.stat().st_mtime_ns)
    rows = [f"{counts[split]:,}" if isinstance(counts.get(split), int) else UNKNOWN for split in ("train", "valid")]
    return markdown(dataset), *rows, hours, origin, "none needed" if origin == WORLD else UNKNOWN


@functools.lru_cache(maxsize=16)
def _content(manifest: Path, changed: int) -> tuple[str, str]:
    """Hours and origin of the rows of a manifest, cached until it is `changed`; hours only if all rows have them."""
    try:
        rows = [dict(row) for row in json.loads(manifest.read_text(encoding="utf-8"))]
        seconds = sum(float(row.get("Duration") or math.nan) for row in rows)
    except (OSError, ValueError, TypeError):
        return UNKNOWN, UNKNOWN
    scenes = sum(row.get("Scene") is not None for row in rows)
    origin = "recordings" if not scenes else WORLD if scenes == len(rows) else f"recordings and {WORLD}"
    return f"{seconds / 3600:.3g}" if rows and math.isfinite(seconds) else UNKNOWN, origin


def _trained_with(config: RunConfig, card: Card) -> dict[str, str]:
    """Find the models that a training uses, by their keys in config.model."""
    found = sources(config.to_dict().get("model") or {})
    used = card.models(config) if card.models else found
    return {key: place for key, place in found.items() if key in used}


def sources(values: Any, prefix: str = "") -> dict[str, str]:
    """Find the models that settings name: dotted key -> local folder or file, or hub id."""
    if isinstance(values, dict):
        found = [sources(value, f"{prefix}{name}.") for name, value in values.items()]
        return {key: place for one in found for key, place in one.items()}
    key = prefix.rstrip(".")
    is_model = isinstance(values, str) and (is_hub_id(values) or ("/" in values and os.path.exists(_local(values))))
    return {key: values} if is_model else {}


def is_hub_id(place: str) -> bool:
    """Whether a model is named by an id of the hub, owner/name, and not by a folder."""
    is_path = place.startswith((".", "/", "~", "pretrained/", "ckpts/"))
    return "/" in place and not is_path and HUB_ID.fullmatch(place) is not None and not os.path.exists(_local(place))


def _local(place: str) -> Path:
    try:
        return paths.resolve(place)
    except UserError:  # ~ of an unknown user
        return Path(place)


def _licences(folder: Path, parts: Mapping[str, str], source: Mapping[str, Any] | None) -> Iterator[str]:
    """Licences of the code and of the parts, each as its own card states it."""
    if (folder / "pipeline.py").is_file():
        yield "The Python files of this folder are sonolume's: MIT."
    if terms := (source or {}).get("terms"):
        yield f"{terms}."
    if parts:
        rows = [(code(key), code(shown(place)), markdown(licence_of(place))) for key, place in parts.items()]
        yield "Models that it contains, names, or was trained with, each with the licence that its own card states:"
        yield _table(("part", "model", "licence"), rows)


def shown(place: str) -> str:
    """Name of a folder or hub id without the local part of a path."""
    return local_paths.strip(place)


def licence_of(place: str) -> str:
    """Licence of a model, by the head of its card; a hub id's only if its card was downloaded before."""
    folder = _local(place)
    if folder.is_relative_to(paths.root() / SHIPPED):
        return SHIPPED_LICENCE
    is_part = (folder.parent / "model_index.json").is_file()  # of a pipeline, which has the card
    cards = [folder / FILE, *([folder.parent / FILE] if is_part else [])]
    if is_hub_id(place):
        cached = try_to_load_from_cache(place, FILE)
        cards = [Path(cached)] if isinstance(cached, str) else []
    return next((found for card in cards if card.is_file() and (found := _stated(card))), UNKNOWN)


def _stated(card: Path) -> str:
    """Licence in the head of a card, or ""."""
    try:
        head = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    found = head.get("license_name") if head.get("license") == "other" else head.get("license")
    return found if isinstance(found, str) else ""


def _own_licence(licence: Any) -> str:
    return f"Licence of these weights: {code(str(licence)) if licence else 'not set yet'}."


def _limits(run: Run | None, card: Card) -> str:
    found = list(card.limits)
    train: Any = getattr(run.config, "train", None) if run else None
    if run and run.config.dataset and all(WORLD in _data(run.config, name) for name in run.config.dataset):
        found.insert(0, "It was trained on synthetic scenes of the miniature world only.")
    if run and train and run.steps < train.max_steps:
        steps = f"{run.steps:,} of {train.max_steps:,} steps"
        found.insert(0, f"It was exported before the end of its training, after {steps}.")
    found.append("What is not under Measured was not measured.")
    return "\n".join(f"- {line}" for line in found)


def _citation(card: Card) -> str:
    entries = [card.citation.strip(), SOFTWARE.format(version=version("sonolume"))]
    return "```bibtex\n" + "\n\n".join(filter(None, entries)) + "\n```"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def parse(text: str) -> ModelCard:
    """Read the head of a card with huggingface_hub's parser; a UserError if there is none, or it is broken."""
    if not re.match(r"\s*---[\r\n]", text):
        raise UserError(f"{FILE}: has no head, which begins with --- in the first line: remove it to have one written")
    try:
        return ModelCard(text)
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{FILE}: its head cannot be read: {first_line(error)}") from error


def refresh(text: str, name: str, licence: str | None = None, report: Mapping[str, Any] | None = None) -> str:
    """Put a licence and the scores of a report into a card; everything else stays.

    Args:
        name: of the model, in the head.
        report: content of a report.json.

    Raises:
        UserError: the head is broken, or the card has no section for the scores.
    """
    if licence is None and report is None:
        return text
    card = parse(text)
    body = card.text
    if licence is not None:
        card.data.license = licence
        body = _replace(body, LICENCE, END_LICENCE, _own_licence(licence))
    if report is not None:
        if MEASURED not in body or END_MEASURED not in body:
            raise UserError(f"{FILE}: add the lines {MEASURED} and {END_MEASURED}, between which the scores belong")
        body = _replace(body, MEASURED, END_MEASURED, _measured(report))
        card.data.model_name, card.data.eval_results = name, _results(report, card.data.pipeline_tag)
    return f"---\n{card.data.to_yaml()}\n---\n{body}"


def _replace(text: str, begin: str, end: str, content: str) -> str:
    before, found, rest = text.partition(begin)
    inside, closed, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}" if found and closed else text


def _measured(report: Mapping[str, Any]) -> str:
    """Table of a report's scores, with the conditions of the measurement."""
    known = {one.name for one in fields(Score)}
    scores = [Score(**{key: value for key, value in score.items() if key in known}) for score in report["scores"]]
    header, *rows = [tuple(map(markdown, row)) for row in score_table(scores)]
    facts = [f"{key} {shown(str(value))}" for key, value in (report.get("facts") or {}).items()
             if not isinstance(value, dict | list)]  # fmt: skip
    conditions = {key: value for key, value in report["conditions"].items() if value is not None}
    text = json.dumps(local_paths.strip(conditions), ensure_ascii=False)
    return "\n\n".join([
        markdown(", ".join(facts) + ".") if facts else "",
        _table(header, rows),
        BASELINES if any(score.baselines for score in scores) else "",
        f"Conditions {report.get('content_hash', UNKNOWN)}, in which reports must agree to be ranked: {code(text)}",
    ]).strip()  # fmt: skip


def _results(report: Mapping[str, Any], task: str | None) -> list[EvalResult]:
    """The scores in the form of a card's head; "other" stands for a data set that is not on the hub."""
    facts, known = report.get("facts") or {}, [score for score in report["scores"] if score["value"] is not None]
    return [
        EvalResult(
            task_type=task or "other", dataset_type="other", dataset_name=shown(str(facts.get("of") or UNKNOWN)),
            metric_type=re.sub(r"\W+", "-", str(score["name"]).lower()).strip("-"), metric_name=str(score["name"]),
            metric_value=score["value"],
            metric_args={"low": score["low"], "high": score["high"], "samples": score.get("count"),
                         "unit": "share, 0 to 1" if score.get("unit") == "%" else score.get("unit") or None,
                         "conditions": report.get("content_hash")},
        )
        for score in known
    ]  # fmt: skip
