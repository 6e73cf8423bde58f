"""Text from outside (file names, captions, class names, settings) in the terminal and in Markdown."""

import contextlib
import contextvars
import os
import re
import sys
import unicodedata
from collections.abc import Iterator

_collected: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("collected", default=None)
_SCRIPT = re.compile(
    r"(?:sh )?(?:egs/(?P<recipe>\w+/\w+)/)?run_(?P<shell>\w+)\.sh|(?:python )?bins/(?P<python>\w+)\.py"
)
_JOINERS = "\u200c\u200d"  # of Persian and Indic scripts, and of emoji
_ACTIVE = re.compile(r"[\\`*\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)")  # in a line of Markdown


def printable(text: str) -> str:
    r"""Replace what moves the cursor, colours, reorders or hides text, and what cannot be encoded, by \x1b, \u202e ...

    These are control and format characters (also newlines), line separators and lone surrogates.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()


def has_surrogates(text: str) -> bool:
    """Test for lone surrogates: bytes of an argument or a file name that are not UTF-8, or half a character in JSON."""
    return any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False


def markdown(text: str) -> str:
    """Escape text for one line or table cell of Markdown, where it is shown as it is: no HTML, link, heading, table."""
    return _ACTIVE.sub(r"\\\g<0>", printable(text))


def code(text: str) -> str:
    """Put text into a code span of Markdown, also inside a table."""
    shown = printable(text).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def message(line: str) -> None:
    """Print a line on stderr, with everything from outside made `printable`; see also `collect_messages`."""
    shown = printable(name_commands(line))
    print(shown, file=sys.stderr, flush=True)
    collected = _collected.get()
    if collected is not None:
        collected.append(shown)


def name_commands(text: str) -> str:
    """Write the scripts of a clone in a message as subcommands, if the running program is the command `sonolume`.

    "egs/tta/hifigan/run_train.sh" becomes "sonolume train tta/hifigan", "bins/convert.py" becomes "sonolume convert".
    """
    if not os.environ.get("SONOLUME_COMMAND", "").startswith("sonolume "):
        return text
    text = re.sub(r"--config egs/([\w/]+)\.json", r"\1", text)
    return _SCRIPT.sub(_subcommand, text)


def _subcommand(script: re.Match[str]) -> str:
    name = script["shell"] or script["python"]
    recipe = f" {script['recipe']}" if script["recipe"] else ""
    return f"sonolume {'evaluate' if name == 'eval' else name}{recipe}"


@contextlib.contextmanager
def collect_messages() -> Iterator[list[str]]:
    """Yield a list to which the messages of this thread are appended inside the block."""
    messages: list[str] = []
    token = _collected.set(messages)
    try:
        yield messages
    finally:
        _collected.reset(token)
