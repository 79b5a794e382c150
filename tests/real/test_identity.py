"""People and workloads sign in at a real identity provider; docker's credential works in the clients that read it."""

import json
import os
import re
import subprocess
import time
import urllib.parse
import urllib.request
from hashlib import sha256

import jwt
import pytest

from clients import storage
from edge import binary
from processes import run, scratch_folder
from provider import CLIENT, Browser, Provider

ROLES = """
[[role]]
role = "AcrPush"
principals = ["group:builders"]
repositories = ["team/**"]
[[role]]
role = "AcrPull"
principals = ["robot"]
repositories = ["team/**"]
"""


@pytest.fixture
def provider(tmp_path, logs):
    started = Provider(tmp_path)
    logs.append(started.process.log)
    yield started
    started.stop()


@pytest.fixture
def edge(start_edge, provider):
    """Where only those who sign in may do anything."""
    table = f'[[oidc]]\nissuer = "{provider.issuer}"\naudience = "{CLIENT}"\nclient_id = "{CLIENT}"\nscope = "openid profile groups"\n'
    return start_edge(ROLES + table)


@pytest.fixture
def home(tmp_path):
    """Somebody's home, and the environment in which programs find it."""
    folder = tmp_path / "home"
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE")}
    return folder, environment | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")}


def sign_in(edge, name: str, environment) -> str:
    """`outport login` in a terminal, and a browser beside it. Returns what the command printed."""
    login = subprocess.Popen([binary(), "login", edge.plain, "--plain-http"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=environment)
    try:
        asked = login.stderr.readline()
        found = re.search(r"open (\S+) and enter the code (\S+)", asked)
        assert found, asked
        page = Browser().sign_in(found[1], name, found[2])
        assert "Success" in page, page
        printed, said = login.communicate(timeout=60)
        assert login.returncode == 0, said
        return printed
    finally:
        login.kill()
        login.wait()


def skopeo(environment, *words) -> str:
    return run("skopeo", "--insecure-policy", *words, env=environment)


def test_device_flow_leaves_a_credential_that_skopeo_and_podman_use(edge, home, origin, images):
    folder, environment = home
    place, source = f"docker://{edge.plain}/team/app:v1", f"docker://{origin.authority}/{images.signed.name}"
    copy = ["copy", "--quiet", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    with pytest.raises(AssertionError):
        skopeo(environment, *copy, source, place)

    printed = sign_in(edge, "ann+builders", environment)
    config = folder / ".docker" / "config.json"
    assert f"signed in to {edge.plain} as ann" in printed and str(config) in printed, printed
    assert config.stat().st_mode & 0o777 == 0o600

    skopeo(environment, *copy, source, place)
    skopeo(environment, *copy, place, f"dir:{folder / 'pulled'}")
    assert "sha256:" + sha256((folder / "pulled" / "manifest.json").read_bytes()).hexdigest() == images.signed.digest
    with scratch_folder() as store:
        podman = ["podman", *storage(store)]
        run(*podman, "pull", "--quiet", "--tls-verify=false", f"{edge.plain}/team/app:v1", env=environment)
        run(*podman, "rmi", "--all", "--force", env=environment)

    # Another's groups are another's rights.
    sign_in(edge, "bob+others", environment)
    with pytest.raises(AssertionError):
        skopeo(environment, *copy, place, f"dir:{folder / 'denied'}")
    run(binary(), "logout", edge.plain, env=environment)
    assert json.loads(config.read_text())["auths"] == {}


def test_a_service_signs_in_with_its_token_while_keys_rotate_and_the_provider_is_down(edge, provider, home):
    folder, environment = home
    login = [binary(), "login", edge.plain, "--plain-http", "--token-stdin", "--json"]
    told = json.loads(run(*login, env=environment, input=provider.robot_token()))
    assert (told["registry"], told["principal"]) == (edge.plain, "robot")
    assert told["expires"] > time.time() + 3600
    refresh_token = json.loads((folder / ".docker" / "config.json").read_text())["auths"][edge.plain]["identitytoken"]

    def access_token() -> int:
        form = {"grant_type": "refresh_token", "service": "any", "scope": "repository:team/app:pull", "refresh_token": refresh_token}
        with urllib.request.urlopen(f"http://{edge.plain}/oauth2/token", urllib.parse.urlencode(form).encode(), timeout=30) as answer:
            return answer.status

    assert access_token() == 200
    provider.stop()
    assert access_token() == 200
    with pytest.raises(AssertionError, match="exit code 1"):
        run(*login, env=environment, input="no.such.token")
    # It comes back with other keys: they are looked for once a minute.
    provider.start()
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run([str(word) for word in login], input=provider.robot_token(), text=True, env=environment, capture_output=True)
        if done.returncode == 0:
            break
        assert time.monotonic() < deadline, done.stderr
        time.sleep(2)


def test_the_kubelet_gets_credentials_by_its_protocol(edge, provider, home):
    _, environment = home
    request = {
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest",
        "image": f"{edge.plain}/team/app:v1", "serviceAccountToken": provider.robot_token(), "serviceAccountAnnotations": {},
    }
    plugin = [binary(), "credential-provider", "--plain-http", "--registry", edge.plain]
    response = json.loads(run(*plugin, env=environment, input=json.dumps(request)))
    auth = response.pop("auth")
    duration = response.pop("cacheDuration")
    assert response == {
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
    }
    assert re.fullmatch(r"[0-9]+s", duration) and list(auth) == [edge.plain]
    credential = auth[edge.plain]
    # As containerd uses what the kubelet hands it.
    scope = "repository:team/app:pull,push repository:other/app:pull"
    form = {"grant_type": "password", "service": "any", "client_id": "containerd", "scope": scope, **credential}
    with urllib.request.urlopen(f"http://{edge.plain}/oauth2/token", urllib.parse.urlencode(form).encode(), timeout=30) as answer:
        claims = jwt.decode(json.load(answer)["access_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["access"]) == ("robot", [{"type": "repository", "name": "team/app", "actions": ["pull"]}])
    # Another registry's images are not this plugin's.
    other = json.loads(run(*plugin, env=environment, input=json.dumps(request | {"image": "other.example/team/app:v1"})))
    assert other["auth"] is None
    with pytest.raises(AssertionError, match="exit code 1"):
        run(*plugin, env=environment, input=json.dumps(request | {"serviceAccountToken": "not.a.token"}))
