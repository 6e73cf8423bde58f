"""Preprocessing with every engine, and training on shards: the same bytes and losses as from files."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
import torch

from sonolume.bins import preprocess, shards
from sonolume.config.load import load_config
from sonolume.models import preprocessing
from sonolume.models.data_order import EpochOrder
from sonolume.models.tta.audioldm.components import load_encoders
from sonolume.models.tta.audioldm.data import training_data
from sonolume.models.tta.audioldm.task import Task
from sonolume.preprocessors import stages
from sonolume.utils import background, checkpoint, cli
from sonolume.utils.errors import UserError
from tests import runs

SHARDS = ["preprocess.storage=shards", "preprocess.shard_rows=4"]


class Computing:
    """Counts the shards that this process computes."""

    def __init__(self, compute: Callable[..., None]) -> None:
        self.compute, self.shards = compute, 0

    def __call__(self, stage: Any, sizes: Any, place: Path, report: Any) -> None:
        before = len(list(place.glob("*.done.json")))
        self.compute(stage, sizes, place, report)
        if not stage.name.startswith("rows"):
            self.shards += len(list(place.glob("*.done.json"))) - before


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Fourteen clips of a third of a second, with a caption each."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number in range(14):
        wave = 0.2 * np.random.default_rng(number).standard_normal(5000).astype(np.float32)
        soundfile.write(folder / f"clip{number}.wav", wave, 16000)
        (folder / f"clip{number}.txt").write_text(" ".join(["noise"] * (1 + number % 3)) + f" {number}")
    return folder


@pytest.fixture
def prepare(tiny_config: Callable[..., Path], source: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """prepare(name, *arguments) prepares a data set in a folder of this name, and returns the overrides of its use."""
    more = {"valid_fraction": 0.3, "num_workers": 0}
    path = tiny_config("tta/audioldm", preprocess=more)

    def run(name: str, *arguments: str) -> list[str]:
        overrides = [f"preprocess.processed_dir={tmp_path / name}"]
        preprocess.main(["--config", str(path), "--input", str(source), *arguments, *overrides])
        return [*overrides, f"exp_name={name.replace(' ', '_')}"]

    return run


@pytest.fixture
def no_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings do not draw sounds, which takes longer than the training here."""
    monkeypatch.setattr(Task, "_preview", lambda _: None)


def checksums(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file() and path.suffix in (".npy", ".json")}  # fmt: skip


def items(overrides: list[str], tmp_path: Path) -> list[Any]:
    """Training items of one epoch by Uid."""
    config = load_config(tmp_path / "tta_audioldm.json", overrides)
    data: Any = training_data(config, load_encoders(config)).train
    found = {row.uid: data[0, index] for index, row in enumerate(data.rows)}
    return [found[uid] for uid in sorted(found)]


@pytest.mark.usefixtures("no_preview")
def test_training_on_shards_equals_training_on_files(prepare: Callable[..., list[str]], tmp_path: Path) -> None:
    """With the same order of clips and the same batches of captions, bit for bit."""
    weights = []
    for name, arguments in (("in files", []), ("in shards", ["preprocess.storage=shards"])):
        config = load_config(tmp_path / "tta_audioldm.json", [*prepare(name, *arguments), "train.max_steps=3"])
        state = runs.last(runs.train(config))
        weights.append((state["state_dict"], state["callbacks"]["Position"]))
    assert weights[0][1] == weights[1][1]
    for one, other in zip(weights[0][0].values(), weights[1][0].values(), strict=True):
        assert torch.equal(one, other)


