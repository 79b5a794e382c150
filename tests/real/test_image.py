"""The image that the Dockerfile makes: what is in it, that it is the same each time, and that it runs where nothing is allowed.

Compiling takes half an hour of two cores. Without OUTPORT_FULL=1 the stage that compiles is replaced by a folder with what `cargo test`
compiled, linked once more into one static file; the other stages are built as they stand. With it all of the Dockerfile is built, twice,
on a Debian with this machine's Rust. The stages' base is an image hub's, which is not to be reached here: it is made here, too.
"""

import json
import os
import shutil
import stat
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api import Api, push_blob, push_manifest, read_whole
from certificates import Authority
from clients import NO_HOME, storage
from edge import REPOSITORY, UPSTREAM, upstream
from images import CONFIG, LAYER, MANIFEST, SUITE, Images, debian_mirror
from origin import Distribution
from processes import Process, free_port, run, scratch_folder
from region import ANYBODY
from stores import Store, fresh_prefix

FULL = bool(os.environ.get("OUTPORT_FULL"))
LIMIT_BYTES = 40_000_000
"""Of the image with a release build, unpacked. Packed it is less than half of that."""
USER = 65532
REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE = "https://git.example.com/outport"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
BASE, BUILT = "localhost/base", "localhost/outport"
SHELL = ("sh", "mkdir", "cp")
"""What the stage beside the compiling one uses. With another program this list grows."""
COMPILE_TIMEOUT_S = 3 * 3600
NOTHING_ALLOWED = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges")
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
"""Lower than podman's own, which it may not set in every container that tests run in."""
EVERY_CAPABILITY = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}


