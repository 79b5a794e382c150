"""Helm as a program. A process of its own, because the library reads SSL_CERT_FILE when it is loaded.

helm.py package NAME FOLDER | push URL FOLDER CHART | pull URL NAME VERSION FOLDER | versions URL NAME
helm.py lint CHART [--strict] [--values FILE] [--set NAME=VALUE] | template NAME CHART [--namespace NAME] [--values FILE] [--set NAME=VALUE]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import yaml
from helm_python.chart import Chart, lint
from helm_python.registry import RegistryClient

WARNING, ERROR = 2, 3
"""Helm's severities."""


def judge(command: str, *words: str) -> None:
    """As Helm's own commands of these names, as far as the README uses them."""
    options = argparse.ArgumentParser(prog=f"helm {command}", allow_abbrev=False)
    if command == "template":
        options.add_argument("name")
    options.add_argument("chart")
    options.add_argument("--strict", action="store_true")
    options.add_argument("--namespace", default="default")
    options.add_argument("--values", type=Path)
    options.add_argument("--set", action="append", default=[])
    chosen = options.parse_args(words)
    values = yaml.safe_load(chosen.values.read_text()) if chosen.values else {}
    values |= {name: yaml.safe_load(value) for name, _, value in (each.partition("=") for each in chosen.set)}
    if command == "lint":
        report = lint(chosen.chart, values, strict=chosen.strict, namespace=chosen.namespace)
        wrong = [each for each in report["messages"] if each["severity"] >= (WARNING if chosen.strict else ERROR)]
        print(*(f"{each['path']}: {each['error']}" for each in wrong), sep="\n", file=sys.stderr)
        sys.exit(1 if wrong or report["errors"] else 0)
    with Chart.load(chosen.chart) as chart:
        for name, text in chart.render(values, name=chosen.name, namespace=chosen.namespace, is_install=True).items():
            if not name.endswith("NOTES.txt"):
                print(f"---\n# Source: {name}\n{text}")


def main(command: str, *words: str) -> None:
    if command in ("lint", "template"):
        judge(command, *words)
        return
    if command == "package":
        name, folder = words
        print(Chart.create(name, folder).save(folder))
        return
    url, place, *words = words
    scheme, _, authority = url.partition("://")
    plain, reference = scheme == "http", f"oci://{authority}/{place}"
    with tempfile.TemporaryDirectory() as folder, RegistryClient(plain_http=plain, credentials_file=f"{folder}/credentials") as client:
        if command == "push":
            [chart] = words
            client.push(chart, reference, plain_http=plain)
        elif command == "pull":
            version, destination = words
            client.pull(reference, version=version, destination=destination, plain_http=plain)
        else:
            print(json.dumps(client.tags(reference)))


main(*sys.argv[1:])
