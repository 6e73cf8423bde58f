"""Compare the preset "turbo" of the shipped audio-to-image models with their 20 guided steps, at equal noise.

python tests/benchmarks/few_steps_pictures.py --num_samples 360 --output_dir few_steps_pictures

Writes few_steps_pictures.json, few_steps_pictures.md and sheets of pictures. Each sound (or spoken sentence) of unseen
scenes is encoded once, and drawn by each sampler from the same seed. "right": the frozen judge of pictures finds all
requested kinds; "count": the number of repeated events is right; "diversity": mean distance of the judge's features
among 8 seeds of each of 40 sounds, divided by the first sampler's; "detail" and "contrast": mean absolute difference of
neighbouring pixels, and standard deviation of all pixels. "captions" is Stable Diffusion with the true captions.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sonolume.models.a2i.few_steps import in_folder
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.mini.judges import PICTURE_JUDGE, load_judge, run_judge
from sonolume.modules.judges import PictureJudge
from sonolume.modules.metrics.interval import Share, bootstrap_mean
from sonolume.modules.sampling import generators
from sonolume.preprocessors.miniworld import TEST_SEED, world
from sonolume.preprocessors.miniworld.scene import KINDS, Scene
from sonolume.preprocessors.miniworld.spoken import utterances
from sonolume.utils import paths
from sonolume.utils.image import picture_grid

BATCH_SIZE = 32
SPREAD_SOUNDS, SPREAD_SEEDS = 40, 8
ROWS = 12  # of a sheet
CAPTIONS = "captions"
MODELS = {"audiotoken": False, "audio2img": True, "wavy": True, CAPTIONS: True}  # name -> with scenes of two events
GROUPS = {"single": "", "then": "then", "over": "over"}  # name -> relation of the scene


class Sampler(NamedTuple):
    name: str
    preset: str
    steps: int
    folder: Path | None = None  # of another Stable Diffusion's turbo/
    cache_interval: int = 1


class Row(NamedTuple):
    """What is measured for one model and sampler."""

    model: str
    sampler: str
    right: list[bool]  # for each sound
    counts: list[bool | None]  # None where no number is asked for
    spread: float
    detail: float
    contrast: float


class Judged:
    """The frozen judge and its features."""

    def __init__(self) -> None:
        self.judge = load_judge(PictureJudge, paths.root() / PICTURE_JUDGE)
        self._features: list[Tensor] = []
        presence: Any = self.judge.presence
        presence.register_forward_pre_hook(lambda _, inputs: self._features.append(inputs[0]))

    def score(self, pictures: Tensor, scenes: list[Scene]) -> tuple[list[bool], list[bool | None]]:
        """Whether all kinds are right, of a single event the most likely kind, and whether its number is."""
        found = run_judge(self.judge, pictures)
        right, counts = [], []
        for presence, repeats, scene in zip(found.presence, found.repeats, scenes, strict=True):
            kinds = [KINDS.index(event.kind) for event in scene.events]
            single = not scene.relation
            right.append(int(presence.argmax()) == kinds[0] if single else all(presence[kind] > 0 for kind in kinds))
            asked = single and scene.events[0].count > 1
            counts.append(int(repeats.argmax()) + 1 == scene.events[0].count if asked else None)
        return right, counts

    def spread(self, pictures: Tensor) -> float:
        """Mean distance among the pictures of a sound, `SPREAD_SEEDS` each in a row."""
        self._features.clear()
        run_judge(self.judge, pictures)
        features = torch.cat(self._features).unflatten(0, (-1, SPREAD_SEEDS))                   # (sounds, seeds, d)
        distances = torch.cdist(features, features)
        return float(distances.sum() / (len(features) * SPREAD_SEEDS * (SPREAD_SEEDS - 1)))


def load(name: str) -> AudioToImagePipeline:
    pipe = AudioToImagePipeline.from_pretrained(paths.root() / "pretrained/mini" / name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encode(pipe: AudioToImagePipeline, name: str, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Text states and negative ones (N, L, D) of the sounds of scenes, or of their captions."""
    if name == CAPTIONS:
        texts = [world.captions(scene, 1, "test", mention=1.0)[0] for scene in scenes]
        states = pipe.encode_texts(texts, pipe.sd.tokenizer.model_max_length)
        return states, pipe.encode_texts([""], states.shape[1]).expand_as(states)
    spoken = name == "wavy"
    waves = (utterances(scene, 1, "test", mention=1.0)[0].render() if spoken else world.render(scene)
             for scene in tqdm(scenes, desc=name, leave=False))  # fmt: skip
    return pipe.encode_prompt([torch.as_tensor(wave, dtype=torch.float32) for wave in waves])


def draw(pipe: AudioToImagePipeline, sampler: Sampler, states: Tensor, negative: Tensor, seeds: list[int]) -> Tensor:
    """Pictures (N, 3, 64, 64) in 0..1, rounded as files have them."""
    if sampler.folder is not None:
        pipe.use_preset("balanced")
        pipe.turbo = in_folder(sampler.folder)
    pipe.use_preset(sampler.preset)
    made = []
    for start in tqdm(range(0, len(states), BATCH_SIZE), desc=sampler.name, leave=False):
        rows = slice(start, start + BATCH_SIZE)
        made.append(pipe(prompt_embeds=states[rows], negative_prompt_embeds=negative[rows], output_type="pt",
                         num_inference_steps=sampler.steps, cache_interval=sampler.cache_interval,
                         generator=generators(seeds[rows])).images)  # fmt: skip
    return (torch.cat(made) * 255).round() / 255


