"""What an operator does: check a configuration, start, look at metrics, stop."""

import json
import subprocess

import pytest

from edge import UPSTREAM, binary, upstream
from processes import Process

ANYBODY = '[access]\nanonymous_pull = ["**"]\n'


def test_promtool_finds_no_fault_in_the_metrics(start_edge, origin, images):
    edge = start_edge(ANYBODY + upstream(origin.url))
    image = images.two_platforms
    for path in (f"manifests/{image.tag}", f"manifests/{image.digest}", "manifests/absent", "tags/list"):
        edge.get(f"/v2/{UPSTREAM}/{image.repository}/{path}")
    metrics = edge.metrics()
    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert "outport_" in metrics


def test_health_is_told_on_the_operators_listener(start_edge, origin):
    edge = start_edge(ANYBODY + upstream(origin.url))
    for path in ("livez", "readyz", "readyz?deep=1"):
        assert edge.get(f"http://{edge.ops}/{path}").status == 200, path
    assert edge.get("/readyz").status == 200
    assert edge.get("/metrics").status == 404, "metrics are not for clients"


def test_sigterm_ends_an_idle_edge_well(start_edge, origin):
    assert start_edge(ANYBODY + upstream(origin.url)).stop() == 0


@pytest.mark.parametrize("command", ["check", "serve"])
def test_every_fault_of_a_configuration_is_told_at_once(command, tmp_path):
    config = tmp_path / "wrong.toml"
    config.write_text(
        'regoin = "eu"\n[cache]\ndisk = "many"\n[[upstream]]\nname = "a.test"\nurl = "ftp://a.test"\n'
        '[[upstream]]\nname = "b.test"\nurl = "https://b.test"\npassword_file = "absent"\nusername = "u"\n'
    )
    done = subprocess.run([binary(), command, "--config", config], capture_output=True, text=True, timeout=30)
    assert done.returncode == 64, done
    for key in ("regoin", "cache.disk", "upstream[0].url", "upstream[1].password_file"):
        assert key in done.stdout + done.stderr, key


def test_check_accepts_what_serve_would_run(tmp_path):
    config = tmp_path / "outport.toml"
    config.write_text(f'data_dir = "{tmp_path}/data"\n{upstream("https://origin.test")}')
    done = subprocess.run([binary(), "check", "--config", config], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done


def test_check_refuses_a_missing_file_and_an_unknown_option(tmp_path):
    for words in (["check", "--config", tmp_path / "absent.toml"], ["check", "--no-such-option"]):
        assert subprocess.run([binary(), *words], capture_output=True, timeout=30).returncode == 64, words


def test_without_a_configuration_it_starts_and_says_how_to_use_it(tmp_path, logs):
    """In a network namespace of its own, since the built-in ports may be taken here."""
    log = tmp_path / "outport.log"
    logs.append(log)
    words = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0"', binary()]
    edge = Process("outport", words, log, cwd=tmp_path)
    inside = ["nsenter", "--target", edge.pid, "--net", "curl", "--silent", "--fail"]
    try:
        edge.wait_for(lambda: subprocess.run([*map(str, inside), "http://127.0.0.1:5001/readyz"]).returncode == 0)
        answer = subprocess.run([*map(str, inside), "--include", "http://127.0.0.1:5000/v2/"], capture_output=True, text=True)
        assert answer.returncode == 0 and json.loads(answer.stdout.splitlines()[-1]) == {}
        said = log.read_text()
        for word in ("127.0.0.1:5000", "docker.io", "mirror-config", "pull"):
            assert word in said, word
        assert (tmp_path / "outport-data").is_dir()
    finally:
        assert edge.stop() == 0
