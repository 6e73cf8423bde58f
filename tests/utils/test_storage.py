"""Shards in an object store, for which memory:// stands in: the cache, errors, prefetching and uploading."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest

from sonolume.utils import background, files, paths, remote_storage
from sonolume.utils.download_cache import CACHE_FOLDER, CACHE_GB, CacheSettings
from sonolume.utils.errors import UserError
from sonolume.utils.prefetch import Prefetch
from sonolume.utils.remote_storage import MissingFileError, RemoteStorage
from sonolume.utils.shard_upload import upload
from sonolume.utils.shards import Shards, ShardWriter, write_index
from sonolume.utils.storage import LocalStorage, open_storage

ADDRESS = "memory://bucket/features"
ROWS = 4  # of a shard


class Store:
    """Stands in for fsspec's file system: notes accesses, and raises or changes what a test asks for."""

    def __init__(self) -> None:
        self.system = fsspec.filesystem("memory")
        self.got: list[str] = []
        self.put: list[str] = []
        self.fail: Iterator[Exception | None] = iter(())
        self.change: Callable[[Path], None] = lambda path: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)

    def get_file(self, address: str, path: str) -> None:
        self.got.append(address.rpartition("/")[2])
        error = next(self.fail, None)
        if error is not None:
            raise error
        self.system.get_file(address, path)
        self.change(Path(path))

    def put_file(self, path: str, address: str) -> None:
        self.put.append(address.rpartition("/")[2])
        self.system.put_file(path, address)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store, and a cache in tmp_path."""
    store = Store()
    monkeypatch.setattr(remote_storage, "_file_system", lambda protocol: store)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path / "cache"))
    yield store
    background.wait()
    store.system.store.clear()
    store.system.pseudo_dirs[:] = [""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards: "latents" of 8 kB, "tokens" ragged."""
    for number in range(3):
        with ShardWriter(tmp_path / "features", number) as writer:
            writer.append("latents", np.random.default_rng(number).normal(size=(ROWS, 256)))
            writer.append_ragged("tokens", [np.full(row + number, row, np.uint16) for row in range(ROWS)])
            writer.finish()
    write_index(tmp_path / "features", 3, {})
    return tmp_path / "features"


@pytest.fixture
def uploaded(store: Store, folder: Path) -> Path:
    upload(folder, ADDRESS)
    store.put.clear()
    store.got.clear()
    return folder


