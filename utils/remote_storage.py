"""Folders of object stores, read and written by fsspec: s3:// (s3fs), gs:// (gcsfs), hf:// (huggingface_hub), memory://.

fsspec and its packages are imported at the first access. Credentials are those of the environment; never in a config.
"""

import errno
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sonolume.utils import background, files, paths
from sonolume.utils.cache import content_hash
from sonolume.utils.download_cache import DISK_FULL, CacheSettings, DownloadCache
from sonolume.utils.errors import UserError, first_line

Result = TypeVar("Result")
PROTOCOLS = ("s3", "gs", "hf", "memory")
EXTRAS = {"s3": "s3", "gs": "gcs"}  # extra of this package that a protocol needs
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
PATIENCE = 60.0  # seconds after which no further attempt begins; some packages try for a minute themselves
OPTIONS = {"s3": {"config_kwargs": {"connect_timeout": 5, "retries": {"max_attempts": 1}}}}  # s3fs tries again, too
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    "hf": "run `hf auth login`, or set HF_TOKEN",
}
# Names of exceptions, and parts of messages, of the packages above; they are not imported for this.
DENIED = re.compile(
    r"NoCredentials|PartialCredentials|CredentialRetrieval|DefaultCredentials|RefreshError|GatedRepo|InvalidAccessKey|"
    r"SignatureDoesNotMatch|Unable to locate credentials|Access ?Denied|Forbidden|Unauthorized|\b40[13]\b"
)
MISSING = re.compile(r"NoSuchBucket|NoSuchKey|RepositoryNotFound|EntryNotFound|RevisionNotFound|\b404\b")
NO_BUCKET = re.compile(r"NoSuchBucket|bucket does not exist")
OFFLINE = re.compile(r"OfflineMode")
TRANSIENT = re.compile(
    r"SlowDown|reduce your request rate|Too ?Many ?Requests|ServiceUnavailable|InternalError|Time-?d?[ -]?out|"
    r"Connection|Connect|Payload|IncompleteRead|temporarily|\b(?:429|500|502|503|504)\b",
    re.IGNORECASE,
)
_NO_LOG = logging.NullHandler()
BUSY = (errno.EBUSY, errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE)  # as which s3fs reports throttling


class MissingFileError(UserError):
    """There is no such file, folder or bucket."""


