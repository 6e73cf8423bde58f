import pytest

from sonolume.preprocessors.miniworld.captions import SUBJECTS, captions
from sonolume.preprocessors.miniworld.scene import KINDS, scenes
from sonolume.preprocessors.miniworld.words import KIND_WORDS, kinds_in


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_caption_names_exactly_its_kinds(split: str) -> None:
    for scene in scenes(split, 200):
        present = {event.kind for event in scene.events}
        for text in captions(scene, 3, split):
            assert set(kinds_in(text)) == present, text


def test_no_verb_is_taken_for_another_kind() -> None:
    verbs = {verb: kind for kind, (_, words) in SUBJECTS.items() for verb in words}
    assert all(kind == verbs[verb] for verb, kind in KIND_WORDS.items() if verb in verbs)


def test_other_forms_and_other_texts() -> None:
    assert kinds_in("Two DOGS, and the Bells!") == ["bell", "dog"]
    assert [kinds_in(f"a photo of a {kind}") for kind in KINDS] == [[kind] for kind in KINDS]
    assert kinds_in("a piano plays") == kinds_in("") == []
    assert kinds_in("training and belles-lettres") == []
