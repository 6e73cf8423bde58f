import re

import numpy as np
import pytest

from sonolume.preprocessors.miniworld.captions import (
    COUNTS,
    KIND_WORDS,
    SUBJECTS,
    TEST,
    TRAIN,
    captions,
    kinds_in,
    prompt,
    unknown_words,
)
from sonolume.preprocessors.miniworld.scene import KINDS, scenes


def words(texts: tuple[str, ...]) -> set[str]:
    return set(re.findall(r"[a-z]+", re.sub(r"{\w+}", " ", " ".join(texts))))


def test_captions_are_the_same_for_the_same_scene():
    for scene in scenes("train", 30):
        assert captions(scene, 3, "train") == captions(scene, 3, "train")


def test_every_relation_has_held_out_wordings_of_trained_words():
    assert set(TRAIN) == set(TEST) == {"", "then", "over"}
    trained = words(tuple(text for texts in TRAIN.values() for text in texts))
    for relation, texts in TEST.items():
        assert not set(texts) & set(TRAIN[relation])
        assert words(texts) <= trained


def test_test_captions_use_only_words_of_training_captions():
    trained = {
        w for scene in scenes("train", 3000) for text in captions(scene, 3, "train") for w in words((text.lower(),))
    }
    tested = {w for scene in scenes("test", 600) for text in captions(scene, 2, "test") for w in words((text.lower(),))}
    assert tested <= trained


def test_captions_name_every_event():
    nouns = {kind: noun.split(" ")[-1] for kind, (noun, _) in SUBJECTS.items()}
    assert set(nouns) == set(KINDS)
    for scene in scenes("train", 200):
        if scene.relation:
            for text in captions(scene, 3, "train"):
                assert all(nouns[event.kind] in text.lower() for event in scene.events), text


def test_captions_mention_counts_above_one():
    found = 0
    for split in ("train", "test"):
        for scene in scenes(split, 300):
            for text in captions(scene, 2, split):
                for event in scene.events:
                    if event.count > 1:
                        found += 1
                        assert any(phrase in text.lower() for phrase in COUNTS[event.count]), text
    assert found > 200


def test_captions_mention_no_wrong_count():
    for scene in scenes("train", 300):
        counts = {event.count for event in scene.events}
        for text in captions(scene, 2, "train"):
            mentioned = {count for count, phrases in COUNTS.items() if any(f" {p}" in text.lower() for p in phrases)}
            assert mentioned <= counts, text


def test_after_turns_the_order_of_the_names_not_of_the_events():
    turned = [
        (scene, text)
        for scene in scenes("train", 400)
        if scene.relation == "then"
        for text in captions(scene, 3, "train")
        if re.match(r"^(?!after\b).* after ", text.lower())
    ]
    assert turned
    for scene, text in turned:
        first, second = (SUBJECTS[event.kind][0].split(" ")[-1] for event in scene.events)
        before, after_it = text.lower().split(" after ")
        assert second in before
        assert first in after_it


def test_captions_read_as_sentences():
    for scene in scenes("test", 200):
        for text in captions(scene, 2, "test"):
            assert "{" not in text
            assert "  " not in text
            assert not re.search(r"\ba [aeiou]", text.lower()), text
            assert not re.search(r"\ban [^aeiou]", text.lower()), text


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


def test_unknown_words_are_those_of_no_caption() -> None:
    for split in ("train", "test"):
        for scene in scenes(split, 300):
            texts = [*captions(scene, 3, split), prompt(scene.events[0].kind, np.random.default_rng(scene.seed))]
            assert unknown_words(" ".join(texts)) == []
    assert unknown_words("A cat meows, and the cat's BELLS ring.") == ["cat", "meows"]
    assert unknown_words("Un chien aboie; дождь; asdf") == ["un", "chien", "aboie", "дождь", "asdf"]
