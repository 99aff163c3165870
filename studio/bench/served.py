"""A whole studio, served for a benchmark, and a tab of it that needs no browser."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("a red apple", "a lion", "a sailboat", "a teapot")
PATIENCE_S = 600.0
REQUEST_S = 60.0  # the longest that a request may take

Found = TypeVar("Found")


class BenchError(Exception):
    """A measurement that cannot be made; the message says why."""


@contextmanager
def studio(home: Path) -> Iterator[str]:
    """The address of a whole studio, worker and all."""
    command = [sys.executable, "-u", "-m", "studio", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-browser"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        said = []
        for line in process.stdout or ():
            said.append(line)
            if "open at" in line:
                break
        else:
            raise BenchError("The studio did not start. It said:\n" + "".join(said))
        yield said[-1].split()[-1]
    finally:
        process.terminate()
        process.wait()


def wait_for(look: Callable[[], Found | None], what: str) -> Found:
    """What `look` finds, as soon as it finds something."""
    until_s = time.monotonic() + PATIENCE_S
    while (found := look()) is None:
        if time.monotonic() > until_s:
            raise BenchError(f"Waited {PATIENCE_S:.0f} s in vain for {what}.")
        time.sleep(0.2)
    return found


class Tab:
    """A page as the browser has it open: its state lives in the server under a name of its own."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=REQUEST_S, headers={"Origin": url})
        self.http.get("/").raise_for_status()
        config = self.http.get("/config").raise_for_status().json()
        self._parts = {one["id"]: one["props"] for one in config["components"]}
        self._ids = {props.get("elem_id"): id_ for id_, props in self._parts.items()}
        self._events = {
            tuple(target): one for one in config["dependencies"] for target in one["targets"]
        }
        self._name = uuid.uuid4().hex
        # Kept open as the browser does: by its end the server knows that the page is gone.
        beat = self.http.build_request("GET", f"/gradio_api/heartbeat/{self._name}")
        self._heartbeat = self.http.send(beat, stream=True)
        self._timer = next(id_ for id_, event in self._events if event == "tick")
        self._send(next(one for (_, event), one in self._events.items() if event == "load"))

    def poll(self) -> None:
        self._send(self._events[self._timer, "tick"])

    def press(self, button: str, **values: Any) -> None:
        """Press a button; `values` are what its fields hold, by their names with _ for -."""
        self._send(self._events[self._ids[button], "click"], values)

    def choose(self, part: str, event: str, about: dict[str, Any]) -> None:
        """An event of one of our own components."""
        self._send(self._events[self._ids[part], event], event_data=about)

    def call(self, part: str, name: str, **payload: Any) -> dict[str, Any]:
        """A function of one of our own components; BenchError with the sentence if it says no."""
        body = {
            "session_hash": self._name,
            "component_id": self._ids[part],
            "fn_name": name,
            "data": payload,
        }
        answer = self.http.post("/gradio_api/component_server", json=body)
        found = answer.raise_for_status().json()
        if not found["ok"]:
            raise BenchError(f"{name}: {found['sentence']}")
        return found

    def look_at(self, url: str) -> None:
        self.http.get(url).raise_for_status()

    def close(self) -> None:
        self._heartbeat.close()
        self.http.close()

    def _send(
        self,
        event: dict[str, Any],
        values: dict[str, Any] | None = None,
        event_data: dict[str, Any] | None = None,
    ) -> None:
        data = []
        for id_ in event["inputs"]:
            props = self._parts[id_]
            name = (props.get("elem_id") or "").replace("-", "_")
            data.append((values or {}).get(name, props.get("value")))
        body = {
            "data": data,
            "fn_index": event["id"],
            "session_hash": self._name,
            "event_data": event_data,
        }
        self.http.post("/gradio_api/run/predict", json=body).raise_for_status()
