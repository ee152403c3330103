"""Our server in the place of api.openai.com, for pages that have that address built in.

The browser resolves the name to a port of this machine, where TLS ends and bytes go on to the server as they are.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = "api.openai.com"


@contextmanager
def stand_in(server_port: int, folder: Path) -> Iterator[int]:
    """The port that speaks TLS, with a certificate of its own making, put into ``folder``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_certificate(folder))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, server_port), daemon=True).start()
        yield int(listener.getsockname()[1])


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}")
    subprocess.run((*new, "-keyout", str(key), "-out", str(certificate)), check=True, capture_output=True, timeout=60)
    return certificate, key


def _accept(listener: socket.socket, context: ssl.SSLContext, server_port: int) -> None:
    with suppress(OSError):  # the listener is closed when the tests are over
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=_forward, args=(plain, context, server_port), daemon=True).start()


def _forward(plain: socket.socket, context: ssl.SSLContext, server_port: int) -> None:
    with (
        suppress(OSError),
        context.wrap_socket(plain, server_side=True) as browser,
        socket.create_connection(("127.0.0.1", server_port)) as server,
    ):
        threading.Thread(target=_copy, args=(server, browser), daemon=True).start()
        _copy(browser, server)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
