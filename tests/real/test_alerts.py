"""The alerts, dashboards and runbook of the Helm chart: each names what an edge has, fires when it shall, and can be looked up.

Prometheus and promtool are Debian's.
"""

import json
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from helm_python.chart import Chart

from edge import REPOSITORY, UPSTREAM, Edge, binary, upstream
from processes import Process, free_port, run
from promql import named
from wire import Listener, read_head, respond

FULL = bool(os.environ.get("OUTPORT_FULL"))
CHART = REPOSITORY / "helm" / "outport"
RULE_FILES = sorted((CHART / "files" / "alerts").glob("*.yaml"))
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
UNIT_TESTS = Path(__file__).parent / "alerts"
RUNBOOK = CHART / "RUNBOOK.md"
RUNBOOK_URL = "https://github.com/outport/outport/blob/main/helm/outport/RUNBOOK.md"

# Prometheus' own, and the labels that it gives to what it scrapes.
OF_PROMETHEUS = {"up": set(), "ALERTS": {"alertname", "alertstate"}}
OF_TARGETS = {"job", "instance", "pod"}
RANDOM_REQUESTS = 100_000 if FULL else 20_000
WARM_UP = 1_000
CONNECTIONS = 4
PIPELINED = 50
"""Requests on a connection before its answers are read."""


def rules() -> dict[str, dict]:
    """All alerts by name."""
    groups = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    found = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in found}) == len(found) > 0, "an alert's name stands twice"
    return {rule["alert"]: rule for rule in found}


def dashboards() -> dict[str, dict]:
    return {path.name: json.loads(path.read_text()) for path in DASHBOARDS}


def panels(dashboard: dict) -> list[dict]:
    """Those that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries_of(dashboard: dict) -> list[str]:
    """All its queries, with something in place of Grafana's variables."""
    found = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    found += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            found.append(f"group by ({label}) ({metric})")
    known = {"$__rate_interval": "5m"} | {f"${variable['name']}": ".*" for variable in dashboard["templating"]["list"]}
    return [re.sub(r"\$\w+", lambda name: known[name.group()], query) for query in found]


# ---- What an edge has

FAMILY = re.compile(
    r"""build\s*\.(counter|counters|gauge|gauges|fractions|times)\(\s*"(\w+)",\s*"(?:[^"\\]|\\.)*",?\s*(?:&\[([^\]]*)\],?\s*)?\)""", re.DOTALL
)
TYPES = {"counter": "counter", "counters": "counter", "gauge": "gauge", "gauges": "gauge", "fractions": "gauge", "times": "histogram"}
SAMPLE = re.compile(r"(\w+)(\{.*\})? \S+")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def families() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of all that src/metrics.rs registers. A family with labels is not in /metrics before it is used."""
    source = (REPOSITORY / "src" / "metrics.rs").read_text().partition("#[cfg(test)]")[0]
    found = {name: (TYPES[kind], set(re.findall(r'"(\w+)"', labels or ""))) for kind, name, labels in FAMILY.findall(source)}
    assert set(re.findall(r'"(outport_\w+)"', source)) == found.keys(), "a registration is not understood"
    return found


def told(metrics: str) -> dict[str, tuple[str, set[str]]]:
    """The same, of an edge's /metrics."""
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics, re.MULTILINE))
    found = {name: (kind, set()) for name, kind in types.items()}
    for name, labels in series(metrics):
        family = name if name in types else re.sub(r"_(bucket|sum|count)$", "", name)
        found[family][1].update({label for label, _ in LABEL.findall(labels)} - {"le"})
    return found


def series(metrics: str) -> set[tuple[str, str]]:
    lines = [line for line in metrics.splitlines() if not line.startswith("#")]
    return {SAMPLE.fullmatch(line).groups("") for line in lines}


def vocabulary(live: str) -> dict[str, set[str]]:
    """The labels of each metric, as queries name it."""
    found = dict(OF_PROMETHEUS)
    for name, (kind, labels) in (told(live) | families()).items():
        if kind == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


