"""Every client pushes and pulls, against every store, through two edges of one region at once: each request goes to either at random."""

import json

import pytest

from api import Api, read_whole
from clients import Buildah, Helm, Oras, Podman, Registry, Skopeo, Source, package_chart
from images import INDEX, MANIFEST, Image
from origin import Distribution
from processes import run
from region import Region
from stores import KINDS

SEED = 3
PROGRAMS = {"skopeo": Skopeo, "podman": Podman, "buildah": Buildah}
SIGNATURE = "application/vnd.example.signature.v1"


@pytest.fixture(scope="module", params=KINDS)
def region(request, stores, certificate, tmp_path_factory):
    """One for all checks of a store. Their repositories differ."""
    started = Region(tmp_path_factory.mktemp("region"), stores(request.param), certificate, seed=SEED)
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def logs_of_the_edges(region, logs):
    logs.extend(edge.process.log for edge in region.edges)


@pytest.fixture(scope="module")
def source_origin(images, authority, tmp_path_factory):
    """A docker-registry with TLS that has the images."""
    tls = authority.issue("source", "localhost", "127.0.0.1")
    started = Distribution(images.store, tmp_path_factory.mktemp("source"), tls=tls)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def sources(source_origin, authority, tmp_path_factory):
    """Where an image can be pushed from: `sources(form, image)`, the form being `docker` or `oci`."""
    layout = tmp_path_factory.mktemp("layout") / "layout"
    registry = Registry(source_origin.authority, authority.ca_file)

    def source(form: str, image: Image) -> Source:
        at_origin = Source(f"docker://{registry.authority}/{image.name}", registry)
        if form == "docker":
            return at_origin
        tag = image.repository.replace("/", "-")
        in_layout = Source(f"oci:{layout}:{tag}")
        listed = layout / "index.json"
        if not listed.exists() or tag not in listed.read_text():
            run("skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests", *registry.certificates_option("src-"),
                at_origin.reference, in_layout.reference)
        return in_layout

    return source


@pytest.fixture(params=["plain", "tls"])
def registry(request, region, authority) -> Registry:
    return Registry(region.plain.authority) if request.param == "plain" else Registry(region.tls.authority, authority.ca_file)


def from_every_edge(region: Region, repository: str, reference: str, digest: str) -> dict[str, int]:
    """Reads it whole from each edge; both have the same under the name."""
    found = [read_whole(Api(edge.plain), repository, reference) for edge in region.edges]
    assert all(next(iter(each)) == digest for each in found)
    return found[0]


def as_pushed(region: Region, repository: str, tag: str, digest: str, image: Image) -> Image:
    """What a program made of `image`: the same config, and layers that it may have compressed anew."""
    if digest == image.digest:
        return Image(repository, tag, digest, image.media_type, image.blobs, image.platforms)
    manifest = json.loads(region.edges[0].get(f"/v2/{repository}/manifests/{digest}", Accept=f"{MANIFEST}, {INDEX}").body)
    if image.media_type == INDEX:
        platforms = {f"{each['platform']['os']}/{each['platform']['architecture']}": each["digest"] for each in manifest["manifests"]}
        assert platforms.keys() == image.platforms.keys()
        return Image(repository, tag, digest, manifest["mediaType"], platforms=platforms)
    assert manifest["config"]["digest"] in image.blobs and len(manifest["layers"]) == len(image.blobs) - 1
    blobs = {each["digest"]: each["size"] for each in [manifest["config"], *manifest["layers"]]}
    return Image(repository, tag, digest, MANIFEST, blobs)


@pytest.mark.parametrize("form", ["docker", "oci"])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", ["image", "index"])
def test_images_and_indexes(program, form, kind, registry, region, images, sources, hosts_file, request):
    image = images.signed if kind == "image" else images.two_platforms
    repository, tag = f"team/{program}-{form}-{request.node.callspec.params['registry']}/{kind}", "v1"
    client, name = PROGRAMS[program](hosts_file), f"{registry.authority}/{repository}:{tag}"
    digest = client.push(registry, sources(form, image), name, image)
    pushed = as_pushed(region, repository, tag, digest, image)
    from_every_edge(region, repository, tag, digest)
    client.pull(registry, name, pushed)
    # Pushed again there is nothing to do, and nothing to go wrong.
    assert client.push(registry, sources(form, image), name, image) == digest


@pytest.mark.parametrize("image_name", ["debian", "many_layers"])
def test_large_images_and_images_of_many_layers(image_name, region, images, sources, hosts_file):
    image = getattr(images, image_name)
    registry = Registry(region.plain.authority)
    name = f"{registry.authority}/large/{image_name}:v1"
    client = Skopeo(hosts_file)
    client.push(registry, sources("docker", image), name, image)
    client.pull(registry, name, image)
    assert from_every_edge(region, f"large/{image_name}", "v1", image.digest).keys() >= image.blobs.keys()


