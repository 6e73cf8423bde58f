from pathlib import Path

import pytest

from sonolume.config.sound_text import TextField
from sonolume.preprocessors.text_fields import labels_of, texts_of
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from tests.fsd50k_tree import GUITAR, PIANO

CLIP = Row("a", "1", Path("1.wav"))
CAPTIONED = Row("a", "1", Path("1.wav"), ["A dog  barks", "a bark"])


@pytest.mark.parametrize(
    ("field", "columns", "texts"),
    [
        ("labels", {"labels": PIANO}, ["Piano Keyboard musical Musical instrument Music"]),  # as the seed cleans them
        ("labels", {"labels": PIANO.split(",")}, ["Piano Keyboard musical Musical instrument Music"]),
        ("labels", {"labels": " ,_,()"}, []),
        ("labels", {"labels": None}, []),
        ("template", {"labels": GUITAR}, ["a photo of Electric guitar"]),
        ("template", {"labels": ""}, []),
        ("title", {"title": " Dog\t in the\r\nrain.wav ", "labels": PIANO}, ["Dog in the rain.wav"]),
        ("title", {"title": 440}, ["440"]),
        ("title", {"labels": PIANO}, []),
        ("description", {"description": "One, two.\n\nThree_(4)"}, ["One, two. Three_(4)"]),
        ("tags", {"tags": ["field-recording", "dog_bark"]}, ["field-recording dog bark"]),
        ("tags", {"tags": "field-recording,dog"}, ["field-recording dog"]),
        ("tags", {"tags": []}, []),
    ],
)
def test_columns(field: str, columns: dict[str, object], texts: list[str]) -> None:
    assert texts_of(CLIP, columns, TextField(field)) == texts


def test_captions_stand_for_labels_and_descriptions() -> None:
    texts = {field: texts_of(CAPTIONED, {"labels": ""}, field) for field in TextField}
    captions = ["A dog barks", "a bark"]
    assert texts == {"labels": captions, "description": captions, "title": [], "tags": [], "template": []}


def test_a_label_comes_before_captions() -> None:
    row = Row("a", "1", captions=["x"], label="playing violin, fiddle")  # one label, as in VGGSound
    assert labels_of(row, {}) == ["playing violin fiddle"]
    assert texts_of(row, {}, TextField.labels) == ["playing violin fiddle"]
    assert texts_of(row, {}, TextField.template) == ["a photo of playing violin fiddle"]
    assert labels_of(row, {"labels": "Rain,Water"}) == ["Rain", "Water"]


@pytest.mark.parametrize("value", [{"a": 1}, [["a"]], "\ud83d"])
def test_what_is_no_text(value: object) -> None:
    with pytest.raises(UserError, match="a: 1: title is"):
        texts_of(CLIP, {"title": value}, TextField.title)
