"""Servers of other clouds' storage, for tests of the same kind as those against `s3server`.

Of the emulators of Google Cloud Storage none honours ``ifGenerationMatch`` of deletes, so there is none here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

CONTAINER = "bucket"
FOLDER = "ZAPPEND_AZURITE"
"""The environment variable with the folder in which ``npm install azurite`` was run."""
NO_AZURITE = f"Azurite is neither on PATH nor in the folder that {FOLDER} names"
START = 60.0
"""Seconds after which a server that does not say where it listens is ended."""

# The account and its key are those that each Azurite has; they are in its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def azurite_command() -> str | None:
    """Return the path of Azurite's server of blobs, ``None`` if there is none (see `NO_AZURITE`)."""
    folder = os.environ.get(FOLDER)
    places = [str(Path(folder) / "node_modules" / ".bin")] if folder else []
    return shutil.which("azurite-blob", path=os.pathsep.join([*places, os.environ.get("PATH", os.defpath)]))


class Azurite:
    """Azurite, the emulator of Azure's blobs, on a free port of 127.0.0.1, with one empty container.

    A context manager. It is a process of its own that keeps all in memory. It honours If-None-Match and If-Match of
    uploads and deletes, one request at a time. Each write gives a new ETag, also one of the same bytes. A conditional
    delete or replacement of a missing blob ends with 412.
    """

    def __enter__(self) -> Self:
        command = azurite_command()
        if command is None:
            raise RuntimeError(NO_AZURITE)
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [
                *(command, "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--silent"),
                *("--skipApiVersionCheck", "--disableTelemetry"),
            ],
            cwd=self._folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self.url = f"{self._address()}/{ACCOUNT}"
            self._service = BlobServiceClient(self.url, credential=KEY, retry_total=0)
            self._container = self._service.get_container_client(CONTAINER)
            self._container.create_container()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()
        self._service.close()
        self._end()

    def _address(self) -> str:
        assert self._process.stdout is not None
        alarm = threading.Timer(START, self._process.kill)
        alarm.start()
        said = []
        try:
            for line in self._process.stdout:
                said.append(line)
                if "successfully listens on" in line:
                    return line.split()[-1]
        finally:
            alarm.cancel()
            alarm.join()
        raise RuntimeError("Azurite did not start: " + "".join(said))

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    @property
    def connection_string(self) -> str:
        parts = {"AccountName": ACCOUNT, "AccountKey": KEY, "BlobEndpoint": self.url}
        return "DefaultEndpointsProtocol=http;" + "".join(f"{name}={value};" for name, value in parts.items())

    def storage_options(self) -> dict[str, Any]:
        """Return the arguments of a file system of adlfs."""
        return {
            "connection_string": self.connection_string,
            "use_listings_cache": False,
            "skip_instance_cache": True,
        }

    def reset(self) -> None:
        """Empty the container."""
        for name in self.objects():
            self.delete(name)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Return all keys that begin with `prefix`, and their bytes."""
        names = sorted(self._container.list_blob_names(name_starts_with=prefix or None))
        return {name: self._container.download_blob(name).readall() for name in names}

    def put(self, key: str, data: bytes) -> None:
        """Write as somebody else."""
        self._container.upload_blob(key, data, overwrite=True).close()

    def delete(self, key: str) -> None:
        """Delete as somebody else, if there is something."""
        try:
            self._container.delete_blob(key)
        except ResourceNotFoundError:
            pass