def cached(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").iterdir() if path.suffix == ".npy")


def storage(tmp_path: Path, size: float = 1e9) -> RemoteStorage:
    return RemoteStorage(ADDRESS, CacheSettings(tmp_path / "cache", int(size)))


def fetch(place: RemoteStorage, folder: Path, file: str = "00000.latents.npy") -> Path:
    return place.fetch(file, files.checksum(folder / file))


def test_rows_equal_those_of_the_folder_and_files_are_downloaded_once(store: Store, uploaded: Path) -> None:
    local = Shards(uploaded)
    for _ in range(2):
        remote = Shards(ADDRESS)
        np.testing.assert_array_equal(np.asarray(remote.column("latents")), np.asarray(local.column("latents")))
        for one, other in zip(remote.column("tokens"), local.column("tokens"), strict=True):
            np.testing.assert_array_equal(one, other)
    assert store.got.count("index.json") == 2  # which may have changed
    assert len(store.got) == 2 + 3 * 3 and len(set(store.got)) == 1 + 3 * 3


def test_a_changed_index_is_read_and_changed_files_too(store: Store, uploaded: Path) -> None:
    before = Shards(ADDRESS).column("latents")[0]
    with ShardWriter(uploaded, 0) as writer:
        writer.append("latents", np.ones((ROWS, 256)))
        writer.append_ragged("tokens", [np.zeros(1, np.uint16)] * ROWS)
        writer.finish()
    write_index(uploaded, 3, {})
    upload(uploaded, ADDRESS)
    assert before.max() != 1 == Shards(ADDRESS).column("latents")[0].max()


def test_a_wrong_download_is_tried_once_more(store: Store, uploaded: Path, tmp_path: Path) -> None:
    wrong = iter([True])
    store.change = lambda path: path.write_bytes(b"x") and None if next(wrong, False) else None
    path = fetch(storage(tmp_path), uploaded)
    assert path.read_bytes() == (uploaded / "00000.latents.npy").read_bytes() and len(store.got) == 2


def test_a_file_that_differs_from_the_index_is_refused(store: Store, uploaded: Path, tmp_path: Path) -> None:
    store.change = lambda path: path.write_bytes(b"x") and None
    with pytest.raises(UserError, match=r"memory://bucket/features/00000\.latents\.npy: is not what the index says"):
        fetch(storage(tmp_path), uploaded)
    assert len(store.got) == 2 and cached(tmp_path) == [] and not list(tmp_path.rglob(f"{files.TEMPORARY}*"))


def test_the_least_recently_used_files_are_deleted(store: Store, uploaded: Path, tmp_path: Path) -> None:
    """Two files fit. A deleted file that is mapped stays readable."""
    place, names = storage(tmp_path, 2.5 * 8320), [f"0000{number}.latents.npy" for number in range(3)]
    first = np.load(fetch(place, uploaded, names[0]), mmap_mode="r")
    fetch(place, uploaded, names[1])
    for path, used in zip(cached(tmp_path), (10, 10), strict=True):
        os.utime(path, (used, used))
    fetch(place, uploaded, names[1])  # the first is now the older one
    fetch(place, uploaded, names[2])
    assert {path.stem for path in cached(tmp_path)} == {files.checksum(uploaded / name) for name in names[1:]}
    np.testing.assert_array_equal(first, np.load(uploaded / names[0]))
    assert fetch(place, uploaded, names[0]).is_file()


def test_a_file_larger_than_the_cache_is_read(store: Store, uploaded: Path, tmp_path: Path) -> None:
    for name in ("00000.latents.npy", "00001.latents.npy"):
        assert fetch(storage(tmp_path, 10), uploaded, name).is_file()
    assert len(cached(tmp_path)) == 1


def test_a_file_deleted_by_another_process_is_downloaded_again(
    store: Store, uploaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, load = Shards(ADDRESS).column("latents"), np.load
    deleted = iter([True])

    def load_late(path: Path, **given: Any) -> Any:
        if next(deleted, False):
            path.unlink()
        return load(path, **given)

    monkeypatch.setattr(np, "load", load_late)
    np.testing.assert_array_equal(latents[0], load(uploaded / "00000.latents.npy")[0])


class ClientError(Exception):
    """As of botocore."""


class NoCredentialsError(Exception):
    """As of botocore."""


class ReadTimeoutError(Exception):
    """As of botocore."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBUSY, "Please reduce your request rate."),
        ClientError("An error occurred (SlowDown) when calling the GetObject operation (reached max retries: 4)"),
        ClientError("An error occurred (503) when calling the GetObject operation: Service Unavailable"),
        ReadTimeoutError("Read timeout on endpoint URL"),
        TimeoutError(),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[:20]}",
)
def test_what_passes_is_tried_again_after_a_growing_while(
    store: Store, uploaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    store.fail = iter([error] * 3)
    assert fetch(storage(tmp_path), uploaded).is_file()
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, (0.5, 1, 2), strict=True))
    store.fail = iter([error] * 100)
    with pytest.raises(UserError, match=r"00001\.latents\.npy: cannot be reached .*check the network"):
        fetch(storage(tmp_path), uploaded, "00001.latents.npy")
    assert len(waits) == 3 + len(remote_storage.WAITS)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError("The specified bucket does not exist"), "no such bucket .*: create it"),
        (FileNotFoundError("index.json"), "no such file .*uploaded to"),
        (NoCredentialsError("Unable to locate credentials"), "no access .*: check the credentials"),
        (PermissionError("Access Denied"), "no access"),
        (ClientError("An error occurred (403) when calling the HeadObject operation: Forbidden"), "no access"),
        (ValueError("odd\nsecond line"), "ValueError: odd$"),
    ],
    ids=lambda value: f"{type(value).__name__} {value}"[:40] if isinstance(value, Exception) else "",
)
def test_what_does_not_pass_is_one_line_at_once(store: Store, error: Exception, message: str) -> None:
    store.fail = iter([error] * 2)
    with pytest.raises(UserError, match=f"^{ADDRESS}/index.json: {message}") as found:
        Shards(ADDRESS)
    assert "\n" not in str(found.value) and len(store.got) == 1


def test_credentials_are_explained_for_each_store(store: Store) -> None:
    store.fail = iter([NoCredentialsError("Unable to locate credentials")] * 3)
    stores = {"s3://b/f": "AWS_PROFILE", "gs://b/f": "gcloud auth", "hf://datasets/o/n": "HF_TOKEN"}
    for address, remedy in stores.items():
        with pytest.raises(UserError, match=rf"{address}/index\.json: no access .*{remedy}"):
            Shards(address)


def test_no_such_folder(store: Store) -> None:
    with pytest.raises(MissingFileError, match=r"memory://bucket/features/index\.json: no such file"):
        Shards(ADDRESS)


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_a_missing_package_is_named(protocol: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", not_installed)
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path))
    with pytest.raises(UserError) as found:
        Shards(f"{protocol}://bucket/features")
    assert paths.pip_install(extra) in str(found.value) and f"[{extra}]" in str(found.value)


@pytest.mark.parametrize("address", ["ftp://host/folder", "s3://", "s3:///", "://x"])
def test_an_address_of_no_store(address: str) -> None:
    with pytest.raises(UserError, match=f"^{address}: is not the address of a folder"):
        open_storage(address)


def test_a_full_disk_is_one_line(store: Store, uploaded: Path, tmp_path: Path) -> None:
    store.fail = iter([OSError(errno.ENOSPC, "No space left on device")] * 9)
    with pytest.raises(UserError, match=f"{tmp_path}/cache: no space left .*{CACHE_FOLDER}.*{CACHE_GB}"):
        fetch(storage(tmp_path), uploaded)
    assert len(store.got) == 1 and cached(tmp_path) == [] and not list(tmp_path.rglob(f"{files.TEMPORARY}*"))


def test_settings_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CACHE_FOLDER, CACHE_GB, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert CacheSettings.from_environment() == CacheSettings(Path.home() / ".cache/sonolume/shards", 50 * 10**9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CacheSettings.from_environment().folder == tmp_path / "sonolume" / "shards"
    monkeypatch.setenv(CACHE_FOLDER, "~/x")
    monkeypatch.setenv(CACHE_GB, "0.5")
    assert CacheSettings.from_environment() == CacheSettings(Path.home() / "x", 5 * 10**8)
    monkeypatch.setenv(CACHE_GB, "much")
    with pytest.raises(UserError, match=f"{CACHE_GB}=much"):
        CacheSettings.from_environment()
    assert isinstance(open_storage("a folder"), LocalStorage)


def test_threads_download_a_file_once(store: Store, uploaded: Path, tmp_path: Path) -> None:
    place, found = storage(tmp_path), list[Path]()
    threads = [threading.Thread(target=lambda: found.append(fetch(place, uploaded))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.got) == 1 and len(found) == 8 and len(set(found)) == 1


def _fetch_in_process(content: bytes, folder: Path, begin: Any, log: Path) -> None:
    def slow(path: Path) -> None:
        with log.open("a") as file:
            file.write("download\n")
        threading.Event().wait(0.2)
        path.write_bytes(content)

    begin.wait()
    place = RemoteStorage(ADDRESS, CacheSettings(folder, 10**9))
    place.download = lambda file, path: slow(path)  # type: ignore[method-assign]
    assert place.fetch("a.npy", hashlib.sha256(content).hexdigest()).read_bytes() == content


def test_processes_download_a_file_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("fork")
    begin, log = context.Barrier(3), tmp_path / "log"
    given = (b"content", tmp_path / "cache", begin, log)
    processes = [context.Process(target=_fetch_in_process, args=given) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert log.read_text() == "download\n" and capfd.readouterr().err == ""


def _read_row(column: Any, row: int, queue: Any) -> None:
    queue.put(column[row].sum())


def test_a_pickled_column_and_a_forked_process_read(store: Store, uploaded: Path) -> None:
    """The child has none of the parent's threads, and does not wait for them."""
    column = Shards(ADDRESS).column("latents")
    expected = Shards(uploaded).column("latents")[9].sum()
    assert pickle.loads(pickle.dumps(column))[9].sum() == expected
    stop, context = threading.Event(), multiprocessing.get_context("fork")
    store.change = lambda path: stop.wait(10) and None  # downloads of the parent hold their locks
    column.shards.prefetch([0], ["latents"])
    while "00000.latents.npy" not in store.got:
        stop.wait(0.01)
    store.change = lambda path: None
    queue = context.Queue()
    child = context.Process(target=_read_row, args=(column, 9, queue))
    child.start()
    assert queue.get(timeout=10) == expected
    stop.set()
    child.join()


def test_prefetched_files_are_not_downloaded_again(store: Store, uploaded: Path, tmp_path: Path) -> None:
    opened = Shards(ADDRESS)
    opened.prefetch([0, 2], ["latents", "tokens"])
    background.wait()
    downloaded = sorted(store.got)
    assert downloaded == sorted(f"0000{shard}.{column}.npy" for shard in (0, 2)
                                for column in ("latents", "tokens.ends", "tokens")) + ["index.json"]  # fmt: skip
    assert opened.column("latents")[0].shape == (256,) and len(opened.column("tokens")[3]) == 3
    assert sorted(store.got) == downloaded


def test_prefetching_of_a_folder_does_nothing(folder: Path, tmp_path: Path) -> None:
    Shards(folder).prefetch([0, 1, 2], ["latents"])
    assert not (tmp_path / "cache").exists()


def test_prefetching_ends_when_half_of_the_cache_is_unread(store: Store, uploaded: Path, tmp_path: Path) -> None:
    place = storage(tmp_path, 2 * 8320)

    def fetch_ahead(number: int) -> None:
        file = f"0000{number}.latents.npy"
        place.cache.get_ahead(file, lambda path: place.download(file, path))

    for number in range(3):
        fetch_ahead(number)
    assert store.got == ["00000.latents.npy", "00001.latents.npy"]
    for number in range(2):
        place.cache.get(f"0000{number}.latents.npy", lambda path: path.write_bytes(b"") and None)
    fetch_ahead(2)
    assert store.got[2:] == ["00002.latents.npy"]


def test_an_error_of_prefetching_is_that_of_the_reader(store: Store, uploaded: Path) -> None:
    opened = Shards(ADDRESS)
    store.fail = iter([PermissionError("Access Denied")] * 2)
    opened.prefetch([0], ["latents"])
    background.wait()
    with pytest.raises(UserError, match="no access"):
        opened.column("latents")[0]


class Asked:
    """Shards of 10 rows that note what is prefetched."""

    def __init__(self, count: int) -> None:
        self.ends, self.asked = 10 * np.arange(1, count + 1), list[int]()
        self.parts = [SimpleNamespace(storage=None)]  # not of this machine

    def prefetch(self, shards: list[int], columns: list[str]) -> None:
        assert columns == ["latents"]
        self.asked += shards


def test_the_shards_of_the_next_window_are_prefetched() -> None:
    """Windows of 4 shards, 16 shards, two epochs; one epoch the other way round."""
    shards: Any = Asked(16)

    def order(position: int) -> int:
        window, inside = divmod(position % 160, 40)
        window = 3 - window if position >= 160 else window
        return window * 40 + int(np.random.default_rng(position // 40).permutation(40)[inside])

    ahead = Prefetch(shards, ["latents"], order, ahead=40)
    for position in range(0, 280, 7):
        ahead.at(position)
        needed = {order(one) // 10 for one in range(position, position + 40)}
        assert needed <= set(shards.asked[-16:])
    assert set(shards.asked[:8]) == set(range(8)) and len(shards.asked) < 60
    ahead.at(40)  # resumed elsewhere
    assert set(range(4, 8)) <= set(shards.asked[-6:])


def test_an_upload_sends_data_first_and_the_index_last(store: Store, folder: Path) -> None:
    done = upload(folder, ADDRESS + "/")
    assert (done.sent, done.present) == (9, 0) and store.put[-1] == "index.json"
    for number in range(3):
        ours = [name for name in store.put if name.startswith(f"0000{number}")]
        assert len(ours) == 4 and ours[-1] == f"0000{number}.done.json"
    assert sorted(store.put) == sorted(path.name for path in folder.iterdir())


def test_an_upload_skips_what_is_there(store: Store, uploaded: Path) -> None:
    assert (upload(uploaded, ADDRESS).present, store.put) == (9, ["index.json"])
    store.system.rm_file(f"{ADDRESS}/00001.latents.npy")
    store.system.pipe_file(f"{ADDRESS}/00002.tokens.npy", b"cut off")
    store.put.clear()
    assert upload(uploaded, ADDRESS).sent == 2
    assert sorted(store.put) == ["00001.latents.npy", "00002.tokens.npy", "index.json"]


def test_an_interrupted_upload_shows_no_index(store: Store, folder: Path) -> None:
    (folder / "00002.latents.npy").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"00002\.latents\.npy: is missing or damaged"):
        upload(folder, ADDRESS)
    with pytest.raises(UserError, match="no such file"):
        Shards(ADDRESS)


@pytest.mark.parametrize(("address", "message"), [("folder", "not an address"), ("hf://datasets/o", "hf upload-large")])
def test_where_nothing_is_uploaded(folder: Path, address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        upload(folder, address)
