"""Referrers of an image at an origin without a referrers endpoint: the edge reads the fallback tag."""

import json

import pytest

from clients import Registry, Skopeo
from edge import UPSTREAM, upstream
from images import INDEX

ANYBODY = '[access]\nanonymous_pull = ["**"]\n'


@pytest.fixture
def edge(start_edge, origin):
    return start_edge(ANYBODY + upstream(origin.url))


def test_the_fallback_tag_answers_for_the_endpoint(edge, images):
    place = f"/v2/{UPSTREAM}/{images.signed.repository}/referrers/{images.signed.digest}"
    answer = edge.get(place)
    assert (answer.status, answer.headers["Content-Type"]) == (200, INDEX)
    [referrer] = json.loads(answer.body)["manifests"]
    assert referrer["digest"] == images.signature.digest
    assert referrer["artifactType"] == "application/vnd.example.signature.v1"
    assert referrer["annotations"] == {"org.example.by": "tests"}
    assert "OCI-Filters-Applied" not in answer.headers

    other = edge.get(f"{place}?artifactType=application/vnd.example.other")
    assert (other.status, json.loads(other.body)["manifests"]) == (200, [])
    assert other.headers["OCI-Filters-Applied"] == "artifactType"


def test_without_referrers_the_list_is_empty(edge, images):
    answer = edge.get(f"/v2/{UPSTREAM}/{images.debian.repository}/referrers/{images.debian.digest}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, INDEX)
    assert json.loads(answer.body)["manifests"] == []


def test_the_fallback_tag_and_the_artifact_can_be_pulled(edge, images, hosts_file):
    fallback = edge.get(f"/v2/{UPSTREAM}/{images.signed.repository}/manifests/{images.signed.digest.replace(':', '-')}")
    assert (fallback.status, fallback.headers["Content-Type"]) == (200, INDEX)
    Skopeo(hosts_file).pull(Registry(edge.plain), f"{edge.plain}/{UPSTREAM}/{images.signature.name}", images.signature)