class Storage:
    """An image store of podman and buildah for itself."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._common = storage(folder)
        # Caches of the build are kept in its temporary folder: each store has its own, so that no build finds what another left.
        (folder / "temporary").mkdir()
        self._environment = os.environ | NO_HOME | {"TMPDIR": str(folder / "temporary")}

    def podman_words(self, *words) -> list:
        return ["podman", *self._common, "--tmpdir", self._folder / "podman", "--volumepath", self._folder / "volumes", *words]

    def podman(self, *words, **options) -> str:
        return run(*self.podman_words(*words), env=self._environment, **options)

    def buildah(self, *words, **options) -> str:
        return run("buildah", *self._common, *words, env=self._environment, **options)

    def start(self, log: Path, *words) -> Process:
        """`podman run`, which passes signals on and ends as the container does."""
        return Process("the container", self.podman_words("run", *words), log, env=self._environment)

    def clear(self) -> None:
        self.podman("rm", "--all", "--force", "--volumes", "--time", "0")
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")


@dataclass(frozen=True)
class Image:
    storage: Storage
    layout: Path
    digest: str

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def path(self, digest: str) -> Path:
        return self.layout / "blobs" / "sha256" / digest.removeprefix("sha256:")

    @property
    def manifest(self) -> dict:
        return json.loads(self.read(self.digest))

    @property
    def config(self) -> dict:
        return json.loads(self.read(self.manifest["config"]["digest"]))

    @property
    def packed_bytes(self) -> int:
        return sum(layer["size"] for layer in self.manifest["layers"])

    def archives(self) -> Iterator[tarfile.TarFile]:
        for layer in self.manifest["layers"]:
            with tarfile.open(self.path(layer["digest"])) as archive:
                yield archive

    def entries(self) -> dict[str, str]:
        """Mode and owner of all that is in it, by path."""
        return {entry.name: f"{_mode(entry)} {entry.uid}:{entry.gid}" for archive in self.archives() for entry in archive}

    def unpacked_bytes(self) -> int:
        return sum(entry.size for archive in self.archives() for entry in archive)

    def content(self, name: str) -> bytes:
        [content] = [archive.extractfile(name).read() for archive in self.archives() if name in archive.getnames()]
        return content


def _mode(entry: tarfile.TarInfo) -> str:
    kind = stat.S_IFDIR if entry.isdir() else stat.S_IFREG if entry.isfile() else stat.S_IFLNK
    return stat.filemode(kind | entry.mode)


@pytest.fixture(scope="module")
def certificates(authority) -> bytes:
    """This machine's authorities, which its mirrors may have certificates of, and the tests' own."""
    return (Path("/") / CERTIFICATES).read_bytes() + authority.ca_file.read_bytes()


@pytest.fixture(scope="module")
def base(certificates) -> Iterator[Path]:
    """The archive of what stands for the image with Rust: Debian with as much as that has, or only a shell when nothing is compiled."""
    with scratch_folder() as folder:
        root = folder / "root"
        if FULL:
            run("debootstrap", "--variant=minbase", "--include=ca-certificates,gcc,libc6-dev", SUITE, root, debian_mirror())
            sysroot = Path(run("rustc", "--print", "sysroot").strip())
            for part in ("bin", "lib"):
                shutil.copytree(sysroot / part, root / "usr" / "local" / part, symlinks=True, dirs_exist_ok=True)
        else:
            (root / "bin").mkdir(parents=True)
            (root / "tmp").mkdir()
            shutil.copy(shutil.which("busybox"), root / "bin")
            for program in SHELL:
                (root / "bin" / program).symlink_to("busybox")
        (root / CERTIFICATES).parent.mkdir(parents=True, exist_ok=True)
        (root / CERTIFICATES).write_bytes(certificates)
        archive = folder / "base.tar"
        run("tar", "--create", "--numeric-owner", "--file", archive, "--directory", root, ".")
        shutil.rmtree(root)
        yield archive


@pytest.fixture(scope="module")
def static_binary(tmp_path_factory) -> Path:
    """What `cargo test` compiled, as one static file."""
    path = tmp_path_factory.mktemp("static") / "outport"
    # It compiles nothing when the tests' binaries are there; it tells which of many libraries they were made of.
    said = run("cargo", "test", "--locked", "--no-run", "--message-format=json", cwd=REPOSITORY, timeout_s=COMPILE_TIMEOUT_S)
    artifacts = [artifact for artifact in map(json.loads, said.splitlines()) if artifact["reason"] == "compiler-artifact"]
    libraries = {artifact["target"]["name"]: file for artifact in artifacts for file in artifact["filenames"] if file.endswith(".rlib")}
    externs = [word for name in ("outport", "clap", "tikv_jemallocator") for word in ("--extern", f"{name}={libraries[name]}")]
    run("rustc", "--edition", "2024", "--crate-name", "outport", REPOSITORY / "src" / "main.rs", *externs,
        "-L", f"dependency={Path(libraries['outport']).parent}", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o", path)
    return path


@pytest.fixture(scope="module")
def compiled(request) -> Path | None:
    """A folder in place of the stage that compiles; none when it is to compile."""
    return None if FULL else request.getfixturevalue("static_binary").parent


def build(folder: Path, base: Path, compiled: Path | None) -> Image:
    own = Storage(folder)
    own.podman("import", "--quiet", "--change", "ENV CARGO_HOME=/usr/local/cargo", base, BASE)
    arguments = {"RUST": BASE, "REVISION": REVISION, "SOURCE": SOURCE}
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    words += ["--build-context", f"build={compiled}"] if compiled else []
    own.buildah("build", "--quiet", "--isolation", "chroot", "--timestamp", "0", *words, "--tag", BUILT, REPOSITORY,
                timeout_s=COMPILE_TIMEOUT_S)
    own.buildah("push", "--quiet", "--digestfile", folder / "digest", BUILT, f"oci:{folder / 'layout'}:built")
    return Image(own, folder / "layout", (folder / "digest").read_text())


@pytest.fixture(scope="module")
def image(base, compiled) -> Iterator[Image]:
    with scratch_folder() as folder:
        image = build(folder, base, compiled)
        yield image
        image.storage.clear()


def test_the_same_sources_give_the_same_digest(image, base, compiled, tmp_path):
    if compiled:
        # As another machine has them: elsewhere, and of another time.
        again = shutil.copytree(compiled, tmp_path / "again")
        os.utime(again / "outport", (1, 1))
        compiled = again
    with scratch_folder() as folder:
        other = build(folder, base, compiled)
        other.storage.clear()
        assert (other.entries(), other.config) == (image.entries(), image.config)
        assert other.digest == image.digest


def test_nothing_is_in_it_but_what_the_edge_needs(image, certificates):
    assert image.entries() == {
        "LICENSE": "-rw-r--r-- 0:0",
        "etc": "drwxr-xr-x 0:0",
        "etc/group": "-rw-r--r-- 0:0",
        "etc/outport": "drwxr-xr-x 0:0",
        "etc/passwd": "-rw-r--r-- 0:0",
        "etc/ssl": "drwxr-xr-x 0:0",
        "etc/ssl/certs": "drwxr-xr-x 0:0",
        CERTIFICATES: "-rw-r--r-- 0:0",
        "outport": "-rwxr-xr-x 0:0",
        "var": "drwxr-xr-x 0:0",
        "var/lib": "drwxr-xr-x 0:0",
        "var/lib/outport": f"drwx------ {USER}:{USER}",
    }
    assert image.content(CERTIFICATES) == certificates
    assert image.content("etc/passwd").decode() == f"nonroot:x:{USER}:{USER}:nonroot:/var/lib/outport:/sbin/nologin\n"
    assert image.content("etc/group").decode() == f"nonroot:x:{USER}:\n"


def test_it_is_small(image):
    """Packed always, though what the tests compile is larger than a release; unpacked when it is one."""
    assert image.packed_bytes < LIMIT_BYTES
    if FULL:
        assert image.unpacked_bytes() < LIMIT_BYTES


def test_its_configuration_tells_how_to_run_it(image):
    config = image.config
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    config = config["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert (config["Entrypoint"], config["Cmd"]) == (["/outport"], ["serve"])
    assert config["ExposedPorts"].keys() == {"8443/tcp", "5001/tcp"}
    assert config["Volumes"].keys() == {"/var/lib/outport"}
    assert "OUTPORT_CONFIG=/etc/outport/outport.toml" in config["Env"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    said = image.storage.podman("run", "--rm", "--network", "none", *NOTHING_ALLOWED, *LIMITS, BUILT, "--version")
    assert said == f"outport {labels['version']}\n"
    assert (labels["title"], labels["licenses"]) == ("outport", "Apache-2.0")
    assert (labels["revision"], labels["source"]) == (REVISION, SOURCE)


def test_without_a_configuration_it_says_which_file_it_wants(image):
    words = image.storage.podman_words("run", "--rm", "--network", "none", *NOTHING_ALLOWED, *LIMITS, BUILT)
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 64, done
    assert "/etc/outport/outport.toml" in done.stderr


@pytest.fixture
def edge(image, images, authority, stores, tmp_path, logs) -> Iterator["Contained"]:
    edge = Contained(image, images, authority, stores("s3"), tmp_path)
    logs.append(edge.log)
    yield edge
    edge.stop()


class Contained:
    """An edge in a container that may do nothing but write to its volume, in the network of this machine. Its origin has a certificate of
    an authority that only the image's own file names; its store has a name that glibc must look up."""

    def __init__(self, image: Image, images: Images, authority: Authority, store: Store, folder: Path):
        self._storage, self._store, self._prefix, self.log = image.storage, store, fresh_prefix(), folder / "outport.log"
        self.plain, self._ops = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.origin = Distribution(images.store, folder / "origin", tls=authority.issue("image-origin", "localhost"))
        self._configuration = folder / "etc"
        self._configuration.mkdir()
        (self._configuration / "outport.toml").write_text(self._tables())
        secret = self._configuration / "secret"
        secret.write_text(store.all_options()["secret_access_key"])
        secret.chmod(0o400)
        os.chown(secret, USER, USER)
        self._container: Process | None = None

    def _tables(self) -> str:
        options = self._store.options() | {"endpoint": f"http://{self._store.authority.replace('127.0.0.1', 'store')}"}
        return (
            f'data_dir = "/var/lib/outport"\n[listen]\nregistry = "{self.plain}"\nops = "{self._ops}"\n'
            f'{ANYBODY}[bucket]\nurl = "{self._store.url(self._prefix)}"\n[bucket.options]\n'
            + "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
            + '[bucket.options_from_files]\nsecret_access_key = "secret"\n' + upstream(self.origin.url)
        )

    def start(self) -> None:
        words = ["--rm", "--name", "edge", "--network", "host", "--add-host", "store:127.0.0.1", *NOTHING_ALLOWED, *LIMITS]
        words += ["--volume", f"{self._configuration}:/etc/outport:ro", "--volume", "edge:/var/lib/outport"]
        self._container = self._storage.start(self.log, *words, BUILT)
        self._container.wait_for(lambda: urllib.request.urlopen(f"http://{self._ops}/readyz").status == 200)

    def pid(self) -> int:
        return int(self._storage.podman("inspect", "--format", "{{.State.Pid}}", "edge"))

    def in_store(self) -> dict[str, int]:
        return self._store.keys(self._prefix)

    def stop_container(self) -> int:
        return self._container.stop()

    def stop(self) -> None:
        self.origin.stop()
        if self._container:
            self._container.stop()


