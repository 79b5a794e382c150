"""The Helm chart: what it renders, what Kubernetes and outport say of that, and the command of its node DaemonSet on a real containerd."""

import copy
import os
import re
import shlex
import socket
import subprocess
import time
import tomllib
from pathlib import Path

import jsonschema
import pytest
from helm_python.chart import Chart, lint
from helm_python.errors import HelmRenderError, HelmValuesError

import chart
from chart import CHART, EXAMPLES, NAMESPACE, SECRETS, Cluster, Rendered, offences, render, values_of
from api import Api, digest_of, expect, local, with_query
from certificates import Certificate
from clients import overlay_works, with_hosts
from edge import REPOSITORY, binary, upstream
from images import Image
from processes import Process, free_port, run, scratch_folder
from stores import fresh_prefix

ALL = [pytest.param(None, id="defaults"), *(pytest.param(example, id=example.stem) for example in EXAMPLES)]
ANYBODY = '[access]\nanonymous_pull = ["**"]\n'
IMAGE = {"OUTPORT_CONFIG": "/etc/outport/outport.toml"}
"""What the Dockerfile sets in every container, also where there is no such file."""
SHARED = {"hostname": "registry.example.com", "config": {"bucket": {"url": "s3://images/outport"}}}
"""What several edges need."""


@pytest.fixture(params=ALL)
def values(request) -> dict:
    return values_of(request.param) if request.param else {}


@pytest.fixture
def cluster():
    cluster = Cluster()
    yield cluster
    cluster.stop()


def test_every_example_lints_and_every_object_is_one_of_kubernetes(values):
    report = lint(CHART, values, strict=True, namespace=NAMESPACE)
    assert report["errors"] == [] and [each for each in report["messages"] if each["severity"] > 1] == []
    for thing in render(values).objects:
        chart.validate(thing)


