"""The console in a real browser, against three regions of which one is cut off.

    OUTPORT_SCREENSHOTS=FOLDER target/python/bin/python -m pytest tests/real/test_console.py

leaves pictures of the overview and of the regions there: light, dark, and 400 px wide.
"""

import base64
import json
import os
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api import Api, expect, push_blob, push_manifest
from edge import UPSTREAM, Edge, upstream
from images import CONFIG, LAYER, MANIFEST
from origin import Distribution
from processes import free_port, run
from regions import Regions
from stores import Local

HERE = Path(__file__).resolve().parent
MODULES = HERE.parents[1] / "target" / "node" / "node_modules"
PICTURES = os.environ.get("OUTPORT_SCREENSHOTS")
NAMES = ("eu", "us", "ap")
SECRETS = {"root": "the owner's secret", "ci": "the robot's secret", "ann": "ann's secret"}
ROLES = (("Owner", "root", ["**"]), ("AcrPush", "ci", ["team/**", f"{UPSTREAM}/**", "gone.test/**"]), ("AcrPull", "ann", ["team/app"]))
SERVICES = 30
"""Repositories besides, more than fit on one page of the list."""
TAGS = 30
"""Of one of them, the same."""


class As(Api):
    """Asks as one of the principals."""

    def __init__(self, authority: str, name: str):
        super().__init__(authority)
        self._authorization = "Basic " + base64.b64encode(f"{name}:{SECRETS[name]}".encode()).decode()

    def ask(self, method, target, body=b"", **headers):
        return super().ask(method, target, body, **{"Authorization": self._authorization} | headers)

    def json(self, target: str):
        return json.loads(expect(self.ask("GET", target), 200).body)


def image(api: Api, repository: str, layers: list[bytes], *, tag: str) -> str:
    """Pushes one; returns its digest."""
    config = b'{"architecture":"amd64","os":"linux"}'
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": push_blob(api, repository, config), "size": len(config)},
        "layers": [{"mediaType": LAYER, "digest": push_blob(api, repository, layer), "size": len(layer)} for layer in layers],
    }
    return push_manifest(api, repository, tag, manifest)


def pull(api: Api, repository: str, reference: str) -> None:
    manifest = json.loads(expect(api.ask("GET", f"/v2/{repository}/manifests/{reference}"), 200).body)
    for descriptor in [manifest["config"], *manifest["layers"]]:
        expect(api.ask("GET", f"/v2/{repository}/blobs/{descriptor['digest']}"), 200)


