"""Azure's client library against an edge: every public method of its clients, the synchronous and the asynchronous one."""

import asyncio
import base64

import pytest
from azure.containerregistry import ContainerRegistryClient
from azure.containerregistry.aio import ContainerRegistryClient as AsyncContainerRegistryClient
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import HeadersPolicy

from edge import Edge
from provider import CLIENT, Provider
from sdk import Story, public_methods

AUDIENCE = "https://containerregistry.azure.net"
CLIENTS = {"sync": ContainerRegistryClient, "async": AsyncContainerRegistryClient}


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


@pytest.fixture
def provider(tmp_path, logs):
    started = Provider(tmp_path)
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
    await neighbour.push()
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
def test_every_method_of_azures_client_signed_in(kind, start_edge, provider, authority):
    """With the exchange of tokens that the library does on a challenge, where nobody may do anything without one."""
    edge = start_edge(
        f'[[oidc]]\nissuer = "{provider.issuer}"\naudience = "{CLIENT}"\n'
        '[[role]]\nrole = "Contributor"\nprincipals = ["robot"]\nrepositories = ["team/**"]\n'
    )

    class Credential:
        def get_token(self, *scopes: str, **_) -> AccessToken:
            return AccessToken(provider.robot_token(), 2**33)

    class AsyncCredential:
        async def get_token(self, *scopes: str, **_) -> AccessToken:
            return AccessToken(provider.robot_token(), 2**33)

    credential = AsyncCredential() if kind == "async" else Credential()
    options = {"credential": credential, "connection_verify": str(authority.ca_file)}
    table = asyncio.run(drive(kind, f"https://{edge.tls}", options, options))
    print(f"\nazure-containerregistry, {kind}, signed in\n{table}")
