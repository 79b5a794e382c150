"""What the edge is compared with: nginx that serves files, and Varnish that caches. Both are set up to be fast, and each has one worker.

Debian's docker-registry is in tests/real/origin.py.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

from bench import TOOLS
from certificates import Certificate
from processes import Process, free_port, processor_seconds_of

SUITE = "TLS_AES_128_GCM_SHA256"
"""What clients written in Go choose on processors with AES. The clients here are held to it, and so is nginx."""


def family(pid: int) -> list[int]:
    """A process and what it has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in listed for each in family(int(child)))]


class Served(Process):
    """A process that may have workers: what they use is counted with it."""

    def processor_seconds(self) -> float:
        return sum(processor_seconds_of(pid) for pid in family(self.pid))


class Nginx:
    """Serves a folder, by sendfile where there is no TLS."""

    def __init__(self, root: Path, folder: Path, certificate: Certificate, around: tuple[str, ...] = ()):
        folder.mkdir(parents=True, exist_ok=True)
        ports = {name: free_port() for name in ("plain", "tls", "http2")}
        self.plain, self.tls, self.http2 = (f"127.0.0.1:{port}" for port in ports.values())
        tls = (
            f"ssl_certificate {certificate.cert_file}; ssl_certificate_key {certificate.key_file};"
            f" ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {SUITE};"
        )
        config = folder / "nginx.conf"
        config.write_text(f"""
daemon off; worker_processes 1; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600s;
  open_file_cache max=10000 inactive=600s; open_file_cache_valid 600s; default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen {self.plain} backlog=4096; root {root}; }}
  server {{ listen {self.tls} ssl backlog=4096; root {root}; {tls} }}
  server {{ listen {self.http2} ssl http2; root {root}; {tls} }}
}}
""")
        command = [*around, "/usr/sbin/nginx", "-c", config, "-p", folder, "-e", folder / "error.log"]
        self.process = Served("nginx", command, folder / "nginx.log")
        self.process.wait_for(lambda: len(family(self.process.pid)) > 1)

    def stop(self) -> None:
        self.process.stop()


class Floor:
    """What hyper and tokio alone can do: `/SIZE` has so many bytes."""

    def __init__(self, folder: Path, around: tuple[str, ...] = ()):
        folder.mkdir(parents=True, exist_ok=True)
        self.plain = f"127.0.0.1:{free_port()}"
        self.process = Served("floor", [*around, TOOLS / "floor", "--address", self.plain], folder / "floor.log")
        self.process.wait_for(self._listens)

    def _listens(self) -> bool:
        host, port = self.plain.split(":")
        with socket.create_connection((host, int(port))):
            return True

    def stop(self) -> None:
        self.process.stop()


class Varnish:
    """Caches an origin in memory, sending on while it fetches, as it does by default."""

    def __init__(self, origin: str, folder: Path, *, address: str = "127.0.0.1", around: tuple[str, ...] = ()):
        folder.mkdir(parents=True, exist_ok=True)
        host, port = origin.split(":")
        listening = free_port()
        self.plain = f"{address}:{listening}"
        program = folder / "origin.vcl"
        program.write_text(f'vcl 4.1;\nbackend default {{ .host = {json.dumps(host)}; .port = {json.dumps(port)}; }}\n')
        command = [*around, "/usr/sbin/varnishd", "-F", "-j", "none", "-a", self.plain, "-f", program, "-n", folder / "work"]
        command += ["-s", "malloc,4G"]
        # With fewer threads than clients that wait for one object, they would wait for threads.
        command += ["-p", "thread_pool_min=200", "-p", "thread_pool_max=2000"]
        self.process = Served("varnishd", command, folder / "varnish.log")
        self.process.wait_for(lambda: "Child launched OK" in self.process.log.read_text(errors="replace"))
        # It is launched before it listens. Asked from where it is: that may be another network namespace.
        connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])))"
        asking = [*around, sys.executable, "-c", connect, address, str(listening)]
        self.process.wait_for(lambda: subprocess.run(asking, capture_output=True, timeout=10).returncode == 0)

    def stop(self) -> None:
        self.process.stop()
