"""An OpenID Connect provider, npm's oidc-provider, and the browser of somebody who signs in there."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path

from processes import Process, free_port

HERE = Path(__file__).resolve().parent
MODULES = HERE.parents[1] / "target" / "node" / "node_modules"
CLIENT = "outport-cli"
STEPS = 20
"""Pages until somebody has signed in, at most."""


class Provider:
    """A provider on a free port, whose tokens for `CLIENT` are what the registry wants."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Starts it, with new keys."""
        command = ["node", HERE / "provider.mjs", MODULES, str(self.port), CLIENT]
        self.process = Process("oidc-provider", command, self._folder / f"provider-{self.port}.log")
        self.process.wait_for(self._ready)

    def _ready(self) -> bool:
        with urllib.request.urlopen(f"{self.issuer}/.well-known/openid-configuration", timeout=30) as answer:
            return answer.status == 200

    def stop(self) -> None:
        self.process.stop()

    def robot_token(self) -> str:
        """An access token of a service, by its client credentials."""
        form = {"grant_type": "client_credentials", "client_id": "robot", "client_secret": "the secret of the robot"}
        with urllib.request.urlopen(f"{self.issuer}/token", urllib.parse.urlencode(form).encode(), timeout=30) as answer:
            return json.load(answer)["access_token"]


class Browser:
    """Fills in the provider's forms."""

    def __init__(self):
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def sign_in(self, url: str, name: str, code: str) -> str:
        """Opens `url`, enters the code, signs in as `name`, agrees to everything, and returns what the last page says."""
        page = self._open(url)
        for _ in range(STEPS):
            form = Form.of(page)
            if form is None:
                return page
            fields = form.fields | {key: value for key, value in (("user_code", code), ("login", name), ("password", "any")) if key in form.fields}
            page = self._open(urllib.parse.urljoin(self._place, form.action), fields)
        raise AssertionError(f"no end of forms:\n{page}")

    def _open(self, url: str, fields: dict[str, str] | None = None) -> str:
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        try:
            with self._opener.open(url, data, timeout=30) as answer:
                self._place = answer.url
                return answer.read().decode()
        except urllib.error.HTTPError as answer:
            with answer:
                raise AssertionError(f"{url}: {answer.code}\n{answer.read().decode()}") from answer


class Form(HTMLParser):
    """The first form of a page."""

    def __init__(self):
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    @classmethod
    def of(cls, page: str) -> "Form | None":
        form = cls()
        form.feed(re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
        return None if form.action is None else form

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "form" and self.action is None:
            self.action, self._inside = attributes.get("action") or "", True
        # What aborts is a button, and it is not pressed.
        elif self._inside and tag == "input" and "name" in attributes:
            self.fields[attributes["name"]] = attributes.get("value") or ""

    def handle_endtag(self, tag):
        if tag == "form":
            self._inside = False
