"""Container clients as users run them, each pull into an empty store."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import oras.client
import oras.oci

from images import INDEX, Image
from processes import Process, run, scratch_folder

NO_HOME = {"HOME": "/nonexistent", "XDG_RUNTIME_DIR": "/nonexistent"}
"""Whoever runs the tests may have signed in to registries: that must not matter."""


@dataclass(frozen=True)
class Registry:
    """How a client reaches a registry: `authority` is a host and port, plain HTTP or with a certificate of `ca_file`."""

    authority: str
    ca_file: Path | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.authority}"

    def certificates_option(self, prefix: str = "") -> list[str]:
        """What skopeo and podman call it."""
        if self.ca_file is None:
            return [f"--{prefix}tls-verify=false"]
        return [f"--{prefix}tls-verify=true", f"--{prefix}cert-dir={self.ca_file.parent / 'trusted'}"]


@dataclass(frozen=True)
class Source:
    """Where an image is pushed from: `reference` is `docker://HOST/NAME` of a registry with TLS, or `oci:FOLDER:TAG`."""

    reference: str
    registry: Registry | None = None

    def certificates_option(self, prefix: str = "") -> list[str]:
        return self.registry.certificates_option(prefix) if self.registry else []


def with_hosts(hosts_file: Path) -> list[str]:
    """A command that runs another one with its own /etc/hosts, so that the machine's stays as it is."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts_file)]


def overlay_works(folder: Path) -> bool:
    """Whether image stores in this folder can use overlay mounts: not in most containers."""
    parts = [folder / part for part in ("lower", "upper", "work", "merged")]
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)
    options = "lowerdir={},upperdir={},workdir={}".format(*parts)
    mount = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, str(parts[3])]
    return subprocess.run(mount, capture_output=True).returncode == 0


def storage(folder: Path) -> list:
    """The options of podman and buildah for an image store of one's own."""
    driver = "overlay" if overlay_works(folder / "probe") else "vfs"
    return ["--root", folder / "root", "--runroot", folder / "run", "--storage-driver", driver]


class Client:
    """A client program. `pull` raises if anything is wrong with what arrived."""

    def __init__(self, hosts_file: Path):
        self.hosts = with_hosts(hosts_file)

    def pull(self, registry: Registry, name: str, image: Image) -> None:
        """Pulls `name`, a full reference, from `registry` and compares what arrived with `image`."""
        with scratch_folder() as folder:
            self._pull(registry, name, image, folder)

    def _pull(self, registry: Registry, name: str, image: Image, folder: Path) -> None:
        raise NotImplementedError

    def push(self, registry: Registry, source: Source, name: str, image: Image) -> str:
        """Pushes `image` from `source` as `name`, a full reference.

        Returns the digest of what was pushed: programs that unpack an image compress it anew, and then it is not the image's.
        """
        with scratch_folder() as folder:
            return self._push(registry, source, name, image, folder)

    def _push(self, registry: Registry, source: Source, name: str, image: Image, folder: Path) -> str:
        raise NotImplementedError


class Skopeo(Client):
    """Copies every platform's blobs, and checks each against its digest while it does."""

    def _pull(self, registry, name, image, folder):
        run(*self.hosts, "skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests",
            *registry.certificates_option("src-"), f"docker://{name}", f"dir:{folder / 'image'}", env=os.environ | NO_HOME)
        manifest = (folder / "image" / "manifest.json").read_bytes()
        assert "sha256:" + sha256(manifest).hexdigest() == image.digest
        for digest, size in image.blobs.items():
            assert (folder / "image" / digest.removeprefix("sha256:")).stat().st_size == size

    def _push(self, registry, source, name, image, folder):
        run("skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests", *source.certificates_option("src-"),
            *registry.certificates_option("dest-"), source.reference, f"docker://{name}", env=os.environ | NO_HOME)
        return image.digest


