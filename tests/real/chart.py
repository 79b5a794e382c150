"""The chart, rendered by Helm's own engine, and what Kubernetes would make of it."""

import functools
import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import kubernetes_validate.utils
import yaml
from helm_python.chart import Chart
from helm_python.config import Config

from edge import REPOSITORY

CHART = REPOSITORY / "helm" / "outport"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
RELEASE, NAMESPACE = "outport", "registry"

SECRETS = "/run/secrets/outport/"
"""Where the pods have the files of Secrets."""


def values_of(example: Path) -> dict:
    return yaml.safe_load(example.read_text())


@dataclass(frozen=True)
class Rendered:
    """What a release consists of."""

    objects: list[dict]
    notes: str

    def all(self, kind: str) -> list[dict]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = RELEASE) -> dict:
        [found] = [each for each in self.all(kind) if each["metadata"]["name"] == name]
        return found

    @property
    def edges(self) -> dict:
        """The StatefulSet or DaemonSet of the edges."""
        [found] = [each for each in self.objects if each["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "edge"]
        return found

    @property
    def pods(self) -> dict[str, dict]:
        """Templates of pods, and pods, by their component: edge, node, test."""
        made = {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in self.all("Pod")}
        templates = [each["spec"]["template"] for kind in ("StatefulSet", "DaemonSet") for each in self.all(kind)]
        return made | {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in templates}

    @property
    def toml(self) -> str:
        return self.one("ConfigMap")["data"]["outport.toml"]

    def secret(self, name: str) -> dict:
        return self.one("Secret", name)["data"]


def render(values: dict | None = None, cluster: "Cluster | None" = None) -> Rendered:
    """Renders as an installation does: without a cluster `lookup` finds nothing."""
    with Chart.load(CHART) as chart:
        if cluster:
            with Config(kube_apiserver=cluster.url, kubeconfig_content=cluster.kubeconfig, namespace=NAMESPACE) as config:
                texts = config.render(chart, values or {}, name=RELEASE, namespace=NAMESPACE, is_upgrade=True)
        else:
            texts = chart.render(values or {}, name=RELEASE, namespace=NAMESPACE, is_install=True)
    notes = texts.pop("outport/templates/NOTES.txt")
    return Rendered([each for text in texts.values() for each in yaml.load_all(text, StrictLoader) if each], notes)


class StrictLoader(yaml.SafeLoader):
    """A key that stands twice is a fault of the template: the later one would win silently."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys} {node.start_mark}"
        return super().construct_mapping(node, deep)


class Cluster:
    """As much of an API server as `lookup` asks: which kinds there are, and Secrets by name."""

    def __init__(self):
        self.secrets: dict[str, dict] = {}
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.kubeconfig = yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": self.url}}],
            "users": [{"name": "tests", "user": {}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        })
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def apply(self, release: Rendered) -> None:
        for secret in release.all("Secret"):
            self.secrets[secret["metadata"]["name"]] = secret

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> tuple[int, dict]:
        if path == "/version":
            return 200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
        if path == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
        if path == "/api/v1":
            verbs = ["create", "get", "list"]
            secrets = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": verbs}
            return 200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": [secrets]}
        named = re.fullmatch(f"/api/v1/namespaces/{NAMESPACE}/secrets/(.+)", path)
        if named and named[1] in self.secrets:
            return 200, self.secrets[named[1]]
        return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}

    def _handler(cluster):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                cluster.asked.append(path)
                status, answer = cluster._answer(path)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler


DURATION = re.compile(r"([0-9]+(ms|s|m|h))+")


def check_certificate(thing: dict) -> None:
    """As cert-manager's reference of its API says (cert-manager.io/v1)."""
    assert thing["apiVersion"] == "cert-manager.io/v1"
    spec = thing["spec"]
    assert set(spec) == {"secretName", "issuerRef", "duration", "renewBefore", "privateKey", "usages", "dnsNames"}
    assert spec["issuerRef"]["name"] and set(spec["issuerRef"]) == {"name", "kind", "group"}
    assert spec["privateKey"] == {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
    assert all(DURATION.fullmatch(spec[key]) for key in ("duration", "renewBefore"))
    assert set(spec["usages"]) == {"digital signature", "server auth"}
    assert spec["dnsNames"] and all(isinstance(name, str) and "." in name for name in spec["dnsNames"])


def check_service_monitor(thing: dict) -> None:
    """As the Prometheus operator's reference of its API says (monitoring.coreos.com/v1)."""
    assert thing["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(thing["spec"]) == {"jobLabel", "selector", "endpoints"} and set(thing["spec"]["selector"]) == {"matchLabels"}
    for endpoint in thing["spec"]["endpoints"]:
        assert set(endpoint) <= {"port", "path", "interval", "scrapeTimeout", "relabelings", "metricRelabelings"}
        assert all(DURATION.fullmatch(endpoint[key]) for key in ("interval", "scrapeTimeout"))


def check_prometheus_rule(thing: dict) -> None:
    """The same reference; what the rules say is promtool's to judge."""
    assert thing["apiVersion"] == "monitoring.coreos.com/v1" and set(thing["spec"]) == {"groups"}
    for group in thing["spec"]["groups"]:
        assert group["name"] and group["rules"] and set(group) <= {"name", "rules", "interval", "limit", "labels", "query_offset"}
        for rule in group["rules"]:
            assert rule["expr"] and ("alert" in rule) != ("record" in rule)
            assert set(rule) <= {"alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"}


KUBERNETES = ("1.30", "1.37")
"""The oldest version that the chart is for, and the newest whose schemas are at hand."""

# Read once, not for each object: they are large.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

CUSTOM = {"Certificate": check_certificate, "ServiceMonitor": check_service_monitor, "PrometheusRule": check_prometheus_rule}
"""Kinds that Kubernetes has no schema of."""


def validate(thing: dict) -> None:
    """Raises if Kubernetes would not take the object: each key, by its own schemas."""
    if thing["kind"] in CUSTOM:
        return CUSTOM[thing["kind"]](thing)
    for version in KUBERNETES:
        kubernetes_validate.utils.validate(thing, version, strict=True)


HARMLESS_CAPABILITIES = {"NET_BIND_SERVICE"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def offences(pod: dict) -> set[str]:
    """What in a pod the Pod Security Standard "restricted" forbids
    (https://kubernetes.io/docs/concepts/security/pod-security-standards/)."""
    spec, found = pod["spec"], set()
    whole = spec.get("securityContext", {})
    found |= {key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)}
    for volume in spec.get("volumes", []):
        found |= set(volume) - {"name"} - RESTRICTED_VOLUMES
    for container in [*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])]:
        own = container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        judged = {
            "privileged": own.get("privileged", False),
            "capabilities": "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - HARMLESS_CAPABILITIES,
            "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
            "procMount": own.get("procMount", "Default") != "Default",
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation", True),
            "runAsNonRoot": own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True,
            "runAsUser": own.get("runAsUser", whole.get("runAsUser")) == 0,
            "seccompProfile": own.get("seccompProfile", whole.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"),
            "sysctls": whole.get("sysctls"),
            "host of a probe": any(container.get(probe, {}).get("httpGet", {}).get("host") for probe in PROBES),
            # Not of the standard, and the house's own rule.
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is not True,
        }
        found |= {name for name, is_so in judged.items() if is_so}
    return found
