"""Azure's client library against an edge: every public method of its clients, the synchronous and the asynchronous one."""

import asyncio
import base64
import os

import pytest
from azure.containerregistry import ContainerRegistryClient
from azure.containerregistry.aio import ContainerRegistryClient as AsyncContainerRegistryClient
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import HeadersPolicy

from edge import Edge
from sdk import Story, public_methods

AUDIENCE = "https://containerregistry.azure.net"
CLIENTS = {"sync": ContainerRegistryClient, "async": AsyncContainerRegistryClient}

ENDPOINT, ACCESS_TOKEN = "OUTPORT_AZURE_ENDPOINT", "OUTPORT_AZURE_TOKEN"
"""An edge at which somebody may do everything to `team/**`, and an access token with which that somebody signs in."""


@pytest.fixture
def edge(tmp_path, certificate, logs):
    """Open to everybody; attributes are changed by an owner."""
    password = tmp_path / "owner.password"
    password.write_text("secret")
    password.chmod(0o600)
    tables = (
        '[access]\nanonymous_pull = ["**"]\nanonymous_push = ["**"]\n'
        f'[[principal]]\nname = "owner"\npassword_files = ["{password}"]\n[[role]]\nrole = "Owner"\nprincipals = ["owner"]\n'
    )
    started = Edge(tmp_path / "edge", tables, certificate)
    logs.append(started.process.log)
    yield started
    started.stop()


def basic(name: str, password: str) -> HeadersPolicy:
    return HeadersPolicy(base_headers={"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()})


async def drive(kind: str, endpoint: str, options: dict, changer_options: dict) -> str:
    """The table of what came of each method."""
    client_type = CLIENTS[kind]
    client, changer = client_type(endpoint, audience=AUDIENCE, **options), client_type(endpoint, audience=AUDIENCE, **changer_options)
    neighbour = Story(client, changer, "team/neighbour")
    await neighbour._push()
    story = Story(client, changer, f"team/azure-{kind}")
    await story.tell()
    await story.call("close", by=changer)
    await story.call("close")
    assert story.results.keys() == public_methods(client_type), "every public method is driven"
    return story.table()


@pytest.mark.parametrize("kind", CLIENTS)
def test_every_method_of_azures_client_anonymously(kind, edge, authority):
    options = {"credential": None, "connection_verify": str(authority.ca_file)}
    table = asyncio.run(drive(kind, f"https://{edge.tls}", options, options | {"headers_policy": basic("owner", "secret")}))
    print(f"\nazure-containerregistry, {kind}, anonymous\n{table}")


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.skipif(not {ENDPOINT, ACCESS_TOKEN} <= os.environ.keys(), reason=f"{ENDPOINT} and {ACCESS_TOKEN} are not set")
def test_every_method_of_azures_client_signed_in(kind):
    """With the exchange of tokens that the library does on a challenge."""

    class Credential:
        def get_token(self, *scopes: str, **_) -> AccessToken:
            return AccessToken(os.environ[ACCESS_TOKEN], 2**33)

    class AsyncCredential(Credential):
        async def get_token(self, *scopes: str, **_) -> AccessToken:
            return AccessToken(os.environ[ACCESS_TOKEN], 2**33)

    options = {"credential": AsyncCredential() if kind == "async" else Credential()}
    table = asyncio.run(drive(kind, os.environ[ENDPOINT], options, options))
    print(f"\nazure-containerregistry, {kind}, signed in\n{table}")
