"""Judges of the miniature world: their targets, frozen ones that score sounds and pictures, and shares in a report.

The shares are those of judgements that agree with the requested scene. K kinds, S steps. `IGNORE` marks attributes that
a caption would not mention either, such as an average pitch, and all attributes of a pair.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sonolume.models.evaluation.report import Report
from sonolume.modules.judges import Judge, PictureJudge, PictureJudgement, SoundJudge, SoundJudgement, judge_version
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld import DURATION
from sonolume.preprocessors.miniworld.scene import KINDS, PITCHED, Event, Scene, band
from sonolume.utils import paths
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image

SOUND_JUDGES = ("pretrained/mini/sound_judge", "pretrained/mini/sound_judge_second")
PICTURE_JUDGE = "pretrained/mini/picture_judge"
SIDE = 64  # pixels
BATCH_SIZE = 64

SOUND_HEADLINES = {"single": "single", "count": "count", "then_both": "then: both", "over_both": "over: both"}
PICTURE_HEADLINES = {
    "single": "right kind of picture", "then_both": "then: both kinds", "over_both": "over: both kinds",
}  # fmt: skip

Judgement = SoundJudgement | PictureJudgement
IGNORE = -1
RELATIONS = ("", "then", "over")
BANDS = ("", "low", "high")  # a class is an index minus 1, so that "" is `IGNORE`
DIRECTIONS = ("", "up", "down")  # likewise
UNREMARKABLE = Event("", loudness=0.5)  # no attribute that a caption would mention: stands for a pair
STEPS = 20  # time steps of a scene: 8 mel frames each
CHANCE = {  # share that a generator reaches which ignores its caption, in the order of reports
    "single": 1 / len(KINDS), "count": 1 / 3, "layout": 1 / 3,
    "then_both": 1 / math.comb(len(KINDS), 2), "then_order": 1 / 2, "then_places": 1 / 2,  # if it makes random pairs
    "over_both": 1 / math.comb(len(KINDS), 2), "over_places": 1 / 2,
    "pitch": 1 / 2, "loudness": 1 / 2, "direction": 1 / 2,
}  # fmt: skip

AnyJudge = TypeVar("AnyJudge", bound=Judge)
Shares = Mapping[str, Share]


def sound_target(scene: Scene, steps: int = STEPS) -> SoundJudgement:
    """Targets of the sound judge: presence (K,) and activity (K, S) float 0 or 1; the others () long."""
    event = UNREMARKABLE if scene.relation else scene.events[0]
    return SoundJudgement(
        presence=presence([scene]),
        activity=activity(scene, steps),
        repeats=torch.tensor(event.count - 1),
        pitch=torch.tensor(BANDS.index(band(event.pitch) if event.kind in PITCHED else "") - 1),
        loudness=torch.tensor(BANDS.index(band(event.loudness)) - 1),
        direction=torch.tensor(DIRECTIONS.index(event.direction) - 1),
    )


def picture_target(scene: Scene) -> PictureJudgement:
    """Targets of the picture judge: presence (K,) float 0 or 1; panels (2,), layout and repeats () long."""
    panels = [KINDS.index(event.kind) for event in scene.events]
    return PictureJudgement(
        presence=presence([scene]),
        layout=torch.tensor(RELATIONS.index(scene.relation)),
        panels=torch.tensor((panels + [IGNORE])[:2]),
        repeats=torch.tensor(IGNORE if scene.relation else scene.events[0].count - 1),
    )


def presence(scenes: list[Scene]) -> Tensor:
    """(K,) 1.0 for every kind that occurs in any of the scenes."""
    kinds = {event.kind for scene in scenes for event in scene.events}
    return torch.tensor([float(kind in kinds) for kind in KINDS])


def activity(scene: Scene, steps: int) -> Tensor:
    """(K, S) 1.0 for every kind at each step that one of its events overlaps."""
    grid = torch.zeros(len(KINDS), steps)
    for event in scene.events:
        first, last = math.floor(event.start / DURATION * steps), math.ceil(event.end / DURATION * steps)
        grid[KINDS.index(event.kind), first:last] = 1
    return grid


def score_judgement(judgement: Judgement, scenes: Sequence[Scene]) -> dict[str, Share]:
    """Compare the judgement of N sounds or pictures with their scenes.

    Returns:
        single: the most likely kind is the requested one; count: repetitions above one; then_both, over_both: both
        kinds are present. Sounds: then_order: they start in the right order, among those with both; pitch, loudness,
        direction: the attribute, where a caption would mention it. Pictures: layout: one panel, two side by side or
        two stacked; then_places, over_places: each kind is in its own panel, among those with both.

    Raises:
        ValueError: the numbers of judgements and scenes differ.
    """
    if len(judgement.presence) != len(scenes):
        raise ValueError(f"{len(judgement.presence)} judgements, but {len(scenes)} scenes")
    single, then, over = (torch.tensor([scene.relation == name for scene in scenes]) for name in ("", "then", "over"))
    of_scene = sound_target if isinstance(judgement, SoundJudgement) else picture_target
    target: Judgement = type(judgement)(*map(torch.stack, zip(*map(of_scene, scenes), strict=True)))  # type: ignore[arg-type]
    both = ((judgement.presence > 0) | (target.presence == 0)).all(-1)  # a logit above 0 is a probability above 1/2
    checks = {  # score -> which samples are right (N,), and which are counted (N,)
        "single": (judgement.presence.argmax(-1) == target.presence.argmax(-1), single),
        "count": (judgement.repeats.argmax(-1) == target.repeats, target.repeats > 0),  # one need not be mentioned
        "then_both": (both, then),
        "over_both": (both, over),
    }
    if isinstance(judgement, SoundJudgement):
        checks["then_order"] = _in_order(judgement.activity, scenes), then & both
        for name in ("pitch", "loudness", "direction"):
            wanted = getattr(target, name)
            checks[name] = getattr(judgement, name).argmax(-1) == wanted, wanted != IGNORE
    else:
        placed = (judgement.panels.argmax(-1) == target.panels).all(-1)  # type: ignore[union-attr]
        checks["layout"] = judgement.layout.argmax(-1) == target.layout, single | then | over  # type: ignore[union-attr]
        checks |= {"then_places": (placed, then & both), "over_places": (placed, over & both)}
    found = {name: Share(int((right & among).sum()), int(among.sum())) for name, (right, among) in checks.items()}
    return {name: found[name] for name in CHANCE if name in found}


def _in_order(activity: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """(N,) whether the centre of mass of the first event's activity precedes that of the last event."""
    sounding = activity.float().sigmoid()                                                 # (N, K, S)
    time = torch.arange(activity.shape[-1], dtype=torch.float)                            # (S,)
    centre = (sounding * time).sum(-1) / sounding.sum(-1).clamp(min=1e-6)                 # (N, K)
    first = torch.tensor([KINDS.index(scene.events[0].kind) for scene in scenes])
    last = torch.tensor([KINDS.index(scene.events[-1].kind) for scene in scenes])
    return centre.gather(1, first[:, None])[:, 0] < centre.gather(1, last[:, None])[:, 0]


