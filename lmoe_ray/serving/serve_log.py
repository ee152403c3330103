"""Our log lines, where Serve keeps a replica's: without this they have no handler and are lost.

Serve configures only its own logger; with ``RAY_SERVE_THROUGHPUT_OPTIMIZED`` even what goes to standard
error ends in a buffer. A replica calls :func:`join_serve_log` first of all.
"""

from __future__ import annotations

import logging

from ray.serve._private.constants import SERVE_LOGGER_NAME


def join_serve_log() -> None:
    """Hang this package's logger below Serve's: its file, format and level hold from now on, whenever they change."""
    logging.getLogger("lmoe_ray").parent = logging.getLogger(SERVE_LOGGER_NAME)
