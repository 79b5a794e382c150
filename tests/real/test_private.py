"""An origin that wants tokens, and callers of whom only some may read what it holds."""

import base64
import json

import pytest

from clients import Containerd, Registry, Skopeo
from conftest import PASSWORD, USERNAME
from edge import UPSTREAM, upstream

ANYBODY = '[access]\nanonymous_pull = ["**"]\n'


@pytest.fixture
def signed_in(token_origin, authority, tmp_path):
    """The upstream's table for a user of the token origin: `signed_in(password)`."""

    def table(password: str) -> str:
        password_file = tmp_path / "upstream-password"
        password_file.write_text(password + "\n")
        keys = {"username": USERNAME, "password_file": str(password_file), "ca_file": str(authority.ca_file)}
        return upstream(token_origin.url, **keys)

    return table


def test_the_edge_signs_in_at_an_origin_with_tokens(start_edge, signed_in, token_server, token_origin, images, hosts_file):
    edge = start_edge(ANYBODY + signed_in(PASSWORD))
    registry = Registry(edge.plain)
    Skopeo(hosts_file).pull(registry, f"{edge.plain}/{UPSTREAM}/{images.debian.name}", images.debian)
    cold = len(token_origin.settled())
    Containerd(hosts_file).pull(registry, f"{UPSTREAM}/{images.debian.name}", images.debian)
    assert [asked for asked in token_origin.settled()[cold:] if asked.immutable] == []
    assert token_server.asked["right"] == 1, "a token is asked once for a repository and kept"
    assert token_server.asked["wrong"] == 0


def test_a_wrong_password_of_the_edge_opens_nothing(start_edge, signed_in, token_server, images):
    edge = start_edge(ANYBODY + signed_in("wrong"))
    answer = edge.get(f"/v2/{UPSTREAM}/{images.debian.repository}/manifests/{images.debian.tag}")
    assert answer.status in (401, 403, 404)
    assert json.loads(answer.body)["errors"]
    assert token_server.asked["right"] == 0


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
def guarded(start_edge, signed_in, tmp_path):
    """An edge on which only `reader` may pull; `stranger` is known and may not."""
    tables = ""
    for name, pull in (("reader", ["origin.test/**"]), ("stranger", ["elsewhere/**"])):
        password_file = tmp_path / f"{name}-password"
        password_file.write_text(f"{name}'s secret")
        tables += f"[[principal]]\nname = {json.dumps(name)}\npassword_files = [{json.dumps(str(password_file))}]\npull = {json.dumps(pull)}\n"
    return start_edge(tables + signed_in(PASSWORD))


def test_content_brought_in_for_one_caller_is_closed_to_others(guarded, images):
    image = images.signed
    blob = next(iter(image.blobs))
    paths = [f"manifests/{image.tag}", f"manifests/{image.digest}", f"blobs/{blob}", f"referrers/{image.digest}", "tags/list"]
    reader, stranger = basic("reader", "reader's secret"), basic("stranger", "stranger's secret")
    for path in paths:
        there = guarded.get(f"/v2/{UPSTREAM}/{image.repository}/{path}", **reader)
        assert there.status == 200, path
    for path in paths:
        for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
            place = f"/v2/{UPSTREAM}/{image.repository}/{path}"
            assert guarded.get(place, method, **headers).status == 401, path
            denied = guarded.get(place, method, **headers, **stranger)
            absent = guarded.get(f"/v2/{UPSTREAM}/no/such/{path}", method, **headers, **stranger)
            assert (denied.status, denied.body.replace(image.repository.encode(), b"no/such")) == (absent.status, absent.body), path
            assert denied.status in (401, 403, 404)


def test_skopeo_signs_in_at_the_edge(guarded, images, hosts_file):
    class WithCredentials(Registry):
        def certificates_option(self, prefix=""):
            return [*super().certificates_option(prefix), f"--{prefix}creds=reader:reader's secret"]

    Skopeo(hosts_file).pull(WithCredentials(guarded.plain), f"{guarded.plain}/{UPSTREAM}/{images.signed.name}", images.signed)