class Podman(Client):
    """Pulls and unpacks the image of this machine's platform. `mirrors` is the content of a registries.conf."""

    def __init__(self, hosts_file: Path, mirrors: str = ""):
        super().__init__(hosts_file)
        self.mirrors = mirrors

    def _pull(self, registry, name, image, folder):
        configuration = folder / "registries.conf"
        configuration.write_text(self.mirrors)
        podman = ["podman", *storage(folder)]
        environment = os.environ | NO_HOME | {"CONTAINERS_REGISTRIES_CONF": str(configuration)}
        # What a mirror listens on stands in registries.conf; the option would speak of the name that nobody answers under.
        certificates = [] if self.mirrors and registry.ca_file is None else registry.certificates_option()
        run(*self.hosts, *podman, "pull", "--quiet", *certificates, name, env=environment)
        [found] = json.loads(run(*podman, "image", "inspect", name, env=environment))
        expected = {image.digest} | {digest for platform, digest in image.platforms.items() if platform == "linux/amd64"}
        assert {digest.partition("@")[2] for digest in found["RepoDigests"]} == expected
        run(*podman, "rmi", "--all", "--force", env=environment)

    def _push(self, registry, source, name, image, folder):
        return push_from_storage(["podman", *storage(folder)], registry, source, name, image, folder)


class Buildah(Client):
    """Unpacks an image as podman does, and builds new ones."""

    def _pull(self, registry, name, image, folder):
        buildah = ["buildah", *storage(folder)]
        run(*self.hosts, *buildah, "pull", "--quiet", *registry.certificates_option(), name, env=os.environ | NO_HOME)
        found = json.loads(run(*buildah, "inspect", "--type", "image", name, env=os.environ | NO_HOME))
        assert found["FromImageDigest"] in {image.digest, image.platforms.get("linux/amd64")}
        run(*buildah, "rmi", "--all", "--force", env=os.environ | NO_HOME)

    def _push(self, registry, source, name, image, folder):
        return push_from_storage(["buildah", *storage(folder)], registry, source, name, image, folder)

    def build(self, registry: Registry, name: str, files: Path) -> str:
        """Commits an image with a folder's files in it, pushes it, and returns its digest."""
        with scratch_folder() as folder:
            buildah = ["buildah", *storage(folder)]
            environment = os.environ | NO_HOME
            container = run(*buildah, "from", "scratch", env=environment).strip()
            run(*buildah, "copy", "--quiet", container, files, "/files", env=environment)
            run(*buildah, "config", "--cmd", "/files/run", container, env=environment)
            run(*buildah, "commit", "--quiet", container, "built", env=environment)
            digest_file = folder / "digest"
            run(*buildah, "push", "--quiet", "--digestfile", digest_file, *registry.certificates_option(), "built", f"docker://{name}",
                env=environment)
            run(*buildah, "rm", "--all", env=environment)
            return digest_file.read_text()


def push_from_storage(program: list, registry: Registry, source: Source, name: str, image: Image, folder: Path) -> str:
    """How podman and buildah push: out of their image store, an index as what they call a manifest (list)."""
    environment = os.environ | NO_HOME
    from_source = source.certificates_option()
    pushed = ["--digestfile", folder / "digest", *registry.certificates_option()]
    if image.media_type == INDEX:
        run(*program, "manifest", "create", "listed", env=environment)
        run(*program, "manifest", "add", *from_source, "--all", "listed", source.reference, env=environment)
        # The source is read only now. Where its certificate is not checked, TLS is spoken all the same.
        run(*program, "manifest", "push", "--quiet", *pushed, "--all", "--format", "oci", "listed", f"docker://{name}", env=environment)
    else:
        image_id = run(*program, "pull", "--quiet", *from_source, source.reference, env=environment).strip()
        run(*program, "push", "--quiet", *pushed, image_id, f"docker://{name}", env=environment)
        run(*program, "rmi", "--all", "--force", env=environment)
    return (folder / "digest").read_text()


def write_default_host(folder: Path, registry: Registry) -> Path:
    """A certs.d that sends every pull to one registry, whatever the image's name."""
    hosts = folder / "_default" / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    ca = f'ca = "{registry.ca_file}"\n' if registry.ca_file else ""
    hosts.write_text(f'server = "{registry.url}"\n{ca}[host."{registry.url}"]\ncapabilities = ["pull", "resolve"]\n{ca}')
    return folder