class Stage:
    """Three regions of one edge each, with pushes, pulls, conflicts, an upstream that answers and one that does not."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.origin = Distribution(folder / "origin-store", folder / "origin", writable=True)
        source, self.chance = Api(self.origin.authority), random.Random(1)
        for name in ("library/base", "library/tools"):
            image(source, name, [self.chance.randbytes(200_000), self.chance.randbytes(50_000)], tag="1")
        source.close()
        self.stores = {name: Local(folder / f"store-{name}") for name in NAMES}
        self.regions = Regions(folder / "regions", self.stores, edges=1, access="", tables=self._tables())
        self._stopping = threading.Event()

    @property
    def edge(self) -> Edge:
        """The one whose console is looked at."""
        return self.edge_of("eu")

    def edge_of(self, region: str) -> Edge:
        return self.regions.by_name[region].edges[0]

    def _tables(self) -> str:
        tables = upstream(self.origin.url) + upstream(f"http://127.0.0.1:{free_port()}", name="gone.test", hosts=[])
        for name, secret in SECRETS.items():
            file = self.folder / f"{name}.password"
            file.write_text(secret + "\n")
            file.chmod(0o600)
            tables += f'[[principal]]\nname = "{name}"\npassword_files = ["{file}"]\n'
        for role, principal, repositories in ROLES:
            tables += f'[[role]]\nrole = "{role}"\nprincipals = ["{principal}"]\n'
            tables += "" if repositories == ["**"] else f"repositories = {json.dumps(repositories)}\n"
        return tables + '[log]\ncentral = true\n[[hosted]]\npattern = "team/**"\nreplicate = "all"\n'

    def fill(self) -> None:
        """What the console is to show."""
        eu, us = As(self.edge.plain, "ci"), As(self.edge_of("us").plain, "ci")
        layers = [self.chance.randbytes(80_000)]
        digest = image(eu, "team/app", layers, tag="v1")
        content = expect(eu.ask("GET", f"/v2/team/app/manifests/{digest}"), 200).body
        tags = "&".join(f"tag=r{number:02}" for number in range(TAGS - 2))
        expect(eu.ask("PUT", f"/v2/team/app/manifests/{digest}?{tags}", content, Content_Type=MANIFEST), 201)
        for number in range(SERVICES):
            image(eu, f"team/service-{number:02}", [b"%d" % number], tag="1")
        image(us, "team/far", [self.chance.randbytes(90_000)], tag="1")
        self._dispute()
        for _ in range(3):
            expect(eu.ask("GET", "/v2/gone.test/library/base/manifests/1"), 502, 503, 504)
        for api in (eu, us):
            api.close()

    def _dispute(self, rounds: int = 20) -> None:
        """Both regions set a tag before either has seen the other do it."""
        apis = {name: As(self.edge_of(name).plain, "ci") for name in ("eu", "us")}
        contents = {}
        for name, api in apis.items():
            digest = image(api, "team/disputed", [name.encode()], tag=f"of-{name}")
            contents[name] = api.ask("GET", f"/v2/team/disputed/manifests/{digest}").body
        with ThreadPoolExecutor(2) as both:
            for number in range(rounds):
                target = f"/v2/team/disputed/manifests/t{number}"
                list(both.map(lambda name: expect(apis[name].ask("PUT", target, contents[name], Content_Type=MANIFEST), 201), apis))
                time.sleep(1.5)
                if apis["eu"].json("/outport/v1/status")["ledger"]["conflicts"] > 0:
                    break
        for api in apis.values():
            api.close()

    def level(self, timeout_s: float = 30) -> None:
        """Waits until the first region has all of the others."""
        eu, until = As(self.edge.plain, "root"), time.monotonic() + timeout_s
        while any(not peer["visible"] or peer["behind_events"] for peer in eu.json("/outport/v1/status")["peers"]):
            assert time.monotonic() < until, eu.json("/outport/v1/status")
            time.sleep(0.1)
        eu.close()

    def cut_off(self, region: str, timeout_s: float = 30) -> None:
        """Neither its edge nor its store answers."""
        self.edge_of(region).stop()
        place = self.stores[region]._folder
        place.rename(place.with_name("away"))
        eu, until = As(self.edge.plain, "root"), time.monotonic() + timeout_s
        while all(peer["visible"] for peer in eu.json("/outport/v1/status")["peers"]):
            assert time.monotonic() < until
            time.sleep(0.1)
        eu.close()

    def browse(self, acts: str) -> None:
        """Runs what somebody does with a browser; it fails when something is not as it should be."""
        chromium = shutil.which("chromium")
        assert chromium, "Debian's chromium is missing: tests/run --install installs it"
        told = {
            "modules": str(MODULES),
            "chromium": chromium,
            "console": f"http://{self.edge.ops}",
            "secrets": SECRETS,
            "pictures": PICTURES,
        }
        print(run("node", HERE / "console" / acts, env=os.environ | {"CONSOLE_STAGE": json.dumps(told)}, timeout_s=180))

    def traffic(self) -> None:
        """Pulls until the end: of what is hosted, what comes from another region, and what from the upstream."""

        def go_on():
            api = As(self.edge.plain, "ci")
            while not self._stopping.wait(0.1):
                for repository, reference in (("team/app", "v1"), (f"{UPSTREAM}/library/base", "1"), ("team/far", "1"),
                                              (f"{UPSTREAM}/library/tools", "1")):
                    pull(api, repository, reference)
            api.close()

        self._pulling = threading.Thread(target=go_on)
        self._pulling.start()

    def stop(self) -> None:
        self._stopping.set()
        self._pulling.join()
        self.regions.stop()
        for store in self.stores.values():
            store.stop()
        self.origin.stop()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
    started = Stage(tmp_path_factory.mktemp("console"))
    started.fill()
    started.level()
    started.traffic()
    started.cut_off("ap")
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def logs_of(stage, logs):
    logs.extend(stage.regions.logs())


def test_each_view_shows_what_the_edge_says(stage):
    """With the right values, accessible in both colour schemes, 400 px wide, in one place, under 300 KB, under its policy."""
    stage.browse("views.mjs")


def test_other_people_at_the_console(stage):
    """A wrong role sees nothing that it may not, the keyboard reaches everything, and nobody is told old figures for new ones."""
    stage.browse("people.mjs")
