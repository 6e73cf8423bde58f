"""Every relative link, anchor and picture of every page exists. `make docs` runs this file alone.

It needs pytest and the standard library only.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTED = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
IGNORED = {line.strip("/") for line in LISTED if line.endswith("/")} | {".git"}  # also names like .venv-*

FENCED = re.compile(r"^\s*(`{3,}|~{3,})[^\n]*\n.*?^\s*\1\s*$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", re.DOTALL)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)(?:\s+#+)?\s*$", re.MULTILINE)
TARGETS = (
    re.compile(r"\]\(\s*(?:<([^>\n]*)>|([^)\s]*))(?:\s+\"[^\"]*\")?\s*\)"),  # [text](target "title"), ![](<a b.png>)
    re.compile(r"^ {0,3}\[[^\]]+\]:\s*(\S+)", re.MULTILINE),  # [text]: target
    re.compile(r"<(?:a|img|audio|video|source)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)"),
)
NAMED_ANCHOR = re.compile(r"<a\b[^>]*?\b(?:id|name)=[\"']([^\"']+)")
WITH_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def find_pages(folder: Path) -> Iterator[Path]:
    """Find the Markdown files and notebooks, except in folders that git ignores."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if n not in IGNORED and not n.startswith(".venv") and n != "__pycache__")
        yield from (Path(place, name) for name in sorted(names) if name.endswith((".md", ".ipynb")))


def read_text(page: Path) -> str:
    """Return a page without its fenced code; of a notebook, the Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return FENCED.sub("", text)


def find_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page: lower case, hyphens, -1 for the second of a name."""
    text, found, seen = read_text(page), set[str](), Counter[str]()
    for heading in HEADING.findall(text):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found | set(NAMED_ANCHOR.findall(text))


def find_targets(page: Path) -> list[str]:
    text = CODE.sub("", read_text(page))
    matches = [match for pattern in TARGETS for match in pattern.finditer(text)]
    return [next((group for group in match.groups() if group is not None), "") for match in matches]


def find_faults(page: Path, root: Path) -> list[str]:
    """Return one line for each link of a page that leads nowhere."""
    faults = list[str]()
    for target in find_targets(page):
        if WITH_SCHEME.match(target):
            continue
        path, _, anchor = unquote(target).partition("#")
        place = Path(os.path.normpath(page.parent / path)) if path else page
        if not target or path.startswith("/") or not place.is_relative_to(root):
            faults.append(f"{target!r} is not a relative path inside the repository")
        elif not place.exists() or IGNORED.intersection(place.relative_to(root).parts[:1]):
            faults.append(f"{target}: no such file in the repository")
        elif anchor and (place.suffix != ".md" or anchor not in find_anchors(place)):
            faults.append(f"{target}: no such heading")
    return faults


@pytest.mark.parametrize("page", find_pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert find_faults(page, ROOT) == []


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("[a](other.md#a-second-heading---with-code), [b](#first), ![c](<a picture.png>), [d](a%20picture.png)", 0),
        ("[a](other.md#again-1) [b](folder) [c](https://example.org/x) [d][e]\n\n[e]: other.md", 0),
        ("`[a](no.md)`\n\n```\n[b](no.md)\n```", 0),
        ("[a](no.md)", 1),
        ("[`a`](no.md) and\n[over two\nlines](no.md)", 2),
        ("![a](no.png \"title\") <img src='no.png'>", 2),
        ("[a](other.md#second) [b](#second)", 2),
        ("[a](/other.md) [b](../../other.md) [c]()", 3),
        ("[a][e]\n\n[e]: no.md", 1),
        ("[a](outputs/a.md)", 1),
    ],
)
def test_a_dead_link_is_found(line: str, count: int, tmp_path: Path) -> None:
    for name in ("folder", "outputs"):
        (tmp_path / name).mkdir()
    (tmp_path / "outputs" / "a.md").touch()
    (tmp_path / "a picture.png").touch()
    (tmp_path / "other.md").write_text("# A second heading - `with` code\n## Again\n```\n# second\n```\n## Again\n")
    (tmp_path / "page.md").write_text(f"# First\n\n{line}\n")
    assert len(find_faults(tmp_path / "page.md", tmp_path)) == count
