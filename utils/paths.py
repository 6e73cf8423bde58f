"""Locations. Paths in a config are relative to the repository root, paths in flags to the working directory.

If sonolume was installed as a wheel, there is no repository: paths in a config are relative to the working directory,
too, except the shipped parts in pretrained/mini, which are in the package; nothing is written there.
A pretrained part is named by a local folder, or by an id of the model hub.
"""

import functools
import os
import shlex
import sys
from pathlib import Path

from sonolume.utils import model_folder
from sonolume.utils.errors import ModelError, UserError, first_line
from sonolume.utils.files import read_json
from sonolume.utils.model_folder import class_in, find_folder, hub_error, settings_file
from sonolume.utils.text import message

HUB_TIMEOUT = 10.0  # seconds to wait for the first answer of the model hub
LONGEST_NAME = 255  # bytes of a file name in the common file systems
CONVERT = "; bins/convert.py turns official checkpoints into folders (see its --help)"


def root() -> Path:
    """Folder of the package, which holds egs/ and pretrained/mini: the checkout, or a folder in site-packages."""
    return Path(__file__).resolve().parent.parent


def is_checkout() -> bool:
    """Test whether the package is a checkout; a wheel does not contain setup.py."""
    return (root() / "setup.py").is_file()


def work_dir() -> Path:
    """Folder of data/, ckpts/ and everything else that is written: the checkout, else the working directory."""
    return root() if is_checkout() else Path.cwd()


def _base(path: str | Path) -> Path:
    """Folder to which a relative path of a config is relative: `root()` for shipped parts, else `work_dir()`."""
    is_shipped = Path(path).parts[:2] == ("pretrained", "mini") and os.path.exists(root() / path)
    return root() if is_shipped else work_dir()


def pip_install(extra: str) -> str:
    """Command that installs an extra of this package into the running Python, for messages."""
    package = f'-e "{root()}[{extra}]"' if is_checkout() else f'"sonolume[{extra}]"'
    return f"{shlex.quote(sys.executable)} -m pip install {package}"


def resolve(path: str | Path, key: str = "") -> Path:
    """Make a path from a config absolute, with `~` expanded; raises as `expand`."""
    expanded = expand(path, key)
    return _base(expanded) / expanded


def expand(path: str | Path, key: str = "") -> Path:
    """Expand a leading `~` or `~user`; a UserError, which names the config key or flag, if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{key} {path}".lstrip() + ": no user has this name: write the whole path") from error


def check_folder(folder: Path, key: str) -> None:
    """Raise a UserError that names the `key` (config key or flag) if `folder` neither is a folder nor can become one.

    Nothing is created: a missing folder passes unless a file is in its way or a name in it is too long.
    """
    for place in (folder, *folder.parents):
        if len(os.fsencode(place.name)) > LONGEST_NAME:
            raise UserError(f"{key} {folder}: a name of more than {LONGEST_NAME} bytes: choose a shorter one")
        if os.path.lexists(place) and not os.path.isdir(place):
            what = "is a file" if place == folder else f"{place} is a file"
            raise UserError(f"{key} {folder}: {what}: name a folder")


def locate(source: str, key: str, remedy: str = "", flag: bool = False) -> str:
    """Resolve a path from a config, as `resolve`, to an absolute folder, or return a hub id unchanged.

    A UserError names the `key` (config key or flag) of a file or a missing folder, and the `remedy` for the latter.
    With `flag`, a path that exists in the working directory is relative to it.
    """
    in_working_directory = flag and os.path.exists(os.path.expanduser(source))
    try:
        folder = find_folder(source, None if in_working_directory else _base(source))
        if folder is None and Path(source).parts[:1] == ("pretrained",):  # no id of the hub
            raise ValueError(f"{source}: no such folder")
    except ValueError as error:
        hint = CONVERT if str(error).endswith("of a model") else f"; {remedy}" * bool(remedy)
        raise ModelError(f"{key} {error}{hint}") from error
    if folder is None:
        _try_hub()
    return source if folder is None else str(folder)


def locate_weights(source: str, key: str) -> str:
    """Resolve the name of a safetensors file, or of a folder or hub id as `locate`, from a flag; raises as `locate`."""
    path = expand(source, key)
    if path.is_file():
        return str(path.resolve())
    if path.suffix == ".safetensors":  # no id of the hub
        raise ModelError(f"{key} {source}: no such file")
    return locate(source, key, flag=True)


@functools.cache
def _try_hub() -> None:
    """Find out, once in a process, whether the model hub answers; if not, only use what was downloaded before.

    Libraries would wait for it for minutes, or without end, at each file.
    """
    from huggingface_hub import constants, errors, get_session  # slow

    if constants.is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except (OSError, errors.HTTPError) as error:
        constants.HF_HUB_OFFLINE = True
        message(f"{constants.ENDPOINT} does not answer ({first_line(error)}): using models downloaded before")


def is_local(located: str) -> bool:
    """Check whether a result of `locate` is a local folder rather than a hub id."""
    return Path(located).is_absolute()


def inside(located: str, component: str) -> str:
    """Return the folder of a component if `located` is a local pipeline folder, else `located` itself."""
    is_pipeline = is_local(located) and (Path(located) / "model_index.json").is_file()
    return str(Path(located) / component) if is_pipeline else located


def download(located: str, key: str, pattern: str | list[str] | None = None) -> Path:
    """Return the folder of a result of `locate`; of a hub id, all files are downloaded first, or those of patterns."""
    if is_local(located):
        return Path(located)
    from huggingface_hub import snapshot_download  # slow

    try:
        return Path(snapshot_download(located, allow_patterns=pattern))
    except (OSError, ValueError) as error:
        raise ModelError(f"{key} {located}: {hub_error(error)}") from error


def kind_of(folder: Path) -> str:
    """Name the class of the model in an exported folder, or the recipe of the folder; "" if it holds neither."""
    path = settings_file(folder)
    return class_in(read_json(path, "the settings of an exported model")) if path else ""


def check_names(folder: Path, *kinds: str) -> None:
    """Check the names of classes in a folder, see `model_folder.check_names`; a UserError names the first wrong one."""
    try:
        model_folder.check_names(folder, *kinds)
    except ValueError as error:
        raise ModelError(str(error)) from error