def test_it_runs_where_nothing_is_allowed(edge, images):
    edge.start()
    assert_nothing_is_allowed(edge.pid())
    image = images.many_layers
    name = f"{UPSTREAM}/{image.repository}"
    pulled = read_whole(Api(edge.plain), name, image.tag)
    assert pulled == {image.digest: pulled[image.digest]} | image.blobs
    before = edge.in_store()
    pushed = push_application(Api(edge.plain))
    assert edge.in_store().keys() > before.keys(), "the push is not in the store"
    assert edge.stop_container() == 0, "the first process of a container gets no signal that it does not ask for"
    edge.origin.stop()
    edge.start()
    assert read_whole(Api(edge.plain), name, image.digest) == pulled, "the volume has lost it"
    assert pushed in read_whole(Api(edge.plain), "team/app", "1")


def assert_nothing_is_allowed(process: int) -> None:
    """As the kernel sees it."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert status["Uid"] == status["Gid"] == [str(USER)] * 4
    assert {name: int(value[0], 16) for name, value in status.items() if name.startswith("Cap")} == dict.fromkeys(EVERY_CAPABILITY, 0)
    assert status["NoNewPrivs"] == ["1"]
    mounts = [line.split() for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines()]
    options = {mount[4]: mount[5].split(",") for mount in mounts}
    assert "ro" in options["/"] and "ro" in options["/etc/outport"] and "rw" in options["/var/lib/outport"], options


def push_application(api: Api) -> str:
    """An image under team/app:1, and its digest."""
    config, layer = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}', b"layer" * 1000
    described = [(CONFIG, config), (LAYER, layer)]
    descriptors = [{"mediaType": kind, "digest": push_blob(api, "team/app", blob), "size": len(blob)} for kind, blob in described]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptors[0], "layers": descriptors[1:]}
    return push_manifest(api, "team/app", "1", manifest)
