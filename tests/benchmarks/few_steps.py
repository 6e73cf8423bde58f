"""Compare a text-to-audio pipeline of the miniature world with its distilled sampler, at equal captions and seeds.

python tests/benchmarks/few_steps.py --num_samples 600 --output_dir few_steps

Writes few_steps.json, few_steps.md and the sheet few_steps.png. Rows are samplers: the teacher at several numbers of
steps and the distilled one. "right": all requested kinds of sound are found by a frozen judge (both judges are given),
in the decoded mel; "FD": Frechet distance of the first judge's features to real renderings of the same scenes;
"diversity": mean distance of these features among 8 seeds of each of 40 captions, divided by the teacher's; "detail":
mean absolute difference of neighbouring mel frames; seconds are processor seconds of one sound, medians of several runs
in turn, with one sound or 16 in a batch; "denoising" has the text encoder in it, "clip" also decoder and vocoder.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sonolume.config.base import MiniworldConfig
from sonolume.models.evaluation.held_out import scenes_with_files
from sonolume.models.mini.judges import SOUND_JUDGES, load_judge, run_judge
from sonolume.models.tta.audioldm.inference import SHIPPED, load
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.judges import SoundJudge
from sonolume.modules.mel import MelSpectrogram
from sonolume.modules.metrics.embeddings import frechet_distance
from sonolume.modules.metrics.interval import Share, bootstrap_mean
from sonolume.modules.sampling import generators
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.scene import KINDS, Scene
from sonolume.utils import paths
from sonolume.utils.image import spectrogram_grid

BATCH_SIZE = 20
SPREAD_CAPTIONS, SPREAD_SEEDS = 40, 8
TIMED_RUNS, MANY = 5, 16
COLOURS = 96  # of the sheet, which a page shows
TEACHER_STEPS = (20, 8, 4, 2, 1)
STUDENT_STEPS = (1, 2, 4)
GROUPS = {"single": "", "then": "then", "over": "over"}  # name -> relation of the scene


class Sampler(NamedTuple):
    name: str
    pipe: TextToAudioPipeline
    steps: int
    cache_interval: int | None = None  # the pipeline's own

    @property
    def calls(self) -> int:
        """Network calls for one sound, whole or not; guidance counts twice."""
        return self.steps * (1 if self.pipe.config.distilled else 2)

    def mels(self, captions: list[str], seeds: Iterable[int], bar: str = "") -> Tensor:
        """ln mel (N, M, T), as decoded."""
        numbers, found = list(seeds), []
        for start in tqdm(range(0, len(captions), BATCH_SIZE), desc=bar or self.name, leave=False):
            rows = slice(start, start + BATCH_SIZE)
            found.append(self(captions[rows], numbers[rows], "mel"))
        return torch.cat(found)

    def __call__(self, captions: list[str], seeds: list[int], output: str) -> Any:
        made = self.pipe(captions, num_inference_steps=self.steps, cache_interval=self.cache_interval,
                         generator=generators(seeds), output_type=output)  # fmt: skip
        return made.audios


@dataclass
class Row:
    """Everything that is measured for one sampler."""

    name: str
    calls: int
    right: list[list[bool]]  # of each judge, for each caption
    frechet: float
    spread: float
    detail: float
    deviation: float  # standard deviation of the mel
    denoising: float = 0.0  # processor seconds of one sound
    denoising_many: float = 0.0  # the same in a batch of `MANY`
    clip: float = 0.0  # with decoder and vocoder


def longest(samplers: list[Sampler]) -> list[Sampler]:
    """The sampler of each pipeline with the most steps."""
    by_pipe = {id(sampler.pipe): sampler for sampler in sorted(samplers, key=lambda sampler: sampler.steps)}
    return list(by_pipe.values())


def cached(sampler: Sampler, interval: int) -> Sampler:
    """The same sampler with the deep layers of its U-Net computed at one of `interval` steps."""
    return sampler._replace(name=f"{sampler.name}, cache_interval {interval}", cache_interval=interval)


class Judges:
    """Both frozen judges, and features of the first one."""

    def __init__(self) -> None:
        self.judges = [load_judge(SoundJudge, paths.root() / folder) for folder in SOUND_JUDGES]
        self._features: list[Tensor] = []
        presence: Any = self.judges[0].presence
        presence.register_forward_pre_hook(lambda _, inputs: self._features.append(inputs[0]))

    def right(self, mels: Tensor, scenes: list[Scene]) -> list[list[bool]]:
        """Whether all kinds of each scene are found: of a single event it must be the most likely kind."""
        found = []
        for judge in self.judges:
            presence = run_judge(judge, mels).presence                                         # (N, K)
            found.append([_is_right(row, scene) for row, scene in zip(presence, scenes, strict=True)])
        return found

    def features(self, mels: Tensor) -> Tensor:
        """(N, d) of the first judge."""
        self._features.clear()
        run_judge(self.judges[0], mels)
        return torch.cat(self._features)


def _is_right(presence: Tensor, scene: Scene) -> bool:
    kinds = {KINDS.index(event.kind) for event in scene.events}
    return int(presence.argmax()) in kinds if not scene.relation else all(presence[kind] > 0 for kind in kinds)


def real_mels(pipe: TextToAudioPipeline, scenes: list[Scene]) -> Tensor:
    """ln mel (N, M, T) of renderings of scenes."""
    mel = MelSpectrogram(pipe.mel_settings)
    waves = (torch.as_tensor(world.render(scene), dtype=torch.float32) for scene in tqdm(scenes, desc="real"))
    return torch.stack([mel(wave[None])[0] for wave in waves])


def spread(features: Tensor) -> float:
    """Mean distance among the sounds of a caption; features (captions, seeds, d)."""
    distances = torch.cdist(features, features)                                                # (C, S, S)
    seeds = features.shape[1]
    return float(distances.sum() / (len(features) * seeds * (seeds - 1)))


@torch.no_grad()
def measure(sampler: Sampler, captions: list[str], scenes: list[Scene], real: Tensor, judges: Judges) -> Row:
    mels = sampler.mels(captions, range(len(captions)))
    some = [caption for caption in captions[:SPREAD_CAPTIONS] for _ in range(SPREAD_SEEDS)]
    seeds = [1000 * (1 + number % SPREAD_SEEDS) + number // SPREAD_SEEDS for number in range(len(some))]
    many = judges.features(sampler.mels(some, seeds, f"{sampler.name}, seeds"))
    return Row(
        sampler.name, sampler.calls, judges.right(mels, scenes), frechet_distance(real, judges.features(mels)),
        spread(many.unflatten(0, (-1, SPREAD_SEEDS))), float(mels.diff(dim=-1).abs().mean()), float(mels.std()),
    )  # fmt: skip


def measure_time(samplers: list[Sampler], rows: list[Row], caption: str) -> None:
    """Fill in the processor seconds of one sound: all samplers in turn, `TIMED_RUNS` times after a warm-up."""
    for field, output, size in (("denoising", "latent", 1), ("denoising_many", "latent", MANY), ("clip", "np", 1)):
        seconds: list[list[float]] = [[] for _ in samplers]
        for turn in range(1 + TIMED_RUNS):
            for sampler, found in zip(samplers, seconds, strict=True):
                start = time.process_time()
                sampler([caption] * size, [turn] * size, output)
                found.append((time.process_time() - start) / size)
        for row, found in zip(rows, seconds, strict=True):
            setattr(row, field, statistics.median(found[1:]))


def _percent(right: list[bool]) -> str:
    value, low, high = (100 * part for part in Share.of(torch.tensor(right)).cell)
    return f"{value:.1f} ({low:.0f}-{high:.0f})"


def table(rows: list[Row], scenes: list[Scene]) -> str:
    """The rows as a table in Markdown; the first one is what the others are compared with."""
    first = rows[0]
    lines = [
        "| sampler | calls | right, % (judge 1; 2) | difference from the first row | single / then / over, % | FD "
        "| diversity | detail | denoising, s: alone, in 16 | clip, s |",
        "|" + "---|" * 10,
    ]
    for row in rows:
        judged = zip(row.right, first.right, strict=True)
        pairs = [torch.tensor(own).double() - torch.tensor(other).double() for own, other in judged]
        gaps = [(100 * float(pair.mean()), *(100 * end for end in bootstrap_mean(pair))) for pair in pairs]
        groups = []
        for relation in GROUPS.values():
            chosen = [right for right, scene in zip(row.right[0], scenes, strict=True) if scene.relation == relation]
            groups.append(f"{100 * sum(chosen) / max(1, len(chosen)):.1f}")
        cells = [
            row.name, str(row.calls), "; ".join(_percent(one) for one in row.right),
            "" if row is first else "; ".join(f"{gap:+.1f} ({low:+.1f} to {high:+.1f})" for gap, low, high in gaps),
            " / ".join(groups), f"{row.frechet:.2f}", f"{row.spread / first.spread:.2f}", f"{row.detail:.3f}",
            f"{row.denoising:.3f}, {row.denoising_many:.3f}", f"{row.clip:.3f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sheet(samplers: list[Sampler], captions: list[str], path: Path) -> None:
    """Draw spectrograms: a row for each caption, a column for each sampler."""
    columns = [sampler.mels(captions, range(len(captions))).numpy() for sampler in samplers]
    mel = samplers[0].pipe.mel_settings
    spectrogram_grid(path, columns, captions, [sampler.name for sampler in samplers], mel.sample_rate, mel.hop_size)
    Image.open(path).quantize(COLOURS).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=str(paths.root() / SHIPPED), help="the teacher")
    parser.add_argument("--distilled", type=Path, nargs="*", default=[],
                        help="folders of distilled pipelines (default: the preset turbo of the teacher)")  # fmt: skip
    parser.add_argument("--num_samples", type=int, default=600)
    parser.add_argument("--teacher_steps", type=int, nargs="*", default=list(TEACHER_STEPS))
    parser.add_argument("--student_steps", type=int, nargs="*", default=list(STUDENT_STEPS))
    parser.add_argument("--cache_intervals", type=int, nargs="*", default=[],
                        help="re-use deep layers, in more rows for each pipeline's most steps")  # fmt: skip
    parser.add_argument("--known", type=Path, help="few_steps.json of an earlier run with the same captions")
    parser.add_argument("--output_dir", type=Path, default=Path("few_steps"))
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    tests = scenes_with_files(MiniworldConfig(), options.num_samples, None)
    scenes, captions = list(tests.scenes), list(tests.captions.values())
    teacher = load(options.checkpoint, "cpu")
    teacher.set_progress_bar_config(disable=True)
    samplers = [Sampler(f"teacher, {steps}", teacher, steps) for steps in options.teacher_steps]
    for folder in options.distilled or [options.checkpoint]:
        student = load(str(folder), "cpu")
        student.set_progress_bar_config(disable=True)
        student.use_preset("turbo")
        name = Path(folder).parent.name if options.distilled else "turbo"
        samplers += [Sampler(f"{name}, {steps}", student, steps) for steps in options.student_steps]
    samplers += [cached(sampler, number) for sampler in longest(samplers) for number in options.cache_intervals]
    judges = Judges()
    real = judges.features(real_mels(teacher, scenes))
    known = {} if options.known is None else {one["name"]: Row(**one) for one in json.loads(options.known.read_text())}
    rows = [known.get(sampler.name) or measure(sampler, captions, scenes, real, judges)
            for sampler in tqdm(samplers, desc="samplers")]  # fmt: skip
    measure_time(samplers, rows, captions[0])
    text = table(rows, scenes)
    print(text)
    (options.output_dir / "few_steps.md").write_text(text, encoding="utf-8")
    (options.output_dir / "few_steps.json").write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
    sheet(samplers, captions[:5], options.output_dir / "few_steps.png")


if __name__ == "__main__":
    main()
