"""Publication of an exported folder on the model hub: what is sent, what stands against it, and the upload."""

import glob
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, constants, errors, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors import safe_open

from sonolume.models import card
from sonolume.models.evaluation.compare import read_report
from sonolume.models.evaluation.samples import weights_version
from sonolume.modules.saved_card import FILE as CARD
from sonolume.utils import files, local_paths, paths
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.text import message, printable

SENT = (".safetensors", ".json", ".md", ".txt", ".model", ".png", ".jpg", ".flac", ".wav")
REFUSED = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".npy", ".npz", ".joblib", ".h5", ".onnx", ".msgpack")
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # torch.save writes zip files
CODE, IMPORT = "pipeline.py", re.compile(r"^from \.(\w+) import", re.MULTILINE)
VOCABULARIES = {  # files of tokens, which may look like paths -> entries that hold them; () for the whole file
    "vocab.json": (), "added_tokens.json": (), "merges.txt": (), "tokenizer.json": ("model", "added_tokens"),
}  # fmt: skip
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
LARGEST = 50 * 10**9  # bytes of one file on the hub
SET_LICENCE = f"add --license ID (such as mit, apache-2.0 or cc-by-nc-4.0), or a line license: ID to the head of {CARD}"


@dataclass
class Plan:
    """A folder as it will be on the hub."""

    folder: Path
    card: str = ""  # content of README.md
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of each file that is sent
    left_out: dict[str, str] = field(default_factory=dict)  # file or folder -> reason
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The files with their sizes, and the total."""
        for name, size in self.sizes.items():
            yield f"{_megabytes(size):>12}  {printable(name)}"
        yield f"{_megabytes(sum(self.sizes.values())):>12}  in {len(self.sizes)} files"
        for name, reason in self.left_out.items():
            yield f"{'not sent':>12}  {printable(name)} ({reason})"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def plan(folder: Path, repo_id: str, licence: str | None = None, report: Path | None = None) -> Plan:
    """Check an exported folder and list what would be sent; nothing is written, and nobody is contacted.

    Args:
        repo_id: name, or owner/name, on the hub.
        licence: id of the hub for the head of the card.
        report: report.json of an evaluation of this folder, or its folder, for the card.

    Raises:
        UserError: the folder cannot be published. Of several reasons all are printed.
    """
    _check_names(folder, repo_id, licence)
    made = Plan(folder)
    _collect(made)
    if made.problems:
        raise _refusal(made)
    for name in made.sizes:
        made.problems += [f"{name}: {problem}" for problem in _faults(folder / name)]
    made.problems += _outside_parts(folder)
    if not any(name.endswith(".safetensors") for name in made.sizes):
        made.problems.append("holds no weights (.safetensors)")
    try:
        made.card = _card(folder, repo_id, licence, report)
        made.problems += [f"{CARD}: {problem}" for problem in _card_faults(made.card)]
    except UserError as error:
        made.problems.append(str(error))
    made.sizes[CARD] = len(made.card.encode())
    made.sizes = dict(sorted(made.sizes.items()))
    if made.problems:
        raise _refusal(made)
    return made


def _refusal(made: Plan) -> UserError:
    """Print the problems if there are several, and return the error."""
    problems = list(dict.fromkeys(made.problems))
    if len(problems) == 1:
        return UserError(f"{made.folder}: {problems[0]}")
    for problem in problems:
        message(problem)
    return UserError(f"{made.folder}: cannot be published, for the {len(problems)} reasons above; nothing was sent")


def _check_names(folder: Path, repo_id: str, licence: str | None) -> None:
    if not folder.is_dir():
        what = "is a file: name the folder that holds it" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}")
    for name in ("pipeline", "lora"):
        if (folder / name).is_dir() and (folder / "checkpoints").is_dir():
            raise UserError(f"{folder}: is a run; its model is {folder / name}")
    if not card.is_lora(folder) and not paths.kind_of(folder):
        raise UserError(f"{folder}: holds no exported model: name pipeline/ (or lora/) of a run, or a folder that "
                        "sonolume convert wrote")  # fmt: skip
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id}: not a name on the hub, write owner/name: {first_line(error)}") from error
    if licence is not None and not LICENCE.fullmatch(licence):
        raise UserError(f"--license {licence}: write the id of the hub in lower case, such as mit or cc-by-nc-4.0")


def _collect(made: Plan) -> None:
    """List the files that are sent, and those that are not; links and pickles are problems."""
    folder, modules = made.folder, _modules(made.folder)
    for place, subfolders, names in os.walk(folder):
        for name in sorted(subfolders):
            path = Path(place, name)
            inside = path.relative_to(folder).as_posix()
            if path.is_symlink():
                made.problems.append(f"{inside}: is a link to a folder: put the folder itself there")
            elif name.startswith(".") or name == "__pycache__":
                made.left_out[f"{inside}/"] = "hidden" if name.startswith(".") else "a cache"
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            _add(made, Path(place, name), modules)


def _add(made: Plan, path: Path, modules: set[str]) -> None:
    name = path.relative_to(made.folder).as_posix()
    if path.is_symlink() and not path.resolve().is_relative_to(made.folder.resolve()):
        made.problems.append(f"{name}: is a link out of the folder: put the file itself there")
    elif not path.is_file():
        made.problems.append(f"{name}: is a link to nothing" if path.is_symlink() else f"{name}: is not a regular file")
    elif path.suffix.lower() in REFUSED or path.stem.lower().startswith("optimizer"):
        what = "weights must be safetensors, and the state of an optimizer is not published: move it elsewhere"
        made.problems.append(f"{name}: {what}")
    elif path.name.startswith("."):
        made.left_out[name] = "hidden"
    elif path.suffix.lower() in SENT or name in modules:
        made.sizes[name] = path.stat().st_size
    else:
        kind = f"no code of {CODE}" if path.suffix == ".py" else f"not one of {', '.join(SENT)}"
        made.left_out[name] = kind


def _modules(folder: Path) -> set[str]:
    """Python files of a folder that its pipeline imports, and the pipeline."""
    found, names = set[str](), [CODE]
    while names:
        name = names.pop()
        if name not in found and (folder / name).is_file():
            found.add(name)
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            names += [f"{module}.py" for module in IMPORT.findall(text)]
    return found


def _faults(path: Path) -> Iterator[str]:
    """Yield the reasons why a file must not be published."""
    if path.stat().st_size > LARGEST:
        yield f"is larger than {LARGEST / 1e9:.0f} GB, the limit of the hub: save it in shards (max_shard_size)"
    if path.suffix == ".safetensors":
        yield from _weight_faults(path)
        return
    with path.open("rb") as file:
        if file.read(4).startswith(PICKLES):
            yield "is a pickle or a zip file, which may run code when it is read"
            return
    if path.suffix in (".json", ".md", ".txt") and path.name != CARD:
        yield from _text_faults(path)


def _weight_faults(path: Path) -> Iterator[str]:
    try:
        with safe_open(path, "np") as file:
            header = file.metadata() or {}
    except (OSError, *files.safetensors_errors()) as error:
        yield f"cut, damaged or no safetensors file ({first_line(error)})"
        return
    yield from _path_faults(header)


def _text_faults(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else text
    except ValueError as error:
        yield f"cannot be read ({first_line(error)})"
        return
    if TOKEN.search(text):
        yield "holds an access token of the hub: remove it, and revoke it on the hub"
    if (skipped := VOCABULARIES.get(path.name)) is None:
        yield from _path_faults(content)
    elif isinstance(content, dict) and skipped:
        yield from _path_faults({name: value for name, value in content.items() if name not in skipped})


def _path_faults(content: Any) -> Iterator[str]:
    """Local paths in the values of a json, or in text."""
    if isinstance(content, dict):
        for name, value in content.items():
            for fault in _path_faults(value):
                yield f"{name}: {fault}" if fault.startswith("holds") else f"{name}.{fault}"
    elif isinstance(content, list):
        for value in content:
            yield from _path_faults(value)
    elif isinstance(content, str):
        find = local_paths.find_in_text if "\n" in content else local_paths.find_in_value
        if found := find(content):
            yield f"holds the local path {found}: write a hub id, or remove it"


def _outside_parts(folder: Path) -> Iterator[str]:
    """Local folders, that nobody else has, in the settings of a model that needs other ones."""
    if (folder / "model_index.json").is_file():
        return
    for key, place in card.settings_of(folder).items():
        is_model = isinstance(place, str) and "/" in place and not os.path.exists(folder / place)
        if not is_model or PurePosixPath(place).is_absolute() or place.startswith("pretrained/mini/"):
            continue
        if place.startswith(("pretrained/", "ckpts/", ".", "~")) or os.path.isdir(paths.resolve(place)):
            yield f"{key}: names the local folder {place}, which others do not have: publish it, and write its id here"


def _card(folder: Path, repo_id: str, licence: str | None, report: Path | None) -> str:
    """The card of a folder with a licence and scores; one that is missing is written from the folder."""
    path = folder / CARD
    text = files.read_text(path, "a model card") if path.is_file() else card.compose(folder)
    scores = read_report(report) if report is not None else None
    if scores is not None:
        _check_report(scores, folder, report)
    return card.refresh(text, repo_id.rpartition("/")[2], licence, scores)


def _check_report(scores: dict[str, Any], folder: Path, report: Path | None) -> None:
    """Raise a UserError if the report is of other weights; print a line if that cannot be told."""
    facts = scores.get("facts") or {}
    weights = str(facts.get("weights") or "")
    if weights and weights != weights_version(str(folder.resolve())):
        raise UserError(f"--report {report}: was measured on other weights: evaluate {folder} itself")
    if not weights:
        message(f"{report}: does not say which weights it measured; it names the model {facts.get('model', 'nowhere')}")


def _card_faults(text: str) -> Iterator[str]:
    head = card.parse(text).data
    if not head.license:
        yield f"no licence is set: {SET_LICENCE}"
    elif head.license == "other" and not (head.license_name and head.license_link):
        yield "license: other also needs license_name and license_link in the head"
    if TOKEN.search(text):
        yield "holds an access token of the hub: remove it, and revoke it on the hub"
    if found := local_paths.find_in_text(text):
        yield f"holds the local path {found}: remove it"


def upload(
    made: Plan, repo_id: str, private: bool = False, create_pr: bool = False, revision: str | None = None
) -> str:
    """Write the card into the folder, and send the files of a plan; returns the address of the commit.

    Args:
        private: of a new repository; an existing public one is refused.
        revision: branch, which is made if it does not exist.

    Raises:
        UserError: offline, not logged in, or refused by the hub.
    """
    if constants.is_offline_mode():
        raise UserError(f"{repo_id}: the hub is switched off by HF_HUB_OFFLINE: unset it, or use --dry_run")
    if get_token() is None:
        raise UserError("not logged in to the hub: run hf auth login, or set HF_TOKEN")
    path = made.folder / CARD
    if not path.is_file() or path.read_text(encoding="utf-8") != made.card:
        with files.atomic_path(path) as unfinished:
            unfinished.write_text(made.card, encoding="utf-8")
    hub = HfApi(library_name="sonolume")
    try:
        repository = hub.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        if private and not hub.repo_info(repository).private:
            raise UserError(f"--private: {repository} exists and is public: make it private there, or choose another")
        if revision is not None:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repository, folder_path=made.folder, allow_patterns=[glob.escape(name) for name in made.sizes],
            create_pr=create_pr, revision=revision, commit_message=f"Publish {made.folder.resolve().name} of sonolume",
        )  # fmt: skip
    except (OSError, ValueError, errors.HTTPError) as error:  # ValueErrors of huggingface_hub's own checks
        raise UserError(f"{repo_id}: the hub does not answer or refuses: {first_line(error)}") from error
    return str(done.pr_url if create_pr else done.commit_url)
