import pytest

from sonolume.utils import text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a dog's b\u00e4rk, \u72ac \U0001f436", "a dog's b\u00e4rk, \u72ac \U0001f436"),
        ("\u0646\u0645\u06cc\u200c\u062e", "\u0646\u0645\u06cc\u200c\u062e"),  # a joiner is part of the word
        ("a\nb\r\x1b[31m", r"a\nb\r\x1b[31m"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("evil\u202egnp.exe\u2066\u2028", r"evil\u202egnp.exe\u2066\u2028"),
        ("\udcff\ud83d", r"\udcff\ud83d"),
    ],
)
def test_printable(given: str, shown: str) -> None:
    assert text.printable(given) == shown
    text.printable(given).encode()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("rain_0.wav, N 3 < 4 & more", "rain_0.wav, N 3 < 4 & more"),
        ("a\n# heading", r"a\\n# heading"),
        ("<img src=x>", r"\<img src=x>"),
        ("&lt; ![x](y) | `z` *b* _c_", r"\&lt; !\[x\](y) \| \`z\` \*b\* \_c\_"),
    ],
)
def test_markdown(given: str, shown: str) -> None:
    assert text.markdown(given) == shown


def test_code() -> None:
    assert text.code("a.wav") == "`a.wav`"
    assert text.code("a`b``c|d\n# e") == "``` a`b``c\\|d\\n# e ```"


@pytest.mark.parametrize(
    ("clone", "installed"),
    [
        ("prepare the data first: run_preprocess.sh", "prepare the data first: sonolume preprocess"),
        ("a report of run_eval.sh", "a report of sonolume evaluate"),
        ("egs/tta/hifigan/run_train.sh (with --config egs/tta/hifigan/tiny.json)",
         "sonolume train tta/hifigan (with tta/hifigan/tiny)"),
        ("python bins/convert.py beats FILE.pt", "sonolume convert beats FILE.pt"),
        ("run run_train.sh again", "run sonolume train again"),
    ],
)  # fmt: skip
def test_messages_name_the_commands_that_were_typed(
    clone: str, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOLUME_COMMAND", "run_train.sh")
    assert text.name_commands(clone) == clone
    monkeypatch.setenv("SONOLUME_COMMAND", "sonolume train")
    assert text.name_commands(clone) == installed
