"""The one place that builds real images.

They lie in a folder of docker-registry's own storage format, built once and kept in the cache folder, so that any number of
origins serve them read-only. `python images.py FOLDER` builds them by hand.
"""

import fcntl
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from origin import Distribution
from processes import run

VERSION = 1
"""Changes whenever what is built changes: the cache folder has it in its name."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"

SUITE = "bookworm"
PACKAGE_LAYERS = (("libllvm14",), ("gcc-12", "cpp-12", "g++-12", "libstdc++-12-dev"), ("git",))
"""Packages whose files make one layer each on top of the base system."""
MANY_LAYERS = 122
SMALL_LAYER_BYTES = 16 * 1024
LARGE_LAYER_BYTES = 730_000
"""122 of these are the 89 MB of the far benchmark."""
PIECE_BYTES = 16 * 1024 * 1024
"""The largest file in a layer of random bytes: the generator makes no more at once."""


@dataclass(frozen=True)
class Image:
    """What a client must find under a tag, down to the digests."""

    repository: str
    tag: str
    digest: str
    media_type: str
    blobs: dict[str, int] = field(default_factory=dict)
    """Config and layers with their sizes; empty for an index."""
    platforms: dict[str, str] = field(default_factory=dict)
    """Of an index: digests of its manifests, by platform such as `linux/amd64`."""

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"

    @property
    def size_bytes(self) -> int:
        return sum(self.blobs.values())


@dataclass(frozen=True)
class Images:
    store: Path
    """docker-registry's storage folder. Origins that serve it must not write."""
    debian: Image
    """A Debian root file system of several hundred MB in four layers, written by umoci."""
    many_layers: Image
    """122 layers of 16 KiB."""
    many_large_layers: Image
    """122 layers, 89 MB together."""
    two_platforms: Image
    signed: Image
    """An image that has a referrer."""
    signature: Image
    """The referrer: an artifact whose subject is `signed`, listed under the fallback tag."""
    blob: Image
    """One layer of 256 MiB that no compression makes smaller."""


def cache_folder() -> Path:
    default = Path(__file__).resolve().parents[2] / "target" / "real"
    return Path(os.environ.get("OUTPORT_TEST_CACHE", default))


def build_once(folder: Path, what: str, build: Callable[[Path], None]) -> None:
    """Builds a folder that is not there yet: one process does, others wait for it, and a failed attempt leaves nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            building = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
            try:
                build(building)
                building.rename(folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)


def load(cache: Path | None = None) -> Images:
    """The images, built if the cache folder does not have them. One process builds, others wait for it."""
    folder = (cache or cache_folder()) / f"images-{VERSION}"
    build_once(folder, "images", _build)
    listed = json.loads((folder / "images.json").read_text())
    return Images(folder / "store", **{name: Image(**image) for name, image in listed.items()})


def _build(folder: Path) -> None:
    store = folder / "store"
    with tempfile.TemporaryDirectory(prefix="outport-images-") as scratch_name:
        scratch = Path(scratch_name)
        origin = Distribution(store, scratch / "origin", writable=True)
        try:
            images = {
                "debian": _debian(origin.authority, scratch),
                "many_layers": small_layers(origin.url, "many/small", MANY_LAYERS, SMALL_LAYER_BYTES),
                "many_large_layers": small_layers(origin.url, "many/large", MANY_LAYERS, LARGE_LAYER_BYTES),
                "two_platforms": _two_platforms(origin.url),
                "blob": small_layers(origin.url, "one/blob", 1, 256 * 1024 * 1024),
            }
            images["signed"], images["signature"] = _signed(origin.url)
        finally:
            origin.stop()
    (folder / "images.json").write_text(json.dumps({name: asdict(image) for name, image in images.items()}, indent=1))


# What real builders write.


def _debian(registry: str, scratch: Path) -> Image:
    """A base system by debootstrap and packages' files on top, put together by umoci and pushed by skopeo."""
    layout = scratch / "layout"
    mirror = debian_mirror()
    root = scratch / "root"
    run("debootstrap", "--variant=minbase", SUITE, root, mirror)
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:{SUITE}")
    _add_layer(layout, root, scratch, (".",))
    for packages in PACKAGE_LAYERS:
        downloads, files = scratch / packages[0] / "debs", scratch / packages[0] / "files"
        downloads.mkdir(parents=True)
        run("apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", *packages, cwd=downloads)
        for package in sorted(downloads.iterdir()):
            run("dpkg-deb", "-x", package, files)
        # Only /usr: the base has links where old packages have folders of the root.
        _add_layer(layout, files, scratch, ("usr",))
    run("umoci", "config", "--image", f"{layout}:{SUITE}", "--config.cmd", "/bin/true", "--no-history")
    repository = "debian/rootfs"
    run("skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
        f"oci:{layout}:{SUITE}", f"docker://{registry}/{repository}:{SUITE}")
    return _pushed(f"http://{registry}", repository, SUITE)


def _add_layer(layout: Path, root: Path, scratch: Path, parts: tuple[str, ...]) -> None:
    archive = scratch / "layer.tar"
    run("tar", "--create", "--numeric-owner", "--sort=name", "--file", archive, "--directory", root, *parts)
    run("umoci", "raw", "add-layer", "--image", f"{layout}:{SUITE}", archive)
    archive.unlink()


def debian_mirror() -> str:
    """The mirror that this machine's apt uses."""
    lists = subprocess.run(["apt-get", "indextargets", "--format", "$(CREATED_BY) $(RELEASE) $(REPO_URI)"], capture_output=True, text=True)
    for line in lists.stdout.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "Packages" and rest.split()[0] == SUITE:
            return rest.split()[-1]
    return "http://deb.debian.org/debian"