def words() -> set[str]:
    """All texts in the code: a label's value is one of them."""
    sources = (REPOSITORY / "src").rglob("*.rs")
    return {text for path in sources for text in re.findall(r'"([^"\\\n]+)"', path.read_text())}


def faults(query: str, known: dict[str, set[str]], values: set[str]) -> list[str]:
    """What of a query does not exist."""
    what = named(query)
    found = [f"no such metric: {metric}" for metric in sorted(what.metrics - known.keys())]
    for selector in what.selectors:
        for label, operator, value in selector.matchers:
            own = known.get(selector.metric, {label})
            if label not in own | OF_TARGETS:
                found.append(f"{selector.metric} has no label {label}")
            if label not in own or label in OF_PROMETHEUS["ALERTS"]:
                continue
            possible = {str(status) for status in range(100, 600)} if label == "status" else values
            for one in value.split("|") if "~" in operator else [re.escape(value)]:
                if not any(re.fullmatch(one, each) for each in possible):
                    found.append(f"{selector.metric} never has {label}={one}")
    labels = set().union(OF_TARGETS, *(known.get(metric, set()) for metric in what.metrics))
    return found + [f"grouped by {label}, which nothing has" for label in sorted(what.grouping - labels)]


# ---- An edge that has been used, and a Prometheus that watches it


