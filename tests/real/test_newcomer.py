"""What the README tells a newcomer to type, typed: from a clone to three regions and to a chart rendered for their own values."""

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from edge import REPOSITORY, binary
from processes import run

MARK = "<!-- tests/real/test_newcomer.py copies these commands and runs them -->"
HELM = Path(__file__).with_name("helm.py")
IN_FULL = os.environ.get("OUTPORT_FULL") == "1"
"""Then cargo builds the clone as it would a newcomer's, which takes a quarter of an hour."""
BUILD_S, USE_S = 3600, 120


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("newcomer") / "outport"
    run("git", "clone", "--quiet", REPOSITORY, folder)
    return folder


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    """Where the shell looks for programs: helm is Helm's engine in its library, and cargo runs what is built already."""
    folder = tmp_path_factory.mktemp("programs")
    programs = {"helm": f'exec {shlex.quote(sys.executable)} {shlex.quote(str(HELM))} "$@"'}
    if not IN_FULL:
        # Whatever stands before it, what follows -- is for outport.
        programs["cargo"] = f'while [ "$1" != -- ]; do shift; done; shift; exec {shlex.quote(str(binary()))} "$@"'
    for name, command in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def blocks(readme: str) -> list[str]:
    return re.findall(re.escape(MARK) + r"\n```sh\n(.*?)```", readme, re.DOTALL)


def typed(commands: str, clone: Path, path: str) -> str:
    return run("bash", "-euc", commands, cwd=clone, env=os.environ | {"PATH": path}, timeout_s=BUILD_S if IN_FULL else USE_S)


def test_a_newcomer_gets_from_a_clone_to_regions_and_a_chart(clone, path):
    demo, chart = blocks((clone / "README.md").read_text())
    told = typed(demo, clone, path)
    assert "Every step came out right" in told, told[-2000:]
    objects = [each for each in yaml.safe_load_all(typed(chart, clone, path)) if each]
    assert {"StatefulSet", "Service", "ConfigMap"} <= {each["kind"] for each in objects}
    [config] = [each for each in objects if each["kind"] == "ConfigMap" and "outport.toml" in each["data"]]
    assert "registry.mine.example" in config["data"]["outport.toml"], "these are their own values"


def test_a_command_that_fails_is_noticed(clone, path):
    with pytest.raises(AssertionError):
        typed("helm lint helm/outport --strict --set hostname=7", clone, path)