# Images written here: small, quick and the same in each run.


def small_layers(url: str, repository: str, count: int, layer_bytes: int, tag: str = "1") -> Image:
    """An image of `count` layers with about `layer_bytes` each, of bytes that do not compress."""
    source = random.Random(f"{repository} {count} {layer_bytes}")
    pieces = [min(PIECE_BYTES, layer_bytes - start) for start in range(0, layer_bytes, PIECE_BYTES)]
    layers = [_layer({f"{number}/{index}": source.randbytes(piece) for index, piece in enumerate(pieces)}) for number in range(count)]
    return _push_image(url, repository, tag, layers)


def _two_platforms(url: str) -> Image:
    repository, tag = "two/platforms", "1"
    platforms, listed = {}, []
    for architecture in ("amd64", "arm64"):
        layers = [_layer({"etc/architecture": architecture.encode(), "bin/app": random.Random(architecture).randbytes(100_000)})]
        image = _push_image(url, repository, f"{tag}-{architecture}", layers, architecture)
        platforms[f"linux/{architecture}"] = image.digest
        size = len(_get(f"{url}/v2/{repository}/manifests/{image.digest}", MANIFEST))
        descriptor = {"mediaType": MANIFEST, "digest": image.digest, "size": size}
        listed.append(descriptor | {"platform": {"architecture": architecture, "os": "linux"}})
    digest = _push_manifest(url, repository, tag, INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed})
    return Image(repository, tag, digest, INDEX, platforms=platforms)


def _signed(url: str) -> tuple[Image, Image]:
    """An image, and an artifact about it. Distribution 2.8 has no referrers endpoint, so the fallback tag lists the artifact, as
    the specification asks of clients ("Referrers Tag Schema")."""
    repository = "signed/app"
    signed = _push_image(url, repository, "1", [_layer({"bin/app": b"signed" * 1000})])
    kind = "application/vnd.example.signature.v1"
    subject_size = len(_get(f"{url}/v2/{repository}/manifests/{signed.digest}", MANIFEST))
    config, signature = _push_blob(url, repository, b"{}"), _push_blob(url, repository, b"a signature")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": {"mediaType": EMPTY, "digest": config, "size": 2},
        "layers": [{"mediaType": "application/octet-stream", "digest": signature, "size": 11}],
        "subject": {"mediaType": MANIFEST, "digest": signed.digest, "size": subject_size},
        "annotations": {"org.example.by": "tests"},
    }
    digest = _push_manifest(url, repository, "signature", MANIFEST, manifest)
    size = len(_get(f"{url}/v2/{repository}/manifests/{digest}", MANIFEST))
    descriptor = {"mediaType": MANIFEST, "digest": digest, "size": size, "artifactType": kind, "annotations": manifest["annotations"]}
    fallback = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
    _push_manifest(url, repository, signed.digest.replace(":", "-"), INDEX, fallback)
    return signed, Image(repository, "signature", digest, MANIFEST, {config: 2, signature: 11})


def _layer(files: dict[str, bytes]) -> tuple[bytes, str]:
    """A gzip-compressed layer and the digest of what is inside. No times or owners of this machine get in."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    inside = archive.getvalue()
    return gzip.compress(inside, compresslevel=1, mtime=0), _digest(inside)


def _push_image(url: str, repository: str, tag: str, layers: list[tuple[bytes, str]], architecture: str = "amd64") -> Image:
    config = json.dumps({
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/app"]},
        "rootfs": {"type": "layers", "diff_ids": [inside for _, inside in layers]},
    }).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": _push_blob(url, repository, config), "size": len(config)},
        "layers": [{"mediaType": LAYER, "digest": _push_blob(url, repository, layer), "size": len(layer)} for layer, _ in layers],
    }
    _push_manifest(url, repository, tag, MANIFEST, manifest)
    return _pushed(url, repository, tag)


# The few requests of the distribution specification that pushing needs.


def _push_blob(url: str, repository: str, content: bytes) -> str:
    digest = _digest(content)
    start = urllib.request.Request(f"{url}/v2/{repository}/blobs/uploads/", data=b"", method="POST")
    with urllib.request.urlopen(start) as answer:
        place = urllib.parse.urljoin(url, answer.headers["Location"])
    finish = urllib.request.Request(f"{place}&digest={digest}", data=content, method="PUT")
    finish.add_header("Content-Type", "application/octet-stream")
    urllib.request.urlopen(finish).close()
    return digest


def _push_manifest(url: str, repository: str, reference: str, media_type: str, manifest: dict) -> str:
    content = json.dumps(manifest).encode()
    request = urllib.request.Request(f"{url}/v2/{repository}/manifests/{reference}", data=content, method="PUT")
    request.add_header("Content-Type", media_type)
    urllib.request.urlopen(request).close()
    return _digest(content)


def _pushed(url: str, repository: str, tag: str) -> Image:
    """An image as the registry has it."""
    content = _get(f"{url}/v2/{repository}/manifests/{tag}", MANIFEST)
    manifest = json.loads(content)
    blobs = {each["digest"]: each["size"] for each in [manifest["config"], *manifest["layers"]]}
    return Image(repository, tag, _digest(content), MANIFEST, blobs)


def _get(url: str, accept: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as answer:
        return answer.read()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    for name, image in vars(load(Path(sys.argv[1]) if len(sys.argv) > 1 else None)).items():
        print(name, image.name + " " + image.digest if isinstance(image, Image) else image)
