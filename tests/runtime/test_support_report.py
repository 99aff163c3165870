"""The report for help says what went wrong, and nothing that is the artist's own."""

from __future__ import annotations

import logging
import re

import pytest
from fastapi.testclient import TestClient

from studio import __version__
from studio.__main__ import main
from studio.runtime import logs
from studio.runtime.support_report import MOST_EVENTS, report, without_private
from studio.ui.app import build

SECRETS = ("my secret prompt", "ada", "Secret Model", "/home")


@pytest.fixture
def log(home):
    """A log as the worker writes it."""
    logs.set_up(home, "worker")
    yield logging.getLogger("studio.worker")
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


def go_wrong(log: logging.Logger) -> None:
    try:
        raise ValueError("my secret prompt in /home/ada/pictures")
    except ValueError:
        log.exception("The model at /home/ada/Secret Model.safetensors cannot be read.")


def test_what_went_wrong_without_what_is_private(store, home, log):
    log.info("my secret prompt")
    logging.getLogger("transformers").warning("my secret prompt was cut")
    go_wrong(log)
    log.warning("The worker ended (-9); it restarts in 1.0 s.")
    said = report(home, "cpu")
    assert f"D3PO Studio {__version__}" in said
    assert "Device: cpu" in said
    assert re.search(r"torch \d", said)
    assert "ERROR studio.worker: The model at …" in said
    assert re.search(r"test_support_report\.py:\d+ go_wrong\n    ValueError", said)
    assert "The worker ended (-9)" in said
    for secret in (*SECRETS, str(home)):
        assert secret not in said


def test_only_the_last_events(store, home, log):
    for number in range(100):
        log.warning("event %d.", number)
    said = report(home)
    assert said.count("WARNING") == MOST_EVENTS
    assert "event 99." in said
    assert "event 79." not in said


def test_nothing_went_wrong_and_nothing_is_there(home):
    assert "none in the logs" in report(home)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("It ended (-9).", "It ended (-9)."),
        ("The adapter in C:\\Users\\Ada\\My files is gone", "The adapter in …"),
        ("“Blue things” was not found", "“…” was not found"),
        ("a \"quoted\" word, and 'one' more", "a “…” word, and “…” more"),
        ("see models/mine.safetensors now", "see …"),
    ],
)
def test_paths_and_names_are_cut_out(message, said):
    assert without_private(message) == said


def test_the_route_and_the_command_give_the_same(store, home, log, capsys):
    go_wrong(log)
    client = TestClient(build(store), base_url="http://127.0.0.1:7860")
    answer = client.get("/report")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "The model at …" in answer.text
    assert main(["report", "--home", str(home)]) == 0
    assert "The model at …" in capsys.readouterr().out