def test_a_key_that_kubernetes_does_not_know_is_found():
    edges = render().edges
    edges["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="readinesProbe"):
        chart.validate(edges)


def test_objects_fit_together(values):
    """What one object says of another is so: labels, ports, names of Secrets."""
    release = render(values)
    labels = {name: pod["metadata"]["labels"] for name, pod in release.pods.items()}

    def chosen(selector: dict) -> list[str]:
        wanted = selector.get("matchLabels", selector)
        return [name for name, has in labels.items() if wanted.items() <= has.items()]

    for service in release.all("Service"):
        assert chosen(service["spec"]["selector"]) == ["edge"]
        named = {port["name"] for port in release.pods["edge"]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for workload in release.all("StatefulSet") + release.all("DaemonSet"):
        component = workload["metadata"]["labels"]["app.kubernetes.io/component"]
        assert chosen(workload["spec"]["selector"]) == [component]
    for budget in release.all("PodDisruptionBudget"):
        assert chosen(budget["spec"]["selector"]) == ["edge"]
    for scaler in release.all("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in release.one(target["kind"], target["name"])["spec"]
    for each in release.all("StatefulSet"):
        assert release.one("Service", each["spec"]["serviceName"])["spec"]["clusterIP"] == "None"
    for monitor in release.all("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        [found] = [each for each in release.all("Service") if wanted.items() <= each["metadata"]["labels"].items()]
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in found["spec"]["ports"]}
        assert found["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "outport"
    made = {(each["kind"], each["metadata"]["name"]) for each in release.objects}
    made |= {("Secret", each["spec"]["secretName"]) for each in release.all("Certificate")}
    for pod in release.pods.values():
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made
            if "secret" in volume:
                name = volume["secret"]["secretName"]
                assert ("Secret", name) in made or given(values, name), name
        account = pod["spec"].get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in made


def given(values: dict, name: str) -> bool:
    """Whether the user says that there is such a Secret; the certificate of the defaults is what the notes tell how to make."""
    named = [values.get("tls", {}).get("secretName"), values.get("bucket", {}).get("credentials", {}).get("secretName")]
    return name in [*named, *values.get("secretFiles", {}).values()] or (values == {} and name == "outport-tls")


class Pod:
    """The configuration of an edge's pod and the files that its Secrets would bring, in a folder. `contents` are those of Secrets that
    the user brings, by their keys."""

    def __init__(self, release: Rendered, folder: Path, certificate: Certificate, ca_file: Path, **contents: str):
        pod = release.pods["edge"]["spec"]
        [self.container], self.user = pod["containers"], pod["securityContext"]
        mounts = {mount["mountPath"]: mount["name"] for mount in self.container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        made = {each["metadata"]["name"]: each["data"] for each in release.all("Secret")}
        tls = {"tls.crt": certificate.cert_file, "tls.key": certificate.key_file, "ca.crt": ca_file}
        contents = {key: path.read_text() for key, path in tls.items()} | contents
        self.folder, self.toml = folder, release.toml
        for path in set(re.findall(rf'"({SECRETS}[^"]+)"', release.toml)):
            parent, _, key = path.rpartition("/")
            secret = volumes[mounts[parent]]["secret"]
            assert secret["defaultMode"] == 0o440, "outport warns of what everybody may read"
            assert key in made.get(secret["secretName"], {key: None}), f"{secret} has no {key}"
            file = folder / path.removeprefix("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(contents.get(key, "0123456789abcdef0123456789abcdef\n"))
            file.chmod(secret["defaultMode"])
        self.environment = {}
        for each in self.container["env"]:
            known = each.get("value") or {"status.podIP": "127.0.0.1"}[each["valueFrom"]["fieldRef"]["fieldPath"]]
            self.environment[each["name"]] = re.sub(r"\$\((\w+)\)", lambda name: self.environment[name[1]], known)
        assert self.environment["OUTPORT_CONFIG"] == "/etc/outport/outport.toml" and mounts["/etc/outport"] == "config"
        self.environment["OUTPORT_CONFIG"] = str(folder / "outport.toml")
        self.write(self.toml)

    def write(self, toml: str) -> None:
        (self.folder / "outport.toml").write_text(self.here(toml))

    def here(self, text: str) -> str:
        """The paths of a pod, as they are in this folder."""
        return text.replace(SECRETS, f"{self.folder}{SECRETS}").replace("/var/lib/outport", str(self.folder / "data"))

    def start(self, log: Path) -> Process:
        """Runs the container: its arguments, its environment, its user; on free ports of this machine, which `ports` names."""
        self.ports = {name: free_port() for name in ("8443", "8080", "5001")}
        toml = self.toml
        for name, port in self.ports.items():
            toml = toml.replace(f"0.0.0.0:{name}", f"127.0.0.1:{port}")
        self.write(toml)
        advertised = self.environment.get("OUTPORT_ADVERTISE", "").replace("8443", str(self.ports["8443"]))
        self.environment["OUTPORT_ADVERTISE"] = advertised
        (self.folder / "data").mkdir()
        run("chown", "--recursive", f"0:{self.user['fsGroup']}", self.folder)
        run("chmod", "g+rwx", self.folder, self.folder / "data")
        self.program = self.folder / "outport"
        run("cp", "--reflink=auto", binary(), self.program)
        user = {name: str(self.user[key]) for name, key in {"reuid": "runAsUser", "regid": "runAsGroup", "groups": "fsGroup"}.items()}
        options = [f"--{name}={number}" for name, number in user.items()]
        command = ["setpriv", *options, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", self.program, *self.container["args"]]
        return Process("outport", command, log, env=self.environment, cwd="/")

    def is_well(self, probe: str) -> bool:
        """What the kubelet would find."""
        asked = self.container[probe]["httpGet"]
        assert {"name": asked["port"], "containerPort": 5001} in self.container["ports"]
        curl = ["curl", "--silent", "--fail", "--output", "/dev/null", f"http://127.0.0.1:{self.ports['5001']}{asked['path']}"]
        return subprocess.run(curl).returncode == 0


def test_every_configuration_passes_the_check(values, tmp_path, certificate, authority):
    release = render(values)
    if not values.get("enabled", True):
        assert release.all("ConfigMap") == []
        return
    pod = Pod(release, tmp_path, certificate, authority.ca_file)
    checked = subprocess.run([binary(), "check"], env=pod.environment, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, f"{checked.stderr}\n{release.toml}"
    # What an example asks for in so many words may be warned of.
    expected = 1 if values.get("plain", {}).get("enabled") else 0
    warnings = checked.stderr.splitlines()
    assert len(warnings) == expected and all("plain HTTP" in line for line in warnings), warnings


def test_values_become_toml_and_nothing_is_lost():
    config = {
        "region": "eu", "cache": {"prefetch": 8, "disk": "20GiB"}, "limits": {"connections": 1000000},
        "access": {"anonymous_pull": ["a/**", 'quo"te\\back <&> \u00e4\U0001f6a2\n']},
        "hosted": [{"pattern": "team/**", "acknowledge": {"regions": 1}, "sparse_indexes": True}, {"pattern": "**"}],
        "peer": [{"region": "us", "bucket": {"url": "gs://x", "options": {"odd key.": "1"}}}, {"region": "ap", "edges": []}],
        "listen": {"also": [{"address": "0.0.0.0:9000", "rules": [{"allow": ["10.0.0.0/8"]}, {"deny": []}]}]},
        "audit": {"keep": None, "pulls": False},
    }
    read = tomllib.loads(render({"config": copy.deepcopy(config), "owner": {"enabled": False}}).toml)
    del config["audit"]["keep"]
    for key, value in config.items():
        assert {name: read[key][name] for name in value} == value if isinstance(value, dict) else read[key] == value
    assert not isinstance(read["limits"]["connections"], float)
    with pytest.raises(HelmRenderError, match="1.5 is a fraction"):
        render({"config": {"cache": {"prefetch": 1.5}}})


def test_what_values_say_goes_before_what_the_chart_says():
    mine = {"name": "ci", "password_files": [f"{SECRETS}mine/ci"]}
    read = tomllib.loads(render({"config": {"listen": {"public_url": "https://a.example"}, "principal": [mine]}}).toml)
    assert read["listen"] == {"public_url": "https://a.example", "registry": "0.0.0.0:8443", "ops": "0.0.0.0:5001"}
    assert [each["name"] for each in read["principal"]] == ["root", "ci"]


def test_an_upgrade_keeps_secrets(cluster):
    several = {**SHARED, "replicas": 3}
    first = render(several, cluster)
    cluster.apply(first)
    second = render({**several, "replicas": 4}, cluster)
    for name, key in [("outport-owner", "password"), ("outport-siblings", "token")]:
        kept = first.secret(name)[key]
        assert len(kept) > 40 and second.secret(name)[key] == kept
        assert first.one("Secret", name)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    # Each is asked for by name: a role that may not list Secrets is enough.
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    assert {path for path in cluster.asked if path.startswith(secrets)} == {f"{secrets}/outport-owner", f"{secrets}/outport-siblings"}
    # It is the cluster that remembers.
    assert render(several).secret("outport-owner") != first.secret("outport-owner")
    own = render({**several, "owner": {"existingSecret": "mine"}, "siblings": {"existingSecret": "ours"}}, cluster)
    assert own.all("Secret") == []
    named = {volume["secret"]["secretName"] for volume in own.pods["edge"]["spec"]["volumes"] if "secret" in volume}
    assert named == {"mine", "ours", "outport-tls"}


@pytest.mark.parametrize("wrong, told", [
    ({"replica": 3}, "replica"),
    ({"replicas": "3"}, "replicas"),
    ({"kind": "Deployment"}, "kind"),
    ({"service": {"typ": "LoadBalancer"}}, "typ"),
    ({"service": {"port": 70000}}, "port"),
    ({"hostname": "https://registry.example.com"}, "hostname"),
    ({"config": {"region": "EU West"}}, "region"),
    ({"config": {"upstream": {"docker.io": "https://x"}}}, "upstream"),
    ({"persistence": {"size": "50GiB"}}, "size"),
    ({"secretFiles": {"tls": "mine"}}, "secretFiles"),
    ({"bucket": {"workloadIdentity": {"provider": "gcp"}}}, "provider"),
    ({"tls": {"certManager": {"issuer": "x"}}}, "issuer"),
    ({"node": {"edge": "registry.example.com"}}, "edge"),
    ({"autoscaling": {"enabled": "yes"}}, "enabled"),
    ({"networkPolicy": {"egressPorts": []}}, "egressPorts"),
], ids=str)
def test_a_wrong_value_is_refused_by_its_name(wrong, told):
    with Chart.load(CHART) as loaded, pytest.raises(HelmValuesError) as refused:
        loaded.validate_schema(loaded.merge_values(wrong))
    assert told in str(refused.value), refused.value


@pytest.mark.parametrize("wrong, told", [
    ({"replicas": 2, "hostname": "a.example"}, "several edges share an object store: set config.bucket.url"),
    ({"replicas": 2, "config": {"bucket": {"url": "file:///data"}}}, "set config.bucket.url"),
    ({"replicas": 2, "config": SHARED["config"]}, "set hostname, or siblings.tlsName"),
    ({**SHARED, "kind": "DaemonSet", "autoscaling": {"enabled": True}}, "a DaemonSet has an edge on each node"),
    ({**SHARED, "autoscaling": {"enabled": True, "targetCPU": 0}}, "set targetCPU or targetMemory"),
    ({"tls": {"certManager": {"enabled": True}}}, "set hostname, and tls.certManager.issuerRef.name"),
    ({"externalDns": {"enabled": True}}, "set hostname, or externalDns.hostname"),
    ({"bucket": {"credentials": {"options": {"access_key_id": "id"}}}}, "set bucket.credentials.secretName"),
    ({"bucket": {"workloadIdentity": {"provider": "aws"}}}, "aws.roleArn"),
    ({"bucket": {"workloadIdentity": {"provider": "azure"}}}, "azure.clientId"),
    ({"bucket": {"workloadIdentity": {"provider": "google"}}}, "google.serviceAccount"),
    ({"secretFiles": {"x": "a"}, "configMapFiles": {"x": "b"}}, "configMapFiles.x"),
    ({"persistence": {"size": "40Gi"}}, "config.cache.disk is 40GiB and persistence.size 40Gi"),
    ({"node": {"enabled": True}}, "set node.edge"),
    ({"enabled": False}, "nothing to install"),
    *(({"node": {"enabled": True, "edge": f"https://{host}"}}, "is a name of the cluster's DNS")
      for host in ("outport", "outport:443", "outport.registry.svc", "outport.registry.svc.cluster.local:443")),
    ({"node": {"enabled": True, "edge": "https://a.example", "furtherEdges": ["https://outport"]}}, "node.furtherEdges: outport is a name"),
], ids=str)
def test_values_that_contradict_each_other_are_refused(wrong, told):
    with pytest.raises(HelmRenderError) as refused:
        render(wrong)
    assert told in str(refused.value)


@pytest.mark.parametrize("edge", [
    "https://registry.example.com", "http://$(HOST_IP):5000", "https://10.0.0.7:8443", "http://localhost:5000", "https://[fd00::7]:8443",
])
def test_what_nodes_can_reach_is_taken(edge):
    assert f"--edge={edge}" in render({"node": {"enabled": True, "edge": edge}}).pods["node"]["spec"]["containers"][0]["args"]


def test_pods_are_restricted(values):
    """Edges and tests meet the Pod Security Standard "restricted", but for what a value asks of the node itself."""
    pods = render(values).pods
    on_node = {"hostPort"} if values.get("hostPorts") else set()
    if values.get("persistence", {}).get("hostPath"):
        on_node |= {"hostPath", "runAsNonRoot", "runAsUser"}
    as_root = {"runAsNonRoot", "runAsUser"}
    for component, allowed in [("edge", on_node), ("test", on_node & as_root), ("node", {"hostPath"} | as_root)]:
        if component in pods:
            assert offences(pods[component]) == allowed
    assert all(pod["spec"]["automountServiceAccountToken"] is False for pod in pods.values())


def test_the_standard_is_looked_at_closely():
    """Each setting that makes an edge restricted is missed when it is gone."""
    pod = render().pods["edge"]
    assert offences(pod) == set()
    for key in ("allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"):
        worse = copy.deepcopy(pod)
        del worse["spec"]["containers"][0]["securityContext"][key]
        assert offences(worse) == {key}
    for key in ("runAsNonRoot", "seccompProfile"):
        worse = copy.deepcopy(pod)
        del worse["spec"]["securityContext"][key]
        assert offences(worse) == {key}


def test_only_what_needs_a_restart_restarts():
    """outport takes over what changes in its files, but for the keys that config/reference.toml marks (restart)."""
    base = {**SHARED, "replicas": 2}

    def template(**config) -> dict:
        return render({**base, "config": {**base["config"], **config}}).edges["spec"]["template"]

    before = template()
    for config in [
        {"upstream": [{"name": "a.example", "url": "https://a.example"}]}, {"access": {"anonymous_pull": ["**"]}},
        {"limits": {"deadline": "5s"}}, {"log": {"level": "debug"}}, {"hosted": [{"pattern": "**"}]}, {"tokens": {"ttl": "1m"}},
        {"listen": {"public_url": "https://b.example"}}, {"bucket": {"url": "s3://images/outport", "acknowledge": "store"}},
    ]:
        assert template(**config) == before, config
    for config in [
        {"region": "eu"}, {"cache": {"prefetch": 1}}, {"limits": {"connections": 5}}, {"log": {"format": "text"}},
        {"listen": {"sendfile": False}}, {"bucket": {"url": "s3://other/outport"}}, {"replication": {"follow_interval": "2s"}},
        {"audit": {"pulls": False}}, {"data_dir": "/x"},
        {"peer": [{"region": "us", "bucket": {"url": "s3://us/outport"}}]}, {"siblings": {"dns": "x.example"}},
    ]:
        assert template(**config) != before, config


def test_the_keys_that_need_a_restart_are_those_of_the_reference():
    """The chart knows whole tables, and the exceptions in four of them: a new exception must be looked at."""
    marked: dict[str, set[bool]] = {}
    table, comment = "", ""
    for line in (REPOSITORY / "config" / "reference.toml").read_text().splitlines():
        header = re.fullmatch(r"#?\[+([a-z_]+)[a-z_.]*\]+", line)
        if line.startswith("# "):
            comment += line
        elif header:
            table, comment = header[1], ""
        elif re.match(r"#?[a-z_0-9]+ = ", line):
            marked.setdefault(table, set()).add("restart)" in comment)
            comment = ""
    assert {name for name, marks in marked.items() if marks == {True}} == {"", "cache", "siblings", "peer", "replication", "audit", "otlp"}
    assert {name for name, marks in marked.items() if marks == {True, False}} == {"listen", "limits", "log", "bucket"}


def test_edges_are_denied_all_that_is_not_listed():
    policy = render({**SHARED, "replicas": 2, "plain": {"enabled": True}}).one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    [registry, ops] = policy["ingress"]
    assert registry == {"ports": [{"port": "registry"}, {"port": "plain"}]}
    assert ops["ports"] == [{"port": "ops"}] and "kubernetes.io/metadata.name" in str(ops["from"])
    dns, siblings, upstreams = policy["egress"]
    assert {each["port"] for each in dns["ports"]} == {53} and dns["to"]
    assert siblings == {"ports": [{"port": 8443}], "to": [{"podSelector": policy["podSelector"]}]}
    assert upstreams["ports"] == [{"port": 443}]
    assert "169.254.0.0/16" in upstreams["to"][0]["ipBlock"]["except"], "a cloud's metadata is nobody's upstream"

    office = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    narrow = {"registryFrom": [office], "opsFrom": [], "bucketTo": [office], "bucketPorts": [9000], "collectorTo": [office]}
    policy = render({"networkPolicy": narrow}).one("NetworkPolicy")["spec"]
    [registry] = policy["ingress"]
    components = [each.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component") for each in registry["from"]]
    assert registry["from"][0] == office and components == [None, "edge", "test"]
    assert {"ports": [{"port": 9000}], "to": [office]} in policy["egress"]
    assert {"ports": [{"port": 4318}], "to": [office]} in policy["egress"]
    assert render({"networkPolicy": {"enabled": False}}).all("NetworkPolicy") == []
    node = render({"enabled": False, "node": {"enabled": True, "edge": "https://a.example"}}).one("NetworkPolicy", "outport-node")["spec"]
    assert node["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in node and "egress" not in node


def test_nodes_know_edges_of_several_regions_in_order_or_by_distance():
    urls = ["https://eu.example", "https://us.example:8443", "https://ap.example"]
    values = {"enabled": True, "edge": urls[0], "furtherEdges": urls[1:]}
    release = render({"enabled": False, "node": values})
    arguments = release.pods["node"]["spec"]["containers"][0]["args"]
    assert [word for word in arguments if word.startswith("--edge")] == [f"--edge={url}" for url in urls] and "--nearest" not in arguments
    release = render({"enabled": False, "node": values | {"nearest": True}})
    assert "--nearest" in release.pods["node"]["spec"]["containers"][0]["args"]
    # A connection to each is what tells how far it is.
    [way] = release.one("NetworkPolicy", "outport-node")["spec"]["egress"]
    assert {"protocol": "TCP"} in way["ports"]


def test_clouds_know_the_pods():
    def identity(example: str) -> tuple[dict, dict]:
        release = render(values_of(CHART / "examples" / f"{example}.yaml"))
        return release.one("ServiceAccount")["metadata"].get("annotations", {}), release.pods["edge"]["metadata"]["labels"]

    assert identity("s3-high-availability")[0] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/outport"}
    annotations, labels = identity("azure")
    assert annotations == {"azure.workload.identity/client-id": "22222222-2222-2222-2222-222222222222"}
    assert labels["azure.workload.identity/use"] == "true"
    assert identity("google")[0] == {"iam.gke.io/gcp-service-account": "outport@project.iam.gserviceaccount.com"}
    assert identity("s3-keys")[0] == {}
    keys = tomllib.loads(render(values_of(CHART / "examples" / "s3-keys.yaml")).toml)["bucket"]["options_from_files"]
    assert keys == {"access_key_id": f"{SECRETS}bucket/id", "secret_access_key": f"{SECRETS}bucket/key"}


def test_regions_name_each_other_and_share_a_name():
    """Of each pair both have the other, the same name in DNS, and an identifier of their own."""
    regions = {name: values_of(CHART / "examples" / f"regions-{name}.yaml") for name in ("eu", "us", "ap")}
    identifiers = {}
    for name, values in regions.items():
        config = tomllib.loads(render(values).toml)
        assert config["region"] == name and {peer["region"] for peer in config["peer"]} == set(regions) - {name}
        for peer in config["peer"]:
            other = regions[peer["region"]]
            assert [url.removeprefix("https://") for url in peer["edges"]] == other["tls"]["certManager"]["dnsNames"]
            bucket = other["config"]["bucket"]
            assert (peer["bucket"]["url"], peer["bucket"]["options"]) == (bucket["url"], bucket["options"])
        annotations = render(values).one("Service")["metadata"]["annotations"]
        prefix = "external-dns.alpha.kubernetes.io/"
        assert annotations[prefix + "hostname"] == f"registry.example.com,{name}.registry.example.com"
        assert annotations[prefix + "aws-region"] == values["externalDns"]["aws"]["region"]
        assert annotations["service.beta.kubernetes.io/aws-load-balancer-healthcheck-path"] == "/readyz"
        identifiers[annotations[prefix + "set-identifier"]] = annotations[prefix + "aws-health-check-id"]
    assert set(identifiers) == set(regions) and len(set(identifiers.values())) == len(regions)


def test_each_edge_has_a_disk():
    def edges(**values) -> dict:
        return render({**SHARED, **values}).edges

    def disk(made: dict) -> dict:
        volumes = {volume["name"]: volume for volume in made["spec"]["template"]["spec"]["volumes"]}
        return volumes.get("data", {})

    kept = edges()
    [claim] = kept["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data" and claim["spec"]["resources"]["requests"]["storage"] == "50Gi" and disk(kept) == {}
    daemons = edges(kind="DaemonSet", persistence={"storageClass": "fast", "annotations": {"a": "b"}})
    claim = disk(daemons)["ephemeral"]["volumeClaimTemplate"]
    assert claim["spec"]["storageClassName"] == "fast" and claim["metadata"]["annotations"] == {"a": "b"}
    for made in (edges(persistence={"enabled": False}), edges(kind="DaemonSet", persistence={"enabled": False})):
        assert disk(made)["emptyDir"] == {"sizeLimit": "50Gi"} and "volumeClaimTemplates" not in made["spec"]
    assert disk(edges(kind="DaemonSet", persistence={"hostPath": "/mnt/x"}))["hostPath"]["path"] == "/mnt/x"


def test_a_second_edge_brings_what_two_need():
    alone, several = render(), render({**SHARED, "replicas": 2, "ipFamily": "IPv6"})
    assert "siblings" not in tomllib.loads(alone.toml) and alone.all("PodDisruptionBudget") == []
    siblings = tomllib.loads(several.toml)["siblings"]
    assert siblings["dns"] == "outport-headless.registry.svc.cluster.local" and siblings["tls_name"] == "registry.example.com"
    environment = {each["name"]: each.get("value") for each in several.pods["edge"]["spec"]["containers"][0]["env"]}
    assert environment[siblings["advertise_env"]] == "https://[$(POD_IP)]:8443"
    assert several.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert render({**SHARED, "kind": "DaemonSet"}).all("PodDisruptionBudget") == []
    assert several.one("Service", "outport-headless")["spec"]["publishNotReadyAddresses"] is True
    assert tomllib.loads(several.toml)["listen"]["registry"] == "[::]:8443"


def test_notes_name_what_there_is(values):
    release = render(values)
    for workload in re.findall(r"rollout status (\S+)/(\S+)", release.notes):
        assert any((each["kind"].lower(), each["metadata"]["name"]) == workload for each in release.objects), release.notes
    for name in re.findall(r"get secret (\S+)", release.notes):
        assert release.one("Secret", name)
    assert "rollout status" in release.notes and "<no value>" not in release.notes
    waits = "create secret tls outport-tls" in release.notes
    assert waits == (values == {})


def test_a_package_has_what_it_needs_and_no_more(tmp_path):
    with Chart.load(CHART) as loaded:
        packed = loaded.save(tmp_path)
    with Chart.load(packed) as loaded:
        assert loaded.schema and loaded.render({}, name="outport")
        assert not any(each["name"].startswith("examples") for each in loaded.files)


def test_the_pod_serves_as_it_is_set_up(tmp_path, certificate, authority, logs):
    """Its probes pass, and `helm test` signs in."""
    release = render({"plain": {"enabled": True}})
    logs.append(tmp_path / "edge.log")
    with scratch_folder() as folder:
        pod = Pod(release, folder, certificate, authority.ca_file)
        edge = pod.start(logs[-1])
        try:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                edge.wait_for(lambda: pod.is_well(probe))
            words = release.pods["test"]["spec"]["containers"][0]["args"]
            service = "outport.registry.svc.cluster.local:80"
            assert f"--edge=http://{service}" in words
            words = [pod.here(word.replace(service, f"127.0.0.1:{pod.ports['8080']}")) for word in words]
            assert "in region local" in run(pod.program, *words, env=IMAGE)
            # It is the owner's password that opens.
            assert subprocess.run([pod.program, *words[:2]], capture_output=True, env=IMAGE).returncode != 0
        finally:
            assert edge.stop() == 0


def test_siblings_believe_each_other_by_the_name_of_the_registry(stores, tmp_path, authority, logs):
    """Two pods with one configuration and a certificate for the registry's name alone: an upload that begins at one ends at the other."""
    store, prefix = stores("s3"), fresh_prefix()
    keys = {name: name for name in store.secrets()}
    release = render({
        "hostname": "registry.example.com", "replicas": 2, "plain": {"enabled": True}, "tls": {"privateAuthority": True},
        "config": {
            "bucket": {"url": store.url(prefix), "options": store.options()},
            "access": {"anonymous_pull": ["**"], "anonymous_push": ["**"]},
        },
        "bucket": {"credentials": {"secretName": "keys", "options": keys}},
    })
    certificate = authority.issue("registry", "registry.example.com")
    contents = {name: Path(file).read_text() for name, file in store.secrets().items()}
    pods, edges = [], []
    with scratch_folder() as folder:
        folder.chmod(0o755)
        try:
            for name in ("one", "two"):
                (folder / name).mkdir()
                pods.append(Pod(release, folder / name, certificate, authority.ca_file, **contents))
                # There is no such name here. Whom it lists is a second look: that siblings share a token is the proof.
                pods[-1].toml = re.sub("dns = .*", "", pods[-1].toml)
                logs.append(tmp_path / f"{name}.log")
                edges.append(pods[-1].start(logs[-1]))
            for pod, edge in zip(pods, edges):
                edge.wait_for(lambda: pod.is_well("readinessProbe"))
            one, two = (Api(f"127.0.0.1:{pod.ports['8080']}") for pod in pods)
            content = b"half here, half there"
            began = expect(one.ask("POST", "/v2/team/app/blobs/uploads/"), 202)
            went_on = expect(two.ask("PATCH", local(began.headers["Location"]), content[:9]), 202)
            ended = with_query(local(went_on.headers["Location"]), digest=digest_of(content))
            expect(one.ask("PUT", ended, content[9:]), 201)
            assert expect(two.ask("GET", f"/v2/team/app/blobs/{digest_of(content)}"), 200).body == content
            passed = re.findall(r'outport_sibling_requests_total\{outcome="answered"\} (\d+)', metrics(pods[1]))
            assert passed == ["1"]
        finally:
            for edge in edges:
                edge.stop()


def metrics(pod: Pod) -> str:
    return run("curl", "--silent", "--fail", f"http://127.0.0.1:{pod.ports['5001']}/metrics")


class Node:
    """A containerd as a node has it, with its certs.d, and pulls as the kubelet has them done."""

    def __init__(self, folder: Path, hosts_file: Path):
        self.certs, self._hosts = folder / "certs.d", with_hosts(hosts_file)
        config, socket = folder / "config.toml", folder / "containerd.sock"
        config.write_text(
            f'version = 2\nroot = "{folder / "root"}"\nstate = "{folder / "state"}"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n'
        )
        self._snapshotter = "overlayfs" if overlay_works(folder / "probe") else "native"
        self.daemon = Process("containerd", ["containerd", "--config", config], folder / "containerd.log")
        self._ctr = ["ctr", "--address", socket]
        self.daemon.wait_for(lambda: subprocess.run([*self._ctr, "version"], capture_output=True).returncode == 0)

    def pull(self, name: str, image: Image) -> float:
        """Pulls into an empty store, and returns the seconds that it took."""
        began = time.monotonic()
        run(*self._hosts, *self._ctr, "images", "pull", "--hosts-dir", self.certs, "--snapshotter", self._snapshotter, name, timeout_s=300)
        took = time.monotonic() - began
        assert image.digest in run(*self._ctr, "images", "ls", f"name=={name}")
        run(*self._ctr, "images", "rm", "--sync", name)
        return took


@pytest.fixture
def node(hosts_file):
    with scratch_folder() as folder:
        node = Node(folder, hosts_file)
        yield node
        node.daemon.stop()


def mirror(node: Node, edge_url: str, log: Path, **values) -> Process:
    """Starts what the container of the node DaemonSet runs."""
    release = render({"enabled": False, "node": {"enabled": True, "edge": edge_url, **values}})
    [container] = release.pods["node"]["spec"]["containers"]
    assert container["volumeMounts"][0]["mountPath"] == "/host/certs.d"
    words = [word.replace("/host/certs.d", str(node.certs)) for word in container["args"]]
    return Process("mirror", [binary(), *words], log, env=IMAGE)


def test_nodes_pull_through_the_edge_and_from_the_origin_without_it(node, start_edge, origin, images, tmp_path, logs):
    name = origin.authority
    edge = start_edge(ANYBODY + upstream(origin.url, name=name, hosts=[]))
    logs.append(tmp_path / "mirror.log")
    hosts = node.certs / "_default" / "hosts.toml"
    image = images.two_platforms

    def agents() -> set[str]:
        """Who asked the origin since the last time."""
        nonlocal seen
        asked = origin.settled()
        fresh, seen = asked[seen:], len(asked)
        return {each.agent.partition("/")[0] for each in fresh}

    seen = 0
    directly = min(node.pull(f"{name}/{image.name}", image) for _ in range(3))
    assert agents() == {"containerd"}

    mirrored = mirror(node, f"http://{edge.plain}", tmp_path / "mirror.log")
    mirrored.wait_for(hosts.exists)
    node.pull(f"{name}/{image.name}", image)
    assert agents() == {"outport"}

    edge.stop()
    without = min(node.pull(f"{name}/{image.name}", image) for _ in range(3))
    assert agents() == {"containerd"}
    assert without - directly < 1, f"{without:.2f} s without the edge, {directly:.2f} s before"

    # Somebody cleans up the node: the file comes back.
    hosts.unlink()
    mirrored.wait_for(hosts.exists)
    # What is told to pods whose DaemonSet is removed.
    assert mirrored.stop() == 0
    assert list(node.certs.iterdir()) == []
    node.pull(f"{name}/{image.name}", image)
    print(f"\ndirectly {directly:.2f} s, while the edge is stopped {without:.2f} s")


def test_nodes_go_to_the_next_edge_where_the_first_is_gone(node, start_edge, origin, images, tmp_path, logs):
    name, image = origin.authority, images.two_platforms
    first, second = (start_edge(ANYBODY + upstream(origin.url, name=name, hosts=[])) for _ in range(2))
    logs.append(tmp_path / "mirror.log")
    mirrored = mirror(node, f"http://{first.plain}", tmp_path / "mirror.log", furtherEdges=[f"http://{second.plain}"])
    mirrored.wait_for((node.certs / "_default" / "hosts.toml").exists)
    first.stop()
    before = len(origin.settled())
    node.pull(f"{name}/{image.name}", image)
    assert {each.agent.partition("/")[0] for each in origin.settled()[before:]} == {"outport"}
    mirrored.stop()


@pytest.mark.skipif("OUTPORT_FULL" not in os.environ, reason="takes minutes: tests/run --full")
def test_an_edge_that_swallows_packets_delays_nodes_and_no_more(node, origin, images, tmp_path):
    """containerd before 2.1 waits 30 s for each of the manifests, and for the layers; newer ones as long as the file says."""
    with socket.socket() as hole:
        # Nobody takes connections, and the queue is full: what else comes is dropped.
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(hole.getsockname())
        mirrored = mirror(node, f"http://127.0.0.1:{hole.getsockname()[1]}", tmp_path / "mirror.log")
        mirrored.wait_for((node.certs / "_default" / "hosts.toml").exists)
        took = node.pull(f"{origin.authority}/{images.two_platforms.name}", images.two_platforms)
        print(f"\n{took:.0f} s")
        assert 5 < took < 200
        assert mirrored.stop() == 0
        for each in waiting:
            each.close()


def test_a_node_s_own_file_stays(node, tmp_path):
    hosts = node.certs / "_default" / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text('server = "https://mine.example"\n')
    mirrored = mirror(node, "https://registry.example.com", tmp_path / "mirror.log")
    assert mirrored.process.wait(30) == 1
    assert "was not written by outport" in mirrored.tail() and str(hosts) in mirrored.tail()
    assert hosts.read_text() == 'server = "https://mine.example"\n'


def test_a_killed_mirror_leaves_what_the_notes_tell_how_to_remove(node, tmp_path):
    mirrored = mirror(node, "https://registry.example.com", tmp_path / "mirror.log")
    hosts = node.certs / "_default" / "hosts.toml"
    mirrored.wait_for(hosts.exists)
    mirrored.process.kill()
    mirrored.process.wait()
    assert hosts.exists()
    notes = render({"enabled": False, "node": {"enabled": True, "edge": "https://registry.example.com"}}).notes
    [command] = [line.strip() for line in notes.splitlines() if "--remove" in line]
    program, *words = shlex.split(command)
    assert program == "outport"
    run(binary(), *[word.replace("/etc/containerd/certs.d", str(node.certs)) for word in words])
    assert list(node.certs.iterdir()) == []