def test_a_push_to_one_edge_is_there_at_the_other_at_once(region, images, sources, authority, hosts_file):
    """Without the balancer: over TLS these clients speak HTTP/2."""
    image, client = images.two_platforms, Skopeo(hosts_file)
    to, other = (Registry(edge.tls, authority.ca_file) for edge in region.edges)
    client.push(to, sources("docker", image), f"{to.authority}/direct/image:v1", image)
    client.pull(other, f"{other.authority}/direct/image:v1", image)


def test_an_image_that_buildah_has_built(registry, region, hosts_file, tmp_path, request):
    files = tmp_path / "files"
    files.mkdir()
    (files / "run").write_bytes(bytes(range(256)) * 5000)
    repository = f"team/built-{request.node.callspec.params['registry']}"
    digest = Buildah(hosts_file).build(registry, f"{registry.authority}/{repository}:v1", files)
    from_every_edge(region, repository, "v1", digest)


@pytest.mark.parametrize("chunk_bytes", [0, 100_000])
def test_artifacts_of_oras(registry, region, chunk_bytes, tmp_path, request):
    files = {"model.bin": bytes(range(256)) * 4000, "small.txt": b"small", "empty": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    repository = f"artifacts/{request.node.callspec.params['registry']}-{chunk_bytes}"
    client = Oras(registry)
    digest = client.push(f"{repository}:v1", [tmp_path / name for name in files], chunk_bytes=chunk_bytes, **{"org.example.by": "tests"})
    for reference in (":v1", f"@{digest}"):
        assert client.pull(repository + reference) == files
    from_every_edge(region, repository, "v1", digest)


def test_what_oras_attaches_is_listed_as_a_referrer(registry, region, images, sources, hosts_file, tmp_path, request):
    image = images.signed
    repository = f"attached/{request.node.callspec.params['registry']}"
    Skopeo(hosts_file).push(registry, sources("docker", image), f"{registry.authority}/{repository}:v1", image)
    note = tmp_path / "note.txt"
    note.write_text("looked at")
    size = len(region.edges[0].get(f"/v2/{repository}/manifests/{image.digest}", Accept=MANIFEST).body)
    client = Oras(registry)
    digest = client.attach(f"{repository}:note", [note], MANIFEST, image.digest, size, **{"org.example.by": "tests"})
    for edge in region.edges:
        answer = edge.get(f"/v2/{repository}/referrers/{image.digest}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, INDEX)
        [referrer] = json.loads(answer.body)["manifests"]
        assert (referrer["digest"], referrer["annotations"]) == (digest, {"org.example.by": "tests"})
    assert client.pull(f"{repository}@{digest}") == {"note.txt": b"looked at"}


def test_an_artifact_pushed_before_its_subject(region, images, sources, hosts_file):
    """The specification allows it: the list is there when the subject comes."""
    registry, repository = Registry(region.plain.authority), "early/signature"
    name = f"{registry.authority}/{repository}"
    client = Skopeo(hosts_file)
    client.push(registry, sources("docker", images.signature), f"{name}:signature", images.signature)
    client.push(registry, sources("docker", images.signed), f"{name}:v1", images.signed)
    for edge in region.edges:
        place = f"/v2/{repository}/referrers/{images.signed.digest}"
        [referrer] = json.loads(edge.get(f"{place}?artifactType={SIGNATURE}").body)["manifests"]
        assert referrer["digest"] == images.signature.digest
        assert json.loads(edge.get(f"{place}?artifactType=application/vnd.example.other").body)["manifests"] == []


def test_charts_of_helm(registry, region, tmp_path, request):
    chart = package_chart(tmp_path, "harbour")
    folder = f"charts/{request.node.callspec.params['registry']}"
    client = Helm(registry)
    client.push(folder, chart)
    assert client.versions(f"{folder}/harbour") == ["0.1.0"]
    assert client.pull(f"{folder}/harbour", "0.1.0") == chart.read_bytes()
    digest = region.edges[0].get(f"/v2/{folder}/harbour/manifests/0.1.0", Accept=MANIFEST).headers["Docker-Content-Digest"]
    from_every_edge(region, f"{folder}/harbour", "0.1.0", digest)


def test_both_edges_had_their_share_and_none_failed(region):
    """The last check of a region: what the balancers saw."""
    for spread in (region.plain, region.tls):
        shares = spread.shares()
        assert min(shares[edge] for edge in range(len(region.edges))) >= 0.3 * shares.total(), shares
        assert [passed for passed in spread.passed if passed.status >= 500] == []
    # ULIDs have no letter O.
    assert [key for key in region.keys() if "skopeo" in key or "harbour" in key] == [], "names never appear in keys"