def measure(name: str, samplers: list[Sampler], options: argparse.Namespace, judged: Judged) -> list[Row]:
    """Rows of all samplers of a model, those of --known unchanged, and its sheet."""
    pipe = load("audio2img" if name == CAPTIONS else name)
    scenes = list(world.scenes("test", options.num_samples, options.scene_seed, pairs=MODELS[name]))
    states, negative = encode(pipe, name, scenes)
    sounds = torch.arange(min(SPREAD_SOUNDS, len(scenes))).repeat_interleave(SPREAD_SEEDS)
    seeds = [1000 * (1 + number % SPREAD_SEEDS) + int(sound) for number, sound in enumerate(sounds)]
    rows, columns = [], []
    for sampler in samplers:
        known = [row for row in options.known if (row.model, row.sampler) == (name, sampler.name)]
        count = ROWS if known else len(scenes)
        made = draw(pipe, sampler, states[:count], negative[:count], list(range(count)))
        columns.append([Image.fromarray((255 * one).byte().permute(1, 2, 0).numpy()) for one in made[:ROWS]])
        if known:
            rows += known
            continue
        spread = 0.0
        if not options.no_diversity:
            spread = judged.spread(draw(pipe, sampler, states[sounds], negative[sounds], seeds))
        detail = (made.diff(dim=-1).abs().mean() + made.diff(dim=-2).abs().mean()) / 2
        rows.append(Row(name, sampler.name, *judged.score(made, scenes), spread, float(detail), float(made.std())))
    texts = [world.captions(scene, 1, "test", mention=1.0)[0] for scene in scenes[:ROWS]]
    picture_grid(options.output_dir / f"{name}.png", columns, [sampler.name for sampler in samplers], texts)
    return rows


def _cell(right: Sequence[bool]) -> str:
    value, low, high = (100 * part for part in Share.of(torch.tensor(right, dtype=torch.bool)).cell)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _gap(own: Sequence[bool], first: Sequence[bool]) -> str:
    pair = 100 * (torch.tensor(own).double() - torch.tensor(first).double())
    low, high = bootstrap_mean(pair)
    return f"{float(pair.mean()):+.1f} ({low:+.1f} to {high:+.1f})"


def table(rows: list[Row], options: argparse.Namespace) -> str:
    """Markdown; each row is compared with the first one of its model."""
    lines = ["| model | sampler | right, % | difference | single / then / over, % | count, % | difference "
             "| diversity | detail | contrast |", "|" + "---|" * 10]  # fmt: skip
    first = rows[0]
    for row in rows:
        first = row if row.model != first.model else first
        scenes = list(world.scenes("test", options.num_samples, options.scene_seed, pairs=MODELS[row.model]))
        counts, others = ([one for one in each.counts if one is not None] for each in (row, first))
        groups = []
        for relation in GROUPS.values():
            among = [right for right, scene in zip(row.right, scenes, strict=True) if scene.relation == relation]
            groups.append(f"{100 * sum(among) / len(among):.1f}" if among else "")
        same = row is first
        cells = [row.model, row.sampler, _cell(row.right), "" if same else _gap(row.right, first.right),
                 " / ".join(groups), f"{_cell(counts)}, N = {len(counts)}", "" if same else _gap(counts, others),
                 f"{row.spread / first.spread:.2f}" if first.spread else "", f"{row.detail:.4f}",
                 f"{row.contrast:.3f}"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def rows_of(file: str) -> list[Row]:
    return [Row(**row) for row in json.loads(Path(file).read_text(encoding="utf-8"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--num_samples", type=int, default=360)
    parser.add_argument("--scene_seed", type=int, default=TEST_SEED)
    parser.add_argument("--teacher_steps", type=int, nargs="*", default=[20])
    parser.add_argument("--turbo_steps", type=int, nargs="*", default=[4])
    parser.add_argument("--folder", type=Path, nargs="*", default=[],
                        help="folders with another turbo/, instead of the shipped one")  # fmt: skip
    parser.add_argument("--cache_intervals", type=int, nargs="*", default=[],
                        help="all samplers once more for each, with re-used deep layers")  # fmt: skip
    parser.add_argument("--no_diversity", action="store_true")
    parser.add_argument("--known", type=rows_of, default=[],
                        help="few_steps_pictures.json of an earlier run with the same scenes")  # fmt: skip
    parser.add_argument("--output_dir", type=Path, default=Path("few_steps_pictures"))
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    samplers = [Sampler(f"{steps} steps", "balanced", steps) for steps in options.teacher_steps]
    for folder in options.folder or [None]:
        name = "turbo" if folder is None else folder.name
        samplers += [Sampler(f"{name}, {steps}", "turbo", steps, folder) for steps in options.turbo_steps]
    samplers += [sampler._replace(name=f"{sampler.name}, cache_interval {interval}", cache_interval=interval)
                 for sampler in samplers for interval in options.cache_intervals]  # fmt: skip
    judged = Judged()
    rows = [row for name in options.models for row in measure(name, samplers, options, judged)]
    text = table(rows, options)
    print(text)
    (options.output_dir / "few_steps_pictures.md").write_text(text, encoding="utf-8")
    found = json.dumps([row._asdict() for row in rows])
    (options.output_dir / "few_steps_pictures.json").write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
