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
from studio.store import Store, StudioLock, home_warning


def serve(arguments: argparse.Namespace) -> int:
    """The studio, until Ctrl+C: one studio a home, one worker a studio."""
    home, gpus = home_folder(arguments), arguments.gpus
    worker = Supervisor(home, worker_command(home, gpus)) if gpus else contextlib.nullcontext()
    address = "0.0.0.0" if arguments.listen else "127.0.0.1"
    end_on_sigterm()
    with StudioLock(home), _bound_socket(address, arguments.port) as door:
        logs.set_up(home, "web")
        if sentence := home_warning(home):
            log.warning("%s", sentence)
            say(sentence)
        with contextlib.closing(Store.open(home)) as store, worker:
            # Ctrl+C; where a shell made it be ignored, the server just returns.
            with contextlib.suppress(KeyboardInterrupt):
                _serve_pages(store, door, arguments)
            say("\nEnding. Everything is kept.")
    return 0


def _serve_pages(store: Store, door: socket.socket, arguments: argparse.Namespace) -> None:
    # Gradio makes network clients when it is imported. The pages ask nothing of other machines.
    with without_network_variables():
        from studio.ui.app import server

        served = server(store, *door.getsockname()[:2], credentials(arguments), arguments.proxy)
    address, port = door.getsockname()[:2]
    announced = (address, port, not arguments.no_browser)
    threading.Thread(target=_announce, args=announced, daemon=True).start()
    served.run(sockets=[door])


def _announce(address: str, port: int, open_browser: bool) -> None:
    """Say where the studio is, and show it, as soon as it answers there."""
    url = f"http://127.0.0.1:{port}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
    try:
        direct.open(url, timeout=600).close()
    except urllib.error.HTTPError:
        pass  # it does answer: with the question for name and password
    except OSError:
        return  # it ended before it was open
    say(f"D3PO Studio is open at {url}")
    if address != "127.0.0.1":
        say(f"and for others at http://{socket.gethostname()}:{port}")
    say("End it with Ctrl+C; nothing is lost.")
    if open_browser and _has_screen():
        webbrowser.open(url)


def _has_screen() -> bool:
    """Without one, Python would open a text browser here in the terminal."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _bound_socket(address: str, port: int) -> socket.socket:
    """A listening socket, opened first of all, so that a port in use is noticed at once."""
    door = socket.socket()
    if os.name == "posix":  # elsewhere it would allow two studios on one port
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((address, port))
        door.listen(128)
    except OSError as error:
        door.close()
        raise CommandError(
            f"Port {port} cannot be used ({error.strerror}): perhaps another program, or another "
            f"studio, has it. Choose one that is free with --port, such as --port {port + 1}."
        ) from error
    return door
