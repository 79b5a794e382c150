"""moto's S3 server, with conditional creates that are atomic as those of S3 are.

moto looks whether a key is there and writes it in two steps, and on a busy machine its threads come between: two creators win, which
outport rightly refuses at its start. Arguments: host, port.
"""

import io
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class AtomicCreates:
    def __init__(self, application):
        self._application, self._one_at_a_time = application, threading.Lock()

    def __call__(self, environ, start_response):
        if "HTTP_IF_NONE_MATCH" not in environ and "HTTP_IF_MATCH" not in environ:
            return self._application(environ, start_response)
        # Nobody waits for a body that is still on its way.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with self._one_at_a_time:
            return self._application({**environ, "wsgi.input": io.BytesIO(body)}, start_response)


def main() -> None:
    host, port = sys.argv[1:]
    application = AtomicCreates(DomainDispatcherApplication(create_backend_app))
    run_simple(host, int(port), application, threaded=True, request_handler=MotoRequestHandler)


main()