def test_items_from_an_object_store(
    prepare: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set is uploaded, and linked where nothing else of it is: the same items."""
    monkeypatch.setenv("SONOLUME_SHARD_CACHE", str(tmp_path / "downloads"))
    memory = fsspec.filesystem("memory")
    overrides = prepare("here", *SHARDS)
    try:
        shards.main(["upload", str(tmp_path / "here/noise"), "memory://bucket/noise"])
        shards.main(["link", "memory://bucket/noise", str(tmp_path / "there/noise")])
        linked = [f"preprocess.processed_dir={tmp_path / 'there'}"]
        config = load_config(tmp_path / "tta_audioldm.json", linked)
        data: Any = training_data(config, load_encoders(config)).train
        data.prefetch(EpochOrder(len(data), 0)).at(0)
        background.wait()
        downloaded = len(list((tmp_path / "downloads").rglob("*.npy")))
        here, there = items(overrides, tmp_path), items(linked, tmp_path)
        assert downloaded >= 4 * 3 and not list((tmp_path / "there").rglob("*.npy"))
        for one, other in zip(here, there, strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]
        with pytest.raises(UserError, match="there/noise: exists already"):
            shards.main(["link", "memory://bucket/noise", str(tmp_path / "there/noise")])
        with pytest.raises(UserError, match="memory://bucket/other/folders.json: no such file"):
            shards.main(["link", "memory://bucket/other", str(tmp_path / "nowhere")])
    finally:
        background.wait()
        memory.store.clear()
    assert not (tmp_path / "nowhere").exists()


def test_small_shards_hold_the_same_items(prepare: Callable[..., list[str]], tmp_path: Path) -> None:
    files, sharded = items(prepare("in files"), tmp_path), items(prepare("in shards", *SHARDS), tmp_path)
    assert len(files) == len(sharded) > 8
    for (moments, _, _), (others, states, count) in zip(files, sharded, strict=True):
        torch.testing.assert_close(moments, others, rtol=0, atol=2e-3)  # kept in half precision
        assert states.shape == (count, 16)


def test_parts_in_any_order_write_the_same_bytes(prepare: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    prepare("whole", *SHARDS)
    capsys.readouterr()
    for part in ("2/3", "0/3", "0/3", "1/3"):
        prepare("parts", *SHARDS, "--part", part)
    printed = capsys.readouterr()
    assert "part 0/3 is done; run the same command without --part when all parts are" in printed.out
    assert "part 1/3 is done, and so are all others" in printed.out
    assert "latents and texts of train: 2 of 3 shards are done" in printed.err
    assert checksums(tmp_path / "parts") == checksums(tmp_path / "whole")


def test_latents_without_stored_mels(prepare: Callable[..., list[str]], tmp_path: Path, source: Path) -> None:
    """The same latents, and nothing left behind; clips that cannot be used are left out here, too."""
    (source / "clip3.wav").write_text("no sound")
    prepare("with mels", *SHARDS)
    overrides = prepare("without", *SHARDS, "preprocess.keep_mels=false")
    latents = [checksums(tmp_path / name / "noise/cache") for name in ("with mels", "without")]
    assert latents[0].keys() == latents[1].keys()
    assert {name for name in latents[0] if latents[0][name] != latents[1][name] and name.endswith(".npy")} == set()
    assert not list((tmp_path / "without").rglob("*.mel.npy")) and not list((tmp_path / "without").rglob(".tmp-*"))
    (index,) = (tmp_path / "without").glob("noise/cache/*train*/index.json")
    assert {"unreadable": 1} in [shard["left_out"] for shard in json.loads(index.read_text())["shards"]]
    assert len(items(overrides, tmp_path)) == json.loads(index.read_text())["rows"]
    reports = [json.loads((tmp_path / name / "noise/report.json").read_text()) for name in ("with mels", "without")]
    assert reports[0] == reports[1] and reports[0]["refused"] == {"unreadable": 1}


@pytest.mark.full
def test_processes_write_the_same_bytes(
    prepare: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("whole", *SHARDS)
    monkeypatch.setattr(preprocessing, "ROWS_OF_PROCESS", 5)
    monkeypatch.setattr(stages, "_compute_missing", computing := Computing(stages._compute_missing))
    prepare("by processes", *SHARDS, "preprocess.num_workers=2")
    assert computing.shards == 0  # by this process, after the others
    assert checksums(tmp_path / "by processes") == checksums(tmp_path / "whole")


@pytest.mark.full
def test_ray_writes_the_same_bytes(prepare: Callable[..., list[str]], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install '.[ray]'")
    prepare("whole", *SHARDS)
    prepare("by ray", *SHARDS, "preprocess.num_workers=1", "preprocess.engine=ray")
    assert checksums(tmp_path / "by ray") == checksums(tmp_path / "whole")


def test_features_of_one_set_are_prepared_for_another_network(
    prepare: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The mels are computed once; another VAE has its own latents."""
    overrides = prepare("data", *SHARDS)
    before = checksums(tmp_path / "data")
    config = load_config(tmp_path / "tta_audioldm.json", overrides)
    frozen = load_encoders(config)
    frozen["vae"].encoder.conv_in.bias.data += 1
    training_data(config, frozen)
    after = checksums(tmp_path / "data")
    assert {name: after[name] for name in before} == before and not {n for n in after.keys() - before if "mels" in n}


def test_data_sets_are_prepared_one_by_one_and_concatenated(prepare: Callable[..., list[str]], tmp_path: Path) -> None:
    """Each keeps its latents; the concatenation computes nothing again."""
    overrides = prepare("data", *SHARDS)
    prepare("data", *SHARDS, "--dataset", "more", "preprocess.shuffle_seed=1")
    before = checksums(tmp_path / "data")
    assert [name for name in before if name.startswith("more/cache") and name.endswith("index.json")]
    preprocess.main(["--config", str(tmp_path / "tta_audioldm.json"), "--dataset", "more", "--features", *overrides])
    assert checksums(tmp_path / "data") == before
    config = load_config(tmp_path / "tta_audioldm.json", [*overrides, "dataset=[noise,more]"])
    data: Any = training_data(config, load_encoders(config)).train
    assert checksums(tmp_path / "data") == before
    assert data.dataset_sizes() == [len(data) // 2] * 2 and {row.dataset for row in data.rows} == {"noise", "more"}
    assert sum(data.shard_rows()) == len(data)
    uids = [row.uid for row in data.rows]
    one, other = (data[0, index] for index in (0, uids.index(uids[0], 1)))
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("text_mask", [True, False])
def test_texts_that_the_training_step_encodes(
    text_mask: bool, prepare: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The same states, up to the rounding to half precision."""
    batches = []
    for policy in ("always", "never"):
        chosen = [f"preprocess.cache_texts={policy}", f"model.text_mask={str(text_mask).lower()}"]
        config = load_config(tmp_path / "tta_audioldm.json", [*prepare("data", *SHARDS, *chosen), *chosen])
        frozen = load_encoders(config)
        data = training_data(config, frozen)
        items = [data.train[0, index] for index in range(len(data.train))]  # type: ignore[arg-type]
        batch = data.collate(items)
        batches.append(batch if policy == "always" else batch.encode(frozen["text"]))
    stored, encoded = batches
    assert encoded.mask.equal(stored.mask) and encoded.moments.equal(stored.moments)
    assert not encoded.mask.all()
    torch.testing.assert_close(encoded.states, stored.states, rtol=1e-3, atol=1e-3)


def test_large_text_states_are_not_stored(prepare: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    """They are stored up to `cache_limit`, and wherever they already are."""
    limits = {"stored": 1.0, "limited": 1e-9}
    for name, limit in limits.items():
        prepare(name, *SHARDS, f"preprocess.cache_limit={limit}")
        columns = {path.name.split(".")[1] for path in (tmp_path / name).glob("noise/cache/*/*.npy")}
        assert ("tokens" in columns, "states" in columns) == (name == "limited", name == "stored")
    assert "noise: the text states of train would take" in capsys.readouterr().err
    overrides = prepare("stored", *SHARDS, "--dataset", "more", "preprocess.cache_limit=1e-9")
    assert len(list((tmp_path / "stored/noise/cache").glob("*train*"))) == 1
    config = load_config(tmp_path / "tta_audioldm.json", [*overrides, "dataset=[noise,more]"])
    config.preprocess.cache_limit = 1e-9
    with pytest.raises(UserError, match="the text states of noise are within .*those of more are not: choose"):
        training_data(config, load_encoders(config))


@pytest.mark.full
@pytest.mark.usefixtures("no_preview")
def test_training_with_texts_encoded_in_the_step(prepare: Callable[..., list[str]], tmp_path: Path) -> None:
    """The validation loss after two steps is that of stored states."""
    best = []
    for policy in ("always", "never"):
        chosen = [f"preprocess.cache_texts={policy}", f"exp_name={policy}", "train.max_steps=2"]
        config = load_config(tmp_path / "tta_audioldm.json", [*prepare("data", *SHARDS), *chosen])
        state = checkpoint.read(runs.train(config) / "checkpoints/best.ckpt")
        best.append(state["callbacks"]["SaveRun"]["best"])
    assert 0 < best[0] < 2 and best[0] == pytest.approx(best[1], rel=1e-3)


def test_wrong_use(prepare: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--part: needs preprocess.storage=shards"):
        prepare("in files", "--part", "0/2")
    with pytest.raises(UserError, match="preprocess.engine=ray: needs preprocess.storage=shards"):
        prepare("in files", "preprocess.engine=ray")
    with pytest.raises(UserError, match="--part 2/2: parts are numbered from 0, so the last one is 1/2"):
        prepare("in shards", *SHARDS, "--part", "2/2")
    with pytest.raises(UserError, match="--part: computes one part without Ray: leave it out"):
        prepare("in shards", *SHARDS, "preprocess.engine=ray", "--part", "0/2")
    with pytest.raises(UserError, match="preprocess.ray_address 127.0.0.1:9: no Ray cluster there"):
        preprocessing._check_reachable("127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed: pip install"):
        prepare("in shards", *SHARDS, "preprocess.engine=ray")


def test_a_damaged_shard_is_named(prepare: Callable[..., list[str]], tmp_path: Path) -> None:
    overrides = prepare("data", *SHARDS)
    before = items(overrides, tmp_path)
    (path,) = (tmp_path / "data").glob("*/cache/*train*/00001.moments.npy")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="00001.moments.npy: is damaged .*: run `sonolume shards verify"):
        items(overrides, tmp_path)
    assert cli.run(shards.main, ["verify", str(tmp_path / "data/noise"), "--remove"]) == 0
    for one, other in zip(items(overrides, tmp_path), before, strict=True):
        assert one[0].equal(other[0]) and one[1].equal(other[1])


def test_threads_compute_the_same_bytes(
    prepare: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonolume.models.tta.audioldm.data.TEXT_BATCH_SIZE", 1)
    threads = torch.get_num_threads()
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            prepare(f"with {count}", *SHARDS)
    finally:
        torch.set_num_threads(threads)
    assert checksums(tmp_path / "with 1") == checksums(tmp_path / "with 4")
