"""Clients follow the files that `outport mirror-config` writes, and ask the origin nothing themselves."""

import pytest

from clients import Containerd, Podman, Registry
from edge import UPSTREAM, binary, upstream
from processes import run

ANYBODY = '[access]\nanonymous_pull = ["**"]\n'


@pytest.fixture
def edge(start_edge, origin):
    return start_edge(ANYBODY + upstream(origin.url))


@pytest.fixture(params=["plain", "tls"])
def registry(request, edge, authority) -> Registry:
    return Registry(edge.plain) if request.param == "plain" else Registry(edge.tls, authority.ca_file)


@pytest.fixture
def written(edge, registry, tmp_path):
    """A function that writes the files of a format and returns their folder."""

    def write(form: str):
        folder = tmp_path / form
        ca_file = ["--ca-file", registry.ca_file] if registry.ca_file else []
        words = ["--config", edge.config, "--edge", registry.url, "--format", form, *ca_file, "--output", folder]
        run(binary(), "mirror-config", *words)
        return folder

    return write


def test_containerd_pulls_through_the_edge(written, registry, images, origin, hosts_file):
    image = images.two_platforms
    Containerd(hosts_file, written("containerd")).pull(registry, f"{UPSTREAM}/{image.name}", image)
    assert {asked.agent.partition("/")[0] for asked in origin.settled()} == {"outport"}


def test_podman_pulls_through_the_edge(written, registry, images, origin, hosts_file):
    image = images.two_platforms
    [file] = written("podman").iterdir()
    Podman(hosts_file, file.read_text()).pull(registry, f"{UPSTREAM}/{image.name}", image)
    assert {asked.agent.partition("/")[0] for asked in origin.settled()} == {"outport"}
