"""Targets of the judges, and scores of fabricated judgements: right, and wrong in one way."""

import pytest
import torch

from sonolume.models.mini import judges
from sonolume.models.mini.judges import IGNORE, picture_target, sound_target
from sonolume.modules.judges import PictureJudgement, SoundJudgement
from sonolume.preprocessors.miniworld.scene import KINDS, Event, Scene, scenes

SCENES = list(scenes("test", 120))
BELL, RAIN = KINDS.index("bell"), KINDS.index("rain")


def logits(target: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(target.clamp(min=0), classes) * 8.0 - 4


def perfect_sounds() -> SoundJudgement:
    target = SoundJudgement(*(torch.stack(field) for field in zip(*map(sound_target, SCENES), strict=True)))
    sizes = {"repeats": 3, "pitch": 2, "loudness": 2, "direction": 2}
    classes = {name: logits(getattr(target, name), size) for name, size in sizes.items()}
    return SoundJudgement(target.presence * 8 - 4, target.activity * 8 - 4, **classes)


def perfect_pictures() -> PictureJudgement:
    target = PictureJudgement(*(torch.stack(field) for field in zip(*map(picture_target, SCENES), strict=True)))
    return PictureJudgement(
        target.presence * 8 - 4, logits(target.layout, 3), logits(target.panels, len(KINDS)), logits(target.repeats, 3)
    )


def test_perfect_judgements_score_in_full() -> None:
    for table in (judges.score_judgement(perfect_sounds(), SCENES), judges.score_judgement(perfect_pictures(), SCENES)):
        assert set(table) <= set(judges.CHANCE)
        assert all(share.total for share in table.values())
        assert {name for name, share in table.items() if share.right != share.total} == set()


def test_a_missing_event_costs_both_and_leaves_the_order() -> None:
    right = perfect_sounds()
    index = next(i for i, scene in enumerate(SCENES) if scene.relation == "then")
    right.presence[index, KINDS.index(SCENES[index].events[0].kind)] = -1
    table, full = judges.score_judgement(right, SCENES), judges.score_judgement(perfect_sounds(), SCENES)
    assert table["then_both"].right == full["then_both"].right - 1
    assert table["then_order"].total == full["then_order"].total - 1
    assert table["over_both"] == full["over_both"]


def test_the_wrong_order_is_perfect_pictures() -> None:
    wrong = perfect_sounds()
    assert judges.score_judgement(wrong._replace(activity=wrong.activity.flip(-1)), SCENES)["then_order"].right == 0


def test_the_wrong_kind_and_count_are_perfect_pictures() -> None:
    wrong = perfect_sounds()
    wrong = wrong._replace(presence=wrong.presence.roll(1, -1), repeats=wrong.repeats.roll(1, -1))
    table = judges.score_judgement(wrong, SCENES)
    assert (table["single"].right, table["count"].right) == (0, 0)


def test_only_counts_above_one_are_scored() -> None:
    singles = [scene.events[0] for scene in SCENES if not scene.relation]
    assert judges.score_judgement(perfect_sounds(), SCENES)["count"].total == sum(event.count > 1 for event in singles)


def test_swapped_panels_are_perfect_pictures() -> None:
    wrong = perfect_pictures()
    table = judges.score_judgement(wrong._replace(panels=wrong.panels.flip(1)), SCENES)
    assert (table["then_places"].right, table["over_places"].right) == (0, 0)
    assert table["then_both"].right == table["then_both"].total


def test_judgements_and_scenes_must_match() -> None:
    with pytest.raises(ValueError, match="120.*119"):
        judges.score_judgement(perfect_sounds(), SCENES[:-1])


def single(**attributes: object) -> Scene:
    return Scene("x", [Event(**attributes)])  # type: ignore[arg-type]


def test_a_pair_has_kinds_and_times_but_no_attributes() -> None:
    scene = Scene("x", [Event("rain", start=0.0, end=1.28), Event("bell", count=2, pitch=0.9, start=1.28)], "then")
    target = sound_target(scene)
    assert target.presence.nonzero().flatten().tolist() == sorted([BELL, RAIN])
    assert target.activity[RAIN].tolist() == [1.0] * 10 + [0.0] * 10
    assert target.activity[BELL].tolist() == [0.0] * 10 + [1.0] * 10
    assert {int(value) for value in target[2:]} == {IGNORE}
    picture = picture_target(scene)
    assert (int(picture.layout), picture.panels.tolist(), int(picture.repeats)) == (1, [RAIN, BELL], IGNORE)


@pytest.mark.parametrize(
    ("attributes", "field", "wanted"),
    [
        ({"kind": "bell", "count": 3}, "repeats", 2),
        ({"kind": "rain"}, "repeats", IGNORE),
        ({"kind": "bell", "pitch": 0.1}, "pitch", 0),
        ({"kind": "bell", "pitch": 0.9}, "pitch", 1),
        ({"kind": "bell", "pitch": 0.5}, "pitch", IGNORE),
        ({"kind": "rain", "pitch": 0.9}, "pitch", IGNORE),  # rain has no pitch
        ({"kind": "rain", "loudness": 0.1}, "loudness", 0),
        ({"kind": "rain", "loudness": 0.5}, "loudness", IGNORE),
        ({"kind": "siren", "direction": "down"}, "direction", 1),
        ({"kind": "bell"}, "direction", IGNORE),
    ],
)
def test_attributes_that_no_caption_mentions_are_ignored(
    attributes: dict[str, object], field: str, wanted: int
) -> None:
    assert int(getattr(sound_target(single(**attributes)), field)) == wanted


def test_a_single_picture_has_one_panel() -> None:
    target = picture_target(single(kind="bell", count=2))
    assert target.panels.tolist() == [BELL, IGNORE]
    assert (int(target.layout), int(target.repeats)) == (0, 1)
    assert target.presence.dtype == torch.float32
