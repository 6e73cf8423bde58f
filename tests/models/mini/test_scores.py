"""Scores of judgements that are made up: right, wrong in one way, and empty."""

import pytest
import torch

from sonolume.models.mini import scores
from sonolume.models.mini.truth import picture_truth, sound_truth
from sonolume.modules.judges import PictureJudgement, SoundJudgement
from sonolume.preprocessors.miniworld.scene import KINDS, scenes

SCENES = list(scenes("test", 120))


def logits(truth: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(truth.clamp(min=0), classes) * 8.0 - 4


def heard() -> SoundJudgement:
    """What a perfect judge says of perfect sounds."""
    truth = SoundJudgement(*(torch.stack(field) for field in zip(*map(sound_truth, SCENES), strict=True)))
    sizes = {"repeats": 3, "pitch": 2, "loudness": 2, "direction": 2}
    classes = {name: logits(getattr(truth, name), size) for name, size in sizes.items()}
    return SoundJudgement(truth.presence * 8 - 4, truth.activity * 8 - 4, **classes)


def seen() -> PictureJudgement:
    truth = PictureJudgement(*(torch.stack(field) for field in zip(*map(picture_truth, SCENES), strict=True)))
    return PictureJudgement(
        truth.presence * 8 - 4, logits(truth.layout, 3), logits(truth.panels, len(KINDS)), logits(truth.repeats, 3)
    )


def test_what_is_right_scores_in_full() -> None:
    for table in (scores.rows(heard(), SCENES), scores.picture_rows(seen(), SCENES)):
        assert set(table) <= set(scores.CHANCE)
        assert all(share.total for share in table.values())
        assert {name for name, share in table.items() if share.right != share.total} == set()


def test_a_missing_event_costs_both_and_leaves_the_order() -> None:
    right = heard()
    index = next(i for i, scene in enumerate(SCENES) if scene.relation == "then")
    right.presence[index, KINDS.index(SCENES[index].events[0].kind)] = -1
    table, full = scores.rows(right, SCENES), scores.rows(heard(), SCENES)
    assert table["then: both"].right == full["then: both"].right - 1
    assert table["then: order"].total == full["then: order"].total - 1
    assert table["over: both"] == full["over: both"]


def test_the_wrong_order_is_seen() -> None:
    wrong = heard()
    assert scores.rows(wrong._replace(activity=wrong.activity.flip(-1)), SCENES)["then: order"].right == 0


def test_the_wrong_kind_and_count_are_seen() -> None:
    wrong = heard()
    wrong = wrong._replace(presence=wrong.presence.roll(1, -1), repeats=wrong.repeats.roll(1, -1))
    table = scores.rows(wrong, SCENES)
    assert (table["single"].right, table["count"].right) == (0, 0)


def test_counts_are_those_that_the_caption_says() -> None:
    singles = [scene.events[0] for scene in SCENES if not scene.relation]
    assert scores.rows(heard(), SCENES)["count"].total == sum(event.count > 1 for event in singles)
    every = [True] * len(SCENES)
    assert scores.rows(heard(), SCENES, every)["count"].total == sum(event.count > 0 for event in singles)
    assert scores.rows(heard(), SCENES, [False] * len(SCENES))["count"].total == 0


def test_swapped_panels_are_seen() -> None:
    wrong = seen()
    table = scores.picture_rows(wrong._replace(panels=wrong.panels.flip(1)), SCENES)
    assert (table["then: places"].right, table["over: places"].right) == (0, 0)
    assert table["then: both"].right == table["then: both"].total


def test_judges_agree_with_themselves_only() -> None:
    first = heard()
    assert all(share.value == 1 for share in scores.agreement(first, first, SCENES).values())
    other = first._replace(presence=first.presence.roll(1, -1))
    assert all(share.value == 0 for share in scores.agreement(first, other, SCENES).values())


def test_each_kind_has_its_share() -> None:
    deaf = heard()
    deaf.presence[:, 0] = -4
    table = scores.by_kind(deaf, SCENES)
    assert table[KINDS[0]].right == 0 and table[KINDS[0]].total > 0
    assert all(table[kind].value == 1 for kind in KINDS[1:])


def test_judgements_and_scenes_must_match() -> None:
    with pytest.raises(ValueError, match="120 judgements do not belong to 119 scenes"):
        scores.rows(heard(), SCENES[:-1])