class Containerd(Client):
    """A containerd of its own; `ctr` with certs.d as the kubelet's containerd has it: `certs_folder`, or one written here."""

    def __init__(self, hosts_file: Path, certs_folder: Path | None = None):
        super().__init__(hosts_file)
        self.certs_folder = certs_folder

    def _pull(self, registry, name, image, folder):
        certs_folder = self.certs_folder or write_default_host(folder / "certs.d", registry)
        config, socket = folder / "config.toml", folder / "containerd.sock"
        config.write_text(
            f'version = 2\nroot = "{folder / "root"}"\nstate = "{folder / "state"}"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n'
        )
        snapshotter = "overlayfs" if overlay_works(folder / "probe") else "native"
        daemon = Process("containerd", ["containerd", "--config", config], folder / "containerd.log")
        try:
            ctr = ["ctr", "--address", socket]
            daemon.wait_for(lambda: subprocess.run([*ctr, "version"], capture_output=True).returncode == 0)
            platforms = ["--all-platforms"] if image.media_type == INDEX else []
            run(*self.hosts, *ctr, "images", "pull", "--hosts-dir", certs_folder, "--snapshotter", snapshotter, *platforms, name)
            listed = run(*ctr, "images", "ls", f"name=={name}")
            assert image.digest in listed, listed
            contents = run(*ctr, "content", "ls", "-q").split()
            assert set(contents) >= {image.digest, *image.blobs, *image.platforms.values()}
        finally:
            daemon.stop()


class Oras:
    """The Python client of ORAS, which pushes files as artifacts."""

    def __init__(self, registry: Registry):
        self._registry = registry
        tls_verify = str(registry.ca_file) if registry.ca_file else True
        self._client = oras.client.OrasClient(insecure=registry.ca_file is None, tls_verify=tls_verify)

    def push(self, name: str, files: list[Path], *, chunk_bytes: int = 0, **annotations: str) -> str:
        """Pushes files as an artifact, in chunks if asked for, and returns its digest."""
        chunks = {"do_chunked": True, "chunk_size": chunk_bytes} if chunk_bytes else {}
        return self._push(name, files, manifest_annotations=annotations, **chunks)

    def attach(self, name: str, files: list[Path], media_type: str, digest: str, size: int, **annotations: str) -> str:
        """Pushes files as an artifact about the manifest that `digest` names."""
        subject = oras.oci.Subject(media_type, digest, size)
        return self._push(name, files, manifest_annotations=annotations, subject=subject)

    def _push(self, name: str, files: list[Path], **options) -> str:
        paths = [str(file) for file in files]
        answer = self._client.push(f"{self._registry.authority}/{name}", files=paths, disable_path_validation=True, quiet=True, **options)
        return answer.headers["Docker-Content-Digest"]

    def pull(self, name: str) -> dict[str, bytes]:
        """The files of an artifact by name. `name` has a tag or a digest."""
        with scratch_folder() as folder:
            self._client.pull(f"{self._registry.authority}/{name}", outdir=str(folder))
            return {file.name: file.read_bytes() for file in folder.iterdir()}


class Helm:
    """Helm 4's engine: helm-python-sdk has it as a library."""

    def __init__(self, registry: Registry):
        self._registry = registry

    def push(self, folder: str, chart: Path) -> None:
        """Pushes a packaged chart to `folder`/NAME:VERSION."""
        self._run("push", folder, chart)

    def pull(self, name: str, version: str) -> bytes:
        """A packaged chart."""
        with scratch_folder() as folder:
            self._run("pull", name, version, folder)
            [chart] = folder.glob("*.tgz")
            return chart.read_bytes()

    def versions(self, name: str) -> list[str]:
        return json.loads(self._run("versions", name))

    def _run(self, command: str, name: str, *words) -> str:
        trust = {"SSL_CERT_FILE": str(self._registry.ca_file)} if self._registry.ca_file else {}
        words = [command, self._registry.url, name, *words]
        return run(sys.executable, Path(__file__).with_name("helm.py"), *words, env=os.environ | NO_HOME | trust)


def package_chart(folder: Path, name: str) -> Path:
    """A chart as `helm create` and `helm package` make it; its version is 0.1.0."""
    return Path(run(sys.executable, Path(__file__).with_name("helm.py"), "package", name, folder, env=os.environ | NO_HOME).strip())
