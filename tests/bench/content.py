"""What all servers of tests/bench/run serve, in docker-registry's own storage format, built once and kept beside the images of tests/real.

Blobs of bytes that do not compress, and two images for the sizes of their manifests.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import bench
import images as image_builder
from api import Api, expect
from origin import Distribution

VERSION = 1
"""Changes whenever what is built changes."""
MEBIBYTE = 1 << 20
BLOBS = {"large": 512 * MEBIBYTE, "middle": 128 * MEBIBYTE, "shared": 32 * MEBIBYTE}
LARGEST = {"largest": 1024 * MEBIBYTE}
"""Only in the long form."""
LAYERS = {"2k": 10, "40k": 240}
"""Of the images: their manifests have about so many bytes."""


@dataclass(frozen=True)
class Item:
    """A blob or a manifest. Under the tag is the image that it belongs to."""

    repository: str
    tag: str
    digest: str
    size: int


@dataclass(frozen=True)
class Content:
    store: Path
    blobs: dict[str, Item]
    manifests: dict[str, Item]

    @property
    def files(self) -> Path:
        """The folder that a server of files serves."""
        return self.store / "docker" / "registry" / "v2" / "blobs" / "sha256"

    @staticmethod
    def file(digest: str) -> str:
        """The path of a blob or manifest in that folder."""
        name = digest.partition(":")[2]
        return f"/{name[:2]}/{name}/data"


def load(long: bool) -> Content:
    """The content, built where the cache folder does not have it."""
    sizes = BLOBS | (LARGEST if long else {})
    folder = image_builder.cache_folder() / f"bench-{VERSION}-{'long' if long else 'short'}"
    image_builder.build_once(folder, "bench", lambda building: _build(building, sizes))
    listed = json.loads((folder / "content.json").read_text())
    return Content(
        folder / "store",
        *({name: Item(**each) for name, each in listed[kind].items()} for kind in ("blobs", "manifests")),
    )


def _build(folder: Path, sizes: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory(prefix="outport-bench-") as scratch:
        origin = Distribution(folder / "store", Path(scratch), writable=True)
        try:
            built = {
                "blobs": {name: _blob(origin, f"bench/{name}", size) for name, size in sizes.items()},
                "manifests": {name: _manifest(origin, f"bench/manifest-{name}", count) for name, count in LAYERS.items()},
            }
        finally:
            origin.stop()
    listed = {kind: {name: asdict(item) for name, item in items.items()} for kind, items in built.items()}
    (folder / "content.json").write_text(json.dumps(listed, indent=1))


def _blob(origin: Distribution, repository: str, size: int) -> Item:
    bench.tool("push", "--address", origin.authority, "--repository", repository, "--layers", 1, "--layer-bytes", size, "--seed", size)
    manifest = json.loads(expect(Api(origin.authority).ask("GET", f"/v2/{repository}/manifests/pushed"), 200).body)
    layer = manifest["layers"][0]
    return Item(repository, "pushed", layer["digest"], layer["size"])


def _manifest(origin: Distribution, repository: str, layers: int) -> Item:
    image = image_builder.small_layers(origin.url, repository, layers, 64)
    content = expect(Api(origin.authority).ask("GET", f"/v2/{repository}/manifests/{image.digest}"), 200).body
    return Item(repository, image.tag, image.digest, len(content))