def load_judge(judge_class: type[AnyJudge], folder: Path | str) -> AnyJudge:
    """Load a trained judge.

    Raises:
        UserError: absent or damaged; names the config that trains one.
    """
    try:
        return judge_class.from_pretrained(folder)
    except UserError as error:
        recipe = "sound_judge" if judge_class is SoundJudge else "picture_judge"
        raise UserError(f"{error} (train one with egs/mini/{recipe}.json)") from error


@torch.inference_mode()
def run_judge(judge: Judge, inputs: Tensor) -> Any:
    """Judge N natural-log mels (N, M, T) or pictures (N, 3, 64, 64) in 0..1: a judgement of all, on the CPU."""
    device = next(judge.parameters()).device
    batches = [judge(batch.to(device)) for batch in inputs.float().split(BATCH_SIZE)]
    return type(batches[0])(*(torch.cat(field).cpu() for field in zip(*batches, strict=True)))


def load_pixels(files: Sequence[Path]) -> Tensor:
    """Load pictures of any size at the size of the judge: (N, 3, 64, 64) in 0..1."""
    pictures = [np.asarray(open_image(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for path in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def add_sound_shares(report: Report, scenes: Sequence[Scene], mels: Tensor, baselines: Mapping[str, Tensor]) -> None:
    """Add the shares of sounds that match their scenes, with chance level, baselines and the second judge's shares.

    `mels` are natural-log mels (N, M, T); `baselines` those of other sounds of the N scenes, by column name.
    """
    first, second = (load_judge(SoundJudge, paths.root() / folder) for folder in SOUND_JUDGES)
    columns = {name: score_judgement(run_judge(first, other), scenes) for name, other in baselines.items()}
    columns["second judge"] = score_judgement(run_judge(second, mels), scenes)
    add_shares(report, score_judgement(run_judge(first, mels), scenes), SOUND_HEADLINES, columns)


def add_picture_shares(
    report: Report, scenes: Sequence[Scene], pictures: Tensor, baselines: Mapping[str, Tensor]
) -> None:
    """Add the shares of pictures (N, 3, 64, 64) in 0..1, as `add_sound_shares`; scores without samples are left out."""
    columns = {name: picture_shares(other, scenes) for name, other in baselines.items()}
    shares = {key: share for key, share in picture_shares(pictures, scenes).items() if share.total}
    add_shares(report, shares, PICTURE_HEADLINES, columns)


def picture_shares(pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, Share]:
    """Score pictures (N, 3, 64, 64) in 0..1 with the shipped judge, as `score_judgement`."""
    return score_judgement(run_judge(load_judge(PictureJudge, paths.root() / PICTURE_JUDGE), pictures), scenes)


def add_shares(report: Report, shares: Shares, headlines: Mapping[str, str], columns: Mapping[str, Shares]) -> None:
    """Add shares with their chance level and other columns; `headlines` are named, "then_order" is "then: order"."""
    for key, share in shares.items():
        baselines = {column: others[key] for column, others in columns.items()}
        name = headlines.get(key, key.replace("_", ": "))
        report.add_share(name, share, CHANCE[key], baselines, headline=key in headlines)


def versions(*shipped: str) -> list[str]:
    """Names of shipped judges with content hashes, for a report's conditions."""
    return [judge_version(paths.root() / folder) for folder in shipped]
