"""Shards in S3, for which moto's server on this machine stands in."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sonolume.bins import shards as command
from sonolume.utils import background, cli, remote_storage
from sonolume.utils.download_cache import CACHE_FOLDER
from sonolume.utils.errors import UserError
from sonolume.utils.shard_upload import upload
from sonolume.utils.shards import Column, Shards, ShardWriter, write_index

pytestmark = pytest.mark.s3
KEYS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
ROWS = 40  # of a shard


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of an object store with the bucket "data"."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    given = {"aws_access_key_id": "me", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=address, **given)
    client.create_bucket(Bucket="data")
    client.close()
    yield address
    server.stop()


@pytest.fixture(autouse=True)
def environment(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials, the address of the server, and a cache in tmp_path."""
    import fsspec

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(remote_storage, "WAITS", (0.01, 0.01))
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        with ShardWriter(tmp_path / "features", number) as writer:
            writer.append("latents", np.random.default_rng(number).normal(size=(ROWS, 4, 5)).astype(np.float16))
            writer.append_json("caption", [f"é {number} {row}" for row in range(ROWS)])
            writer.finish()
    write_index(tmp_path / "features", 3, {})
    return tmp_path / "features"


@pytest.fixture
def address(folder: Path, request: pytest.FixtureRequest) -> str:
    """A new folder of the store with the shards."""
    address = f"s3://data/{request.node.name}/features"
    upload(folder, address)
    return address


def test_the_same_rows_as_in_the_folder(folder: Path, address: str) -> None:
    remote, local = Shards(address), Shards(folder)
    remote.prefetch([0, 1], remote.columns)
    background.wait()
    np.testing.assert_array_equal(np.asarray(remote.column("latents")), np.asarray(local.column("latents")))
    assert remote.column("caption").json(3 * ROWS - 1) == f"é 2 {ROWS - 1}"
    again = upload(folder, address)
    assert (again.sent, again.present) == (0, 9)


def test_a_row_is_one_range_of_bytes(folder: Path, address: str) -> None:
    import fsspec

    row = np.load(folder / "00001.latents.npy")[17]
    start = 128 + 17 * row.nbytes
    found = fsspec.filesystem("s3").cat_file(f"{address}/00001.latents.npy", start=start, end=start + row.nbytes)
    assert found == row.tobytes()


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, column: Column) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self.column[row].copy())


def test_workers_that_load_data(folder: Path, address: str) -> None:
    """The parent has used its connection before; its workers make their own."""
    column = Shards(address).column("latents")
    column[0]
    context = multiprocessing.get_context("fork")
    batches = torch.utils.data.DataLoader(Rows(column), batch_size=ROWS, num_workers=2, multiprocessing_context=context)
    np.testing.assert_array_equal(torch.cat(list(batches)).numpy(), np.asarray(Shards(folder).column("latents")))


def test_throttling_and_time_outs_pass(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs
    from botocore.exceptions import ClientError, ReadTimeoutError

    busy = ClientError({"Error": {"Code": "SlowDown", "Message": "Please reduce your request rate."}}, "GetObject")
    errors: list[Exception] = [busy, ReadTimeoutError(endpoint_url="http://s3")]
    get_file = s3fs.S3FileSystem._get_file

    async def throttled(self: Any, *given: Any, **more: Any) -> None:
        if errors:
            raise errors.pop()
        await get_file(self, *given, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_get_file", throttled)
    s3fs.S3FileSystem.clear_instance_cache()  # instances bind their methods when they are made
    column = Shards(address).column("latents")
    np.testing.assert_array_equal(column[0], Shards(folder).column("latents")[0])
    assert not errors


def test_mistakes_are_one_line(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"s3://none/x/index\.json: no such file .*bucket"):
        Shards("s3://none/x")
    with pytest.raises(UserError, match=r"s3://data/none/index\.json: no such file"):
        Shards("s3://data/none")
    with pytest.raises(UserError, match="s3://none/x/.*no such file .*bucket"):
        upload(folder, "s3://none/x")
    import fsspec

    for name in KEYS:
        monkeypatch.delenv(name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UserError, match=r"s3://data/.*/index\.json: no access .*set AWS_ACCESS_KEY_ID"):
        Shards(address)


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached .*check the network"):
        Shards("s3://data/x")


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fsspec

    address = "s3://data/command"
    assert cli.run(command.main, ["upload", str(folder), address]) == 0
    assert "9 files sent" in capsys.readouterr().out
    assert cli.run(command.main, ["info", address]) == 0
    assert "120 rows in 3 shards" in capsys.readouterr().out
    assert cli.run(command.main, ["verify", address]) == 0
    system = fsspec.filesystem("s3")
    system.pipe_file(f"{address}/00001.latents.npy", b"x")
    system.rm_file(f"{address}/00002.caption.npy")
    assert cli.run(command.main, ["verify", address]) == 2
    shown = capsys.readouterr()
    assert "00001.latents.npy: is cut off" in shown.out and "00002.caption.npy: is missing" in shown.out
    assert "upload them again" in shown.err
