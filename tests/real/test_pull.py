"""skopeo, podman and containerd pull real images through the edge: each way of addressing, plain and TLS, cold and warm."""

from collections import Counter

import pytest

from clients import Containerd, Podman, Registry, Skopeo
from edge import HOST, UPSTREAM, upstream

ANYBODY = '[access]\nanonymous_pull = ["**"]\n'

WAYS = ["skopeo-prefix", "skopeo-host", "podman-prefix", "podman-host", "podman-mirror", "containerd-ns", "containerd-prefix", "containerd-host"]


@pytest.fixture(params=["plain", "tls"])
def scheme(request) -> str:
    return request.param


@pytest.fixture
def edge(start_edge, origin):
    return start_edge(ANYBODY + upstream(origin.url))


@pytest.fixture
def puller(edge, scheme, hosts_file, authority):
    """Of a way such as `podman-host`: a function that pulls an image in that way."""

    def choose(way: str):
        program, _, addressing = way.partition("-")
        listener = edge.tls if scheme == "tls" else edge.plain
        by_name = listener.replace("127.0.0.1", HOST)
        ca_file = authority.ca_file if scheme == "tls" else None
        registry = Registry(by_name if addressing == "host" else listener, ca_file)
        prefix = {"prefix": f"{listener}/{UPSTREAM}", "host": by_name, "ns": UPSTREAM, "mirror": UPSTREAM}[addressing]
        if program == "podman":
            mirror = f'[[registry]]\nlocation = "{UPSTREAM}"\n[[registry.mirror]]\nlocation = "{listener}/{UPSTREAM}"\n'
            mirror += f"insecure = {'false' if ca_file else 'true'}\n"
            client = Podman(hosts_file, mirror if addressing == "mirror" else "")
        else:
            client = {"skopeo": Skopeo, "containerd": Containerd}[program](hosts_file)
        return lambda image: client.pull(registry, f"{prefix}/{image.name}", image)

    return choose


@pytest.mark.parametrize("way", WAYS)
def test_an_image_of_a_debian_system(way, puller, images, origin):
    pull, image = puller(way), images.debian
    pull(image)
    cold = origin.settled()
    transfers = Counter(asked.path.partition("?")[0].rpartition("/")[2] for asked in cold if "/blobs/" in asked.path)
    assert transfers == dict.fromkeys(image.blobs, 1), "one GET for each blob and no HEAD before it"
    pull(image)
    again = origin.settled()[len(cold):]
    assert [asked for asked in again if asked.immutable] == []


@pytest.mark.parametrize("way", WAYS)
def test_an_index_of_two_platforms(way, puller, images, origin):
    pull, image = puller(way), images.two_platforms
    pull(image)
    cold = origin.settled()
    pull(image)
    again = origin.settled()[len(cold):]
    assert [asked for asked in again if asked.immutable] == []
    transfers = Counter(asked.path for asked in cold if "/blobs/" in asked.path)
    assert transfers and set(transfers.values()) == {1}


@pytest.mark.parametrize("way", ["skopeo-prefix", "containerd-ns"])
def test_an_image_of_122_layers(way, puller, images, origin):
    pull, image = puller(way), images.many_layers
    pull(image)
    cold = origin.settled()
    transfers = Counter(asked.path.partition("?")[0].rpartition("/")[2] for asked in cold if "/blobs/" in asked.path)
    assert transfers == dict.fromkeys(image.blobs, 1)
    pull(image)
    assert [asked for asked in origin.settled()[len(cold):] if asked.immutable] == []


def test_all_ways_of_addressing_share_one_cache(edge, images, origin):
    image = images.two_platforms
    path = f"/manifests/{image.digest}"
    by_prefix = edge.get(f"/v2/{UPSTREAM}/{image.repository}{path}")
    assert by_prefix.status == 200
    cold = origin.settled()
    by_namespace = edge.get(f"/v2/{image.repository}{path}?ns={UPSTREAM}")
    by_host = edge.get(f"/v2/{image.repository}{path}", Host=HOST)
    assert by_namespace.body == by_prefix.body == by_host.body
    assert [asked for asked in origin.settled()[len(cold):] if asked.immutable and image.digest in asked.path] == []


def test_a_restarted_edge_still_has_its_blobs(edge, images, origin):
    """What is on disk outlives the process, and memory is all that a restart forgets."""
    image = images.debian
    digest = max(image.blobs, key=image.blobs.get)
    path = f"/v2/{UPSTREAM}/{image.repository}/blobs/{digest}"
    whole = edge.get(path)
    assert (whole.status, len(whole.body)) == (200, image.blobs[digest])
    cold = origin.settled()
    assert edge.stop() == 0
    edge.start()
    assert edge.get(path).body == whole.body
    transfers = [asked for asked in origin.settled()[len(cold):] if asked.method == "GET" and "/blobs/" in asked.path]
    assert transfers == []


@pytest.mark.parametrize("way", ["containerd-ns", "containerd-prefix", "containerd-host"])
@pytest.mark.parametrize("scheme", ["plain"])
def test_nodes_that_say_the_same_are_known_by_their_words(way, scheme, puller, images, edge):
    """Over HTTP/1.1 the manifests of an image that others have pulled are answered by the bytes of the heads. (skopeo and podman end their
    connection with each request: those are read.)
    """
    pull, image = puller(way), images.debian
    for _ in range(3):
        pull(image)
    before = repeated(edge)
    pull(image)
    assert repeated(edge) > before


def repeated(edge) -> int:
    (line,) = (line for line in edge.metrics().splitlines() if line.startswith("outport_requests_repeated_total "))
    return int(line.split()[1])