class RemoteStorage:
    """A folder of an object store; whole files are downloaded into a cache and checked.

    Each access asks fsspec for its instance of this process: instances are neither pickled nor used after a fork.

    Raises:
        UserError: the address is not understood.
    """

    def __init__(self, address: str, cache: CacheSettings) -> None:
        self.protocol, _, place = address.partition("://")
        self.name, self.cache = address.rstrip("/"), DownloadCache(cache)
        self.remedy = f"upload it again, or remove the cache in {cache.folder}"
        if self.protocol not in PROTOCOLS or not place.strip("/"):
            known = ", ".join(f"{one}://" for one in PROTOCOLS)
            raise UserError(f"{address}: is not the address of a folder ({known}, such as s3://bucket/folder)")

    def fetch(self, file: str, checksum: str = "") -> Path:
        """Return the path of a file in the cache, downloaded if it is not there.

        Args:
            checksum: SHA-256 of the content; if empty, the file is downloaded again, for it may have changed.

        Raises:
            UserError: there is no such file, no access or no network, the content is another, or the disk is full.
        """
        if not checksum:
            return self.cache.refresh(f"{content_hash(self.name)}-{file}", lambda path: self.download(file, path))
        return self.cache.get(_cached_name(file, checksum), lambda path: self._download_checked(file, checksum, path))

    def prefetch(self, file: str, checksum: str) -> None:
        """Download a file into the cache in the background; what fails there fails in the `fetch` that needs it."""
        name = _cached_name(file, checksum)
        background.start(lambda: self.cache.get_ahead(name, lambda path: self._download_checked(file, checksum, path)))

    def download(self, file: str, path: Path) -> None:
        """Write the content of a file to a path."""
        path.touch()  # an error of this machine is raised here, not taken for one of the store
        self._call(file, lambda system, address: system.get_file(address, str(path)))

    def upload(self, path: Path, file: str) -> None:
        """Write a file; it appears in the store when it is whole."""
        self._call(file, lambda system, address: system.put_file(str(path), address))

    def sizes(self) -> dict[str, int]:
        """Bytes of each file of the folder; empty if there is no such folder."""

        def listed(system: Any, _: str) -> dict[str, int]:
            system.invalidate_cache()
            try:
                found = system.ls(self.name, detail=True)
            except FileNotFoundError:
                return {}
            return {one["name"].rpartition("/")[2]: one["size"] for one in found if one["type"] == "file"}

        return self._call("", listed)

    def _download_checked(self, file: str, checksum: str, path: Path) -> None:
        for _ in range(2):
            self.download(file, path)
            if files.checksum(path) == checksum:
                return
            path.unlink()
        raise UserError(f"{self.name}/{file}: is not what the index says (SHA-256 of two downloads): upload it again")

    def _call(self, file: str, access: Callable[[Any, str], Result]) -> Result:
        """Call `access(file system, address)`, again after a while if the store is busy or does not answer.

        The packages of the protocols raise anything; all becomes a UserError that names the address and a remedy,
        except errors of this machine's disk.
        """
        address = f"{self.name}/{file}" if file else self.name
        end = time.monotonic() + PATIENCE
        for wait in (*WAITS, None):
            try:
                return access(_file_system(self.protocol), address)
            except UserError:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    raise
                if wait is None or time.monotonic() > end or not _is_transient(error):
                    kind = MissingFileError if _is_missing(error) else UserError
                    raise kind(f"{address}: {_explain(error, self.protocol)}") from error
                time.sleep(wait * random.uniform(0.5, 1))  # else all processes come again at once
        raise AssertionError("unreachable")


def _cached_name(file: str, checksum: str) -> str:
    return checksum + Path(file).suffix


def _file_system(protocol: str) -> Any:
    """The file system of a protocol in this process."""
    import fsspec

    try:
        for package in ("fsspec", "s3fs", "gcsfs"):  # print what is reported in one line, unless a log is configured
            logging.getLogger(package).addHandler(_NO_LOG)
        return fsspec.filesystem(protocol, **OPTIONS.get(protocol, {}))
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        install = paths.pip_install(extra) if extra else f"pip install {error.name or 'its package'}"
        raise UserError(f"{protocol}:// needs a package that is not installed: {install}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_about(error: BaseException, pattern: re.Pattern[str]) -> bool:
    """Whether a pattern occurs in an exception or one that caused it: in the names of its classes, or its message."""
    texts = (f"{' '.join(kind.__name__ for kind in type(one).__mro__)} {one}" for one in _chain(error))
    return any(map(pattern.search, texts))


def _is_denied(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or _is_about(error, DENIED)


def _is_missing(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) or _is_about(error, MISSING)


def _is_transient(error: BaseException) -> bool:
    if _is_missing(error) or _is_denied(error) or _is_about(error, OFFLINE):
        return False
    return getattr(error, "errno", None) in BUSY or _is_about(error, TRANSIENT)


def _explain(error: BaseException, protocol: str) -> str:
    """What went wrong, and what to do."""
    detail = first_line(error)
    if _is_about(error, NO_BUCKET):
        return f"no such bucket ({detail}): create it, or mend the address"
    if _is_missing(error):
        return f"no such file ({detail}): check bucket and folder, and whether they were uploaded to the end"
    if _is_denied(error):
        return f"no access ({detail}): {CREDENTIALS.get(protocol, 'check the credentials')}"
    if _is_about(error, OFFLINE) or _is_transient(error):
        return f"cannot be reached ({detail}): check the network, and run the same command again"
    return f"{type(error).__name__}: {detail}"
