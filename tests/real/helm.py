"""Helm as a program. A process of its own, because the library reads SSL_CERT_FILE when it is loaded.

helm.py package NAME FOLDER | push URL FOLDER CHART | pull URL NAME VERSION FOLDER | versions URL NAME
"""

import json
import sys
import tempfile

from helm_python.chart import Chart
from helm_python.registry import RegistryClient


def main(command: str, *words: str) -> None:
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
