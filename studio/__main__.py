"""The command line: the studio in the browser, and the same actions without one.

Only the standard library is imported at the top: the web process never imports torch, and the
module of a command is imported when the command is known.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys

from studio.cli.arguments import home_folder, parse
from studio.cli.errors import CommandError, let_no_print_fail, log, say


def main(argv: list[str] | None = None) -> int:
    """Carry out a command; gives the exit status."""
    let_no_print_fail()
    arguments = parse(sys.argv[1:] if argv is None else argv)
    # Also for the worker: libraries' warnings are for programmers, and telemetry is off.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP can resume a download
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        module, function = arguments.run.split(":")
        return getattr(importlib.import_module(module), function)(arguments)
    except KeyboardInterrupt:
        say("\nStopped.", to_errors=True)
        return 130
    except Exception as error:
        return _report(error, arguments)


def _report(error: Exception, arguments: argparse.Namespace) -> int:
    """Print an error as a sentence; all of the studio's own errors carry one."""
    if isinstance(error, CommandError) or type(error).__module__.startswith("studio."):
        say(error, to_errors=True)
        # The library's own message, which the sentence omits, goes only to the log.
        if error.__cause__ is not None and logging.getLogger().handlers:
            log.warning("%s failed", arguments.command, exc_info=error)
        return 2 if type(error).__name__ == "StoreLocked" else 1
    if arguments.command in ("bench", "test"):  # developers want the traceback
        raise error
    log.error("%s failed", arguments.command, exc_info=error)
    say(
        f"Something went wrong that should not have: {error}\n"
        f"The details are in {home_folder(arguments) / 'logs'}.",
        to_errors=True,
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
