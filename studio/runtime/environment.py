"""What the environment says of the network: proxies and certificates, by the usual names."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

_NAME = re.compile(r"\w+_proxy|SSL_CERT_(FILE|DIR)", re.IGNORECASE)


def network_variables() -> list[str]:
    """The names of those that are set, such as http_proxy and SSL_CERT_FILE."""
    return sorted(name for name in os.environ if _NAME.fullmatch(name))


@contextlib.contextmanager
def without_network_variables() -> Iterator[None]:
    """Take them away meanwhile: making a network client fails where one of them is wrong."""
    taken = {name: os.environ.pop(name) for name in network_variables()}
    try:
        yield
    finally:
        os.environ.update(taken)
