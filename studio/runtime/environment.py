"""Environment variables for the network: proxies and certificates."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

_NAME = re.compile(r"\w+_proxy|SSL_CERT_(FILE|DIR)", re.IGNORECASE)


def network_variables() -> list[str]:
    """The names of the variables that are set, such as http_proxy and SSL_CERT_FILE."""
    return sorted(name for name in os.environ if _NAME.fullmatch(name))


@contextlib.contextmanager
def without_network_variables() -> Iterator[None]:
    """Inside, the variables are unset: a network client cannot be made if one of them is wrong."""
    variables = {name: os.environ.pop(name) for name in network_variables()}
    try:
        yield
    finally:
        os.environ.update(variables)