@pytest.fixture(scope="module")
def origin_of_nothing():
    """A registry that answers 404."""

    async def serve(reader, writer):
        while await read_head(reader):
            await respond(writer, 404, b"{}", Content_Type="application/json")

    listener = Listener(serve)
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def edge(origin_of_nothing, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    # The record is sent early, so that its series are there before they are counted.
    tables = '[access]\nanonymous_pull = ["**"]\n[log]\nlevel = "warn"\n[audit]\nship_after = "1s"\n'
    started = Edge(folder, tables + upstream(f"http://{origin_of_nothing.authority}"))
    yield started
    started.stop()
    shutil.rmtree(started.data, ignore_errors=True)


class Prometheus:
    def __init__(self, folder: Path, edge: Edge):
        self.authority = f"127.0.0.1:{free_port()}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in RULE_FILES],
            "scrape_configs": [{"job_name": "outport", "static_configs": [{"targets": [edge.ops]}]}],
        }
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        run("promtool", "check", "config", file)
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.authority}"]
        self.process = Process("prometheus", command, folder / "prometheus.log")
        self.process.wait_for(lambda: edge.get(f"http://{self.authority}/-/ready").status == 200)
        self._edge = edge

    def ask(self, path: str, **parameters: str) -> dict:
        answer = self._edge.get(f"http://{self.authority}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        told = json.loads(answer.body)
        assert told["status"] == "success", (path, parameters, told)
        return told["data"]

    def query(self, query: str) -> list[dict]:
        return self.ask("query", query=query)["result"]

    def stop(self) -> None:
        self.process.stop()


@pytest.fixture(scope="module")
def prometheus(edge, tmp_path_factory):
    started = Prometheus(tmp_path_factory.mktemp("prometheus"), edge)
    yield started
    started.stop()


def drive(edge: Edge, count: int) -> Counter:
    """Random requests over a few connections. Returns how often each status was answered."""
    with ThreadPoolExecutor(CONNECTIONS) as workers:
        return sum(workers.map(lambda _: _drive(edge, count // CONNECTIONS), range(CONNECTIONS)), Counter())


def _drive(edge: Edge, count: int) -> Counter:
    host, _, port = edge.plain.rpartition(":")
    statuses = Counter()
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as answers:
        while count > 0:
            requests = [_random_request() for _ in range(min(count, PIPELINED))]
            connection.sendall(b"".join(requests))
            for request in requests:
                statuses[_status(answers, has_body=not request.startswith(b"HEAD"))] += 1
            count -= len(requests)
    return statuses


def _random_request() -> bytes:
    """Nearly all are pulls of a name of its own by an agent of its own; every kind of read is among them."""
    name, tag, agent = f"{secrets.token_hex(4)}/{secrets.token_hex(4)}", secrets.token_hex(6), secrets.token_hex(8)
    digest = f"sha256:{secrets.token_hex(32)}"
    method, path = random.choices(
        [
            ("GET", f"/v2/{name}/manifests/{tag}"), ("HEAD", f"/v2/{name}/manifests/{digest}"), ("GET", f"/v2/{name}/blobs/{digest}"),
            ("GET", f"/v2/{name}/tags/list"), ("GET", f"/v2/{name}/referrers/{digest}"), ("GET", f"/v2/{UPSTREAM}/{name}/manifests/{tag}"),
            ("GET", f"/{name}/{tag}"), ("PURGE", f"/v2/{name}/manifests/{tag}"),
        ],
        weights=[80, 5, 5, 2, 2, 2, 2, 2],
    )[0]
    return f"{method} {path} HTTP/1.1\r\nHost: {tag}.test\r\nUser-Agent: {agent}\r\n\r\n".encode()


def _status(answers, *, has_body: bool) -> int:
    status = int(answers.readline().split()[1])
    length = 0
    while (line := answers.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    assert not has_body or len(answers.read(length)) == length
    return status


# ---- Rules


def test_promtool_finds_no_fault_in_the_rules():
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("path", sorted(UNIT_TESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_alerts_fire_on_bad_data_and_not_on_good(path):
    run("promtool", "test", "rules", path)


@pytest.mark.parametrize("always", ["vector(1)", "vector(1) > 1"])
def test_such_tests_find_rules_that_always_fire_and_ones_that_never_do(always, tmp_path):
    rule_file = CHART / "files" / "alerts" / "records.yaml"
    wrong = yaml.safe_load(rule_file.read_text())
    for rule in (rule for group in wrong["groups"] for rule in group["rules"]):
        rule["expr"] = always
    (tmp_path / "records.yaml").write_text(yaml.safe_dump(wrong))
    tests = yaml.safe_load((UNIT_TESTS / "records.yaml").read_text()) | {"rule_files": ["records.yaml"]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert set(re.findall(r"alertname: (\w+), time", done.stderr)) == {rule["alert"] for rule in wrong["groups"][0]["rules"]}


def test_every_alert_has_a_unit_test_that_it_fires_and_one_that_it_does_not():
    alerts, fires, is_silent = rules(), set(), set()
    for path in UNIT_TESTS.glob("*.yaml"):
        tests = yaml.safe_load(path.read_text())
        assert tests["rule_files"] == [os.path.relpath(CHART / "files" / "alerts" / path.name, UNIT_TESTS)]
        for test in tests["tests"]:
            given = set().union(*(named(one["series"]).metrics for one in test["input_series"]))
            for check in test["alert_rule_test"]:
                # Silence counts where there is something to be said.
                assert given & named(alerts[check["alertname"]]["expr"]).metrics, check
                (fires if check.get("exp_alerts") else is_silent).add(check["alertname"])
    assert fires == is_silent == alerts.keys()


def test_every_alert_is_told_of_in_full():
    for name, rule in rules().items():
        assert rule["labels"] == {"severity": rule["labels"]["severity"]} and rule["labels"]["severity"] in ("warning", "critical"), name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}#{name.lower()}"
        shown = rule["annotations"]["description"]
        assert "{{" in shown or named(rule["expr"]).metrics == {"up"}, f"{name} tells neither where nor how much"


def test_every_alert_has_a_section_of_the_runbook_and_every_section_an_alert():
    sections = re.findall(r"^## (\w+)\n(.*?)(?=^#|\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert Counter(name for name, _ in sections) == Counter(rules().keys())
    for name, text in sections:
        for word in ("**Means**: ", "**Look**: ", "**Do**: "):
            assert text.count(word) == 1, (name, word)
    anchors = {name.lower() for name, _ in sections}
    assert {anchor for anchor in re.findall(r"\]\(#([^)]*)\)", RUNBOOK.read_text())} <= anchors


def test_the_runbook_names_commands_and_metrics_that_exist(edge):
    text = RUNBOOK.read_text()
    commands = {tuple(words.split()) for words in re.findall(r"`outport ((?:region |conflicts|forwards)?[a-z]+)", text)}
    assert commands
    for words in commands:
        run(binary(), *words, "--help", timeout_s=30)
    known = vocabulary(edge.metrics())
    names = {name for name in re.findall(r"`(outport_\w+)`", text)}
    assert names and all(name in known or f"{name}_bucket" in known for name in names), names


# ---- Names


def test_the_code_and_a_running_edge_tell_the_same_of_metrics(edge):
    edge.get("/v2/a/manifests/b")
    code, live = families(), told(edge.metrics())
    unknown = {name for name in live if not name.startswith("process_")} - code.keys()
    assert not unknown and len(live) > 20
    for name in live.keys() & code.keys():
        kind, labels = live[name]
        assert kind == code[name][0] and labels <= code[name][1], name
    used = {name for name in live.keys() & code.keys() if live[name][1]}
    assert used and all(live[name][1] == code[name][1] for name in used)


def test_alerts_and_dashboards_name_what_exists(edge):
    known, values = vocabulary(edge.metrics()), words()
    queries = {name: [rule["expr"]] for name, rule in rules().items()}
    queries |= {name: queries_of(dashboard) for name, dashboard in dashboards().items()}
    wrong = {name: [fault for query in each for fault in faults(query, known, values)] for name, each in queries.items()}
    assert not {name: found for name, found in wrong.items() if found}
    for name, rule in rules().items():
        own = set().union(OF_TARGETS, *(known[metric] for metric in named(rule["expr"]).metrics))
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= own, name


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("outport_request_total > 0", "no such metric: outport_request_total"),
        ("rate(outport_first_byte_seconds[5m])", "no such metric: outport_first_byte_seconds"),
        ('sum(rate(outport_requests_total{code="200"}[5m]))', "outport_requests_total has no label code"),
        ("sum by (repository) (outport_requests_total)", "grouped by repository, which nothing has"),
        ('outport_requests_total{source=~"memory|dsik"}', "outport_requests_total never has source=dsik"),
        ('outport_requests_total{status=~"6.."}', "outport_requests_total never has status=6.."),
        ('a_metric and outport_connections{job="x"}', "no such metric: a_metric"),
        ('up * on (job, regoin) group_left (region) outport_peer_behind_seconds', "grouped by regoin, which nothing has"),
    ],
)
def test_a_wrong_name_is_found(edge, query, fault):
    assert faults(query, vocabulary(edge.metrics()), words()) == [fault]


# ---- Dashboards


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path):
    dashboard = json.loads(path.read_text())
    assert dashboard["schemaVersion"] >= 36 and re.fullmatch(r"[\w-]{1,40}", dashboard["uid"]) and "id" not in dashboard
    variables = {variable["name"]: variable["type"] for variable in dashboard["templating"]["list"]}
    assert variables["datasource"] == "datasource" and {"job", "instance"} <= variables.keys()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(dashboard):
        assert panel["title"] and panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references), panel["title"]
        for target in panel["targets"]:
            assert "$job" in target["expr"] or "ALERTS" in target["expr"], panel["title"]
            shown = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            assert shown <= named(target["expr"]).grouping | {"instance"}, panel["title"]
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard["panels"]]
    for title, place in places:
        assert place["x"] + place["w"] <= 24, title
    for (one, a), (other, b) in combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, (one, other)


def test_dashboards_lead_to_each_other():
    uids = {dashboard["uid"] for dashboard in dashboards().values()}
    links = {link["url"] for dashboard in dashboards().values() for link in dashboard["links"]}
    assert len(uids) == len(DASHBOARDS) and links and {re.match(r"/d/([\w-]+)", link)[1] for link in links} <= uids


# ---- Live


def test_a_prometheus_watches_an_edge_with_the_rules(prometheus, edge):
    for path in ("/v2/a/manifests/b", f"/v2/{UPSTREAM}/a/manifests/b", "/v2/a/tags/list"):
        edge.get(path)
    prometheus.process.wait_for(lambda: prometheus.query('sum(outport_requests_total{route="manifest"}) > 1'))
    assert [one["value"][1] for one in prometheus.query("up")] == ["1"]

    evaluated: list[dict] = []

    def all_are_evaluated() -> bool:
        groups = prometheus.ask("rules")["groups"]
        evaluated[:] = [rule for group in groups for rule in group["rules"]]
        return all(rule["health"] != "unknown" for rule in evaluated)

    prometheus.process.wait_for(all_are_evaluated)
    assert {rule["name"] for rule in evaluated} == rules().keys()
    assert all(rule["health"] == "ok" and not rule.get("lastError") for rule in evaluated)
    # An edge that is well raises none.
    assert not [alert for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]

    checked = subprocess.run(["promtool", "check", "metrics"], input=edge.metrics(), capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_every_query_of_a_dashboard_can_be_asked(prometheus, edge):
    edge.get("/v2/a/manifests/b")
    prometheus.process.wait_for(lambda: prometheus.query("outport_requests_total"))
    answered = {query: prometheus.query(query) for dashboard in dashboards().values() for query in queries_of(dashboard)}
    assert sum(map(bool, answered.values())) > len(answered) / 4, "hardly any shows something"


def test_the_number_of_series_does_not_grow_with_what_clients_send(edge):
    drive(edge, WARM_UP)
    edge.process.wait_for(lambda: 'outport_audit_shipments_total{outcome="shipped"}' in edge.metrics())
    before, started = series(edge.metrics()), time.monotonic()
    statuses = drive(edge, RANDOM_REQUESTS)
    after = series(edge.metrics())
    print(f"{RANDOM_REQUESTS} requests in {time.monotonic() - started:.1f} s, {dict(statuses)}, {len(before)} series before, {len(after)} after")
    assert statuses.keys() == {200, 404, 405} and statuses.total() == RANDOM_REQUESTS
    assert after == before
    # What is new is seen.
    edge.get("/acr/v1/_catalog")
    assert series(edge.metrics()) > before


# ---- The chart's objects


@pytest.fixture(scope="module")
def chart(tmp_path_factory):
    """The chart with what is checked here alone: its other objects may want values."""
    folder = tmp_path_factory.mktemp("chart") / "outport"
    kept = {"prometheusrule.yaml", "dashboards.yaml"}

    def others(parent: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(parent).name == "templates" and name not in kept and not name.startswith("_")]

    shutil.copytree(CHART, folder, ignore=others)
    with Chart.load(folder) as loaded:
        yield loaded


def render(chart: Chart, **values) -> list[dict]:
    rendered = chart.render(values, name="images", namespace="registry")
    return [part for text in rendered.values() for part in yaml.safe_load_all(text) if part]


def test_the_chart_has_the_rules_as_they_are(chart):
    off = render(chart, prometheusRule={"enabled": False}, dashboards={"enabled": False})
    assert off == []
    [rule] = render(chart, prometheusRule={"enabled": True, "labels": {"release": "watching"}}, dashboards={"enabled": False})
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "watching" and len(rule["metadata"]["labels"]) > 1
    assert rule["spec"]["groups"] == [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]


def test_the_chart_has_the_dashboards_as_they_are(chart):
    maps = render(chart, prometheusRule={"enabled": False}, dashboards={"enabled": True, "labels": {"team": "images"}})
    assert [(one["apiVersion"], one["kind"]) for one in maps] == [("v1", "ConfigMap")] * len(DASHBOARDS)
    assert len({one["metadata"]["name"] for one in maps}) == len(maps)
    for one in maps:
        labels = one["metadata"]["labels"]
        assert labels["grafana_dashboard"] == "1" and labels["team"] == "images"
        assert len(one["metadata"]["name"]) <= 253 and len(str(one)) < 1_000_000
    assert {name: text for one in maps for name, text in one["data"].items()} == {path.name: path.read_text() for path in DASHBOARDS}
