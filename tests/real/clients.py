"""Container clients as users run them, each pull into an empty store."""

import json
import os
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

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


class Skopeo(Client):
    """Copies every platform's blobs, and checks each against its digest while it does."""

    def _pull(self, registry, name, image, folder):
        run(*self.hosts, "skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests",
            *registry.certificates_option("src-"), f"docker://{name}", f"dir:{folder / 'image'}", env=os.environ | NO_HOME)
        manifest = (folder / "image" / "manifest.json").read_bytes()
        assert "sha256:" + sha256(manifest).hexdigest() == image.digest
        for digest, size in image.blobs.items():
            assert (folder / "image" / digest.removeprefix("sha256:")).stat().st_size == size


class Podman(Client):
    """Pulls and unpacks the image of this machine's platform. `mirrors` is the content of a registries.conf."""

    def __init__(self, hosts_file: Path, mirrors: str = ""):
        super().__init__(hosts_file)
        self.mirrors = mirrors

    def _pull(self, registry, name, image, folder):
        configuration = folder / "registries.conf"
        configuration.write_text(self.mirrors)
        driver = "overlay" if overlay_works(folder / "probe") else "vfs"
        podman = ["podman", "--root", folder / "root", "--runroot", folder / "run", "--storage-driver", driver]
        environment = os.environ | NO_HOME | {"CONTAINERS_REGISTRIES_CONF": str(configuration)}
        # What a mirror listens on stands in registries.conf; the option would speak of the name that nobody answers under.
        certificates = [] if self.mirrors and registry.ca_file is None else registry.certificates_option()
        run(*self.hosts, *podman, "pull", "--quiet", *certificates, name, env=environment)
        [found] = json.loads(run(*podman, "image", "inspect", name, env=environment))
        expected = {image.digest} | {digest for platform, digest in image.platforms.items() if platform == "linux/amd64"}
        assert {digest.partition("@")[2] for digest in found["RepoDigests"]} == expected
        run(*podman, "rmi", "--all", "--force", env=environment)


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
