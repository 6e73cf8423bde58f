"""Generations of all tabs, one at a time, by the functions of the command line: same seed, same bytes."""

import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolume.config import shipped
from sonolume.config.load import load_config
from sonolume.models.progress import OnStep
from sonolume.models.recipes import recipe_code
from sonolume.utils.errors import ComputationError
from sonolume.utils.files import read_json, write_json
from sonolume.utils.text import collect_messages
from sonolume.web.jobs import Conditions, Progress, run_in_steps
from sonolume.web.settings import Settings

MAX_AGE = 24 * 3600  # seconds after which results are deleted
UPLOAD_AGE = 600  # seconds after which an upload that nobody finished is deleted


@dataclass(frozen=True)
class Take:
    """The results of one generation; hashable, as Gradio asks of the content of a session.

    Args:
        title: input in a few words.
        kind: "sound" or "picture".
        results: wavs, or pictures; next to each are its sidecar, and the spectrogram of a sound.
        others: further files, such as videos with their new sound.
        archive: zip of all files.
        notes: messages of the generation.
    """

    title: str
    kind: str
    seed: int
    results: tuple[Path, ...]
    others: tuple[Path, ...]
    archive: Path
    seconds: float
    notes: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """All files, the archive last."""
        found = [path for one in self.results for path in _companions(one)]
        return [*found, *self.others, self.archive]


class Generation:
    """Runs recipes; keeps the model of the last one loaded.

    Args:
        folder: of all results; each generation gets a folder of its own in it.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.stopping = threading.Event()  # set when the server ends: a running generation ends with its next step
        self.lock = threading.Lock()  # of the model
        self._key: Any = None
        self._model: Any = None

    def run(
        self, recipe: str, title: str, make_options: Callable[..., Any]
    ) -> Generator[Progress, None, Take]:
        """Generate with a recipe; yield the progress, and return the results.

        Args:
            make_options: builds the recipe's `InferenceOptions`, given `output_dir`, `checkpoint`, `device`, `dtype`.

        Raises:
            UserError: an input cannot be used.
            ComputationError: the result is NaN.
            Stopped: by closing this generator.
        """
        self.delete_old()
        folder = self.folder / f"take-{secrets.token_urlsafe(16)}"
        folder.mkdir(mode=0o700)
        settings = self.settings
        model = {"checkpoint": settings.checkpoints().get(recipe), "device": settings.device, "dtype": settings.dtype}

        def discard() -> None:
            shutil.rmtree(folder, ignore_errors=True)

        def work(on_step: OnStep) -> Take:
            start = time.monotonic()
            key = recipe, model, getattr(options, "level", None)  # a draft of im2wav loads one network less
            with collect_messages() as messages:
                code = recipe_code(recipe, "inference")
                loaded = self.load(key, lambda: code.load_model(load_config(shipped.find(recipe)), options))
                paths = list(code.generate(loaded, options, on_step))
            return _collect(title, options.seed, folder, paths, time.monotonic() - start, messages)

        try:
            options = make_options(output_dir=folder, **model)
        except BaseException:
            discard()
            raise
        return (yield from run_in_steps(work, self.conditions(discard)))

    def conditions(self, discard: Callable[[], None]) -> Conditions:
        """Conditions of all work with models."""
        return Conditions(self.lock, self.stopping, 60 * self.settings.max_minutes, discard)

    def load(self, key: Any, load: Callable[[], Any]) -> Any:
        """Return the model of `key`: the last one, or a new one in its place."""
        if self._key != key:
            self._key = self._model = None  # before the next one needs the memory
            self._model = load()
            self._key = key
        return self._model

    def delete_old(self) -> None:
        """Delete results of `MAX_AGE` seconds and more, and what broken uploads left."""
        for folder in self.folder.glob("take-*"):
            if time.time() - folder.stat().st_mtime > MAX_AGE:
                shutil.rmtree(folder, ignore_errors=True)
        for file in self.folder.glob("tmp*"):  # Gradio moves it when the upload is complete
            if file.is_file() and time.time() - file.stat().st_mtime > UPLOAD_AGE:
                file.unlink(missing_ok=True)


def _collect(title: str, seed: int, folder: Path, paths: list[Path], seconds: float, notes: list[str]) -> Take:
    """Remove the server's folders from all sidecars, and pack the files."""
    if not paths:
        raise ComputationError("there is no result: the safety checker rejected it; try another seed")
    results = tuple(path for path in paths if path.suffix in (".wav", ".png"))
    others = tuple(path for path in paths if path not in results)
    for sidecar in folder.glob("*.json"):
        write_json(sidecar, without_folders(read_json(sidecar)))
    archive = folder / f"{results[0].stem}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(one for one in folder.iterdir() if one.is_file() and one != archive):
            packed.write(path, path.name)
    kind = "sound" if results[0].suffix == ".wav" else "picture"
    return Take(title, kind, seed, results, others, archive, seconds, tuple(notes))


def without_folders(value: Any) -> Any:
    """Reduce absolute paths anywhere in the content of a sidecar to the names of their files."""
    if isinstance(value, dict):
        return {name: without_folders(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _companions(path: Path) -> list[Path]:
    """A result with its spectrogram and sidecar."""
    others = (path.with_suffix(suffix) for suffix in (".png", ".json"))
    return [path, *(one for one in others if one != path and one.exists())]
