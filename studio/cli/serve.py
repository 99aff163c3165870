"""The studio in the browser, until Ctrl+C."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
import webbrowser

from studio.cli.arguments import credentials, home_folder
from studio.cli.errors import CommandError, log, say
from studio.cli.home import end_on_sigterm
from studio.runtime import logs
from studio.runtime.environment import without_network_variables
from studio.runtime.supervisor import Supervisor, worker_command
from studio.store import Store, StoreError, StudioLock, home_warning
from studio.ui.sessions import open_session


def serve(arguments: argparse.Namespace) -> int:
    """Run the studio until Ctrl+C: one studio per home, one worker per studio."""
    home, gpus = home_folder(arguments), arguments.gpus
    worker = Supervisor(home, worker_command(home, gpus)) if gpus else contextlib.nullcontext()
    address = "0.0.0.0" if arguments.listen else "127.0.0.1"
    end_on_sigterm()
    with StudioLock(home), _bound_socket(address, arguments.port) as listener:
        logs.set_up(home, "web")
        if sentence := home_warning(home):
            log.warning("%s", sentence)
            say(sentence)
        with contextlib.closing(Store.open(home)) as store:
            _open_session(store)
            # Ctrl+C; if a shell has disabled it, the server just returns.
            with worker, contextlib.suppress(KeyboardInterrupt):
                _serve_pages(store, listener, arguments)
            say("\nEnding. Everything is kept.")
    return 0


def _open_session(store: Store) -> None:
    """A new home has its first session before its worker starts, which so loads the model and draws
    while the pages are still being made."""
    try:
        open_session(store)
    except StoreError:  # the pages say what is wrong
        log.warning("No session could be opened", exc_info=True)


def _serve_pages(store: Store, listener: socket.socket, arguments: argparse.Namespace) -> None:
    # Gradio makes network clients when it is imported. The pages need no other machines.
    with without_network_variables():
        from studio.ui.app import server

        served = server(store, *listener.getsockname()[:2], credentials(arguments), arguments.proxy)
    address, port = listener.getsockname()[:2]
    announced = (address, port, not arguments.no_browser)
    threading.Thread(target=_announce, args=announced, daemon=True).start()
    served.run(sockets=[listener])


def _announce(address: str, port: int, open_browser: bool) -> None:
    """Print the studio's address, and open it in the browser, as soon as it answers."""
    url = f"http://127.0.0.1:{port}"
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # no proxy to this machine
    try:
        direct.open(url, timeout=600).close()
    except urllib.error.HTTPError:
        pass  # it answers, and asks for name and password
    except OSError:
        return  # it ended before it opened
    say(f"D3PO Studio is open at {url}")
    if address != "127.0.0.1":
        say(f"and for others at http://{socket.gethostname()}:{port}")
    say("End it with Ctrl+C; nothing is lost.")
    if open_browser and _has_screen():
        webbrowser.open(url)


def _has_screen() -> bool:
    """Whether there is a screen; without one Python would open a text browser in the terminal."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _bound_socket(address: str, port: int) -> socket.socket:
    """A listening socket, opened first, so that a port in use is an error at once."""
    listener = socket.socket()
    if os.name == "posix":  # on Windows it would allow two studios on one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise CommandError(
            f"Port {port} cannot be used ({error.strerror}): perhaps another program, or another "
            f"studio, has it. Choose a free one with --port, such as --port {port + 1}."
        ) from error
    return listener
