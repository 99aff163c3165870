"""An open page without a browser: the requests that a browser would send."""

from __future__ import annotations

import uuid
from typing import Any

import httpx

from studio.bench.clicks_latency import BenchError

PATIENCE_S = 60.0


class Tab:
    """An open page, as a browser has it: its state is in the server, under its own name."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=PATIENCE_S, headers={"Origin": url})
        self.http.get("/").raise_for_status()
        config = self.http.get("/config").raise_for_status().json()
        self._parts = {part["id"]: part["props"] for part in config["components"]}
        self._ids = {props.get("elem_id"): id_ for id_, props in self._parts.items()}
        self._events = {
            tuple(target): event for event in config["dependencies"] for target in event["targets"]
        }
        self._name = uuid.uuid4().hex
        # An open connection, as in the browser; when it ends, the server drops the page's state.
        beat = self.http.build_request("GET", f"/gradio_api/heartbeat/{self._name}")
        self._heartbeat = self.http.send(beat, stream=True)
        self._timer = next(id_ for id_, event in self._events if event == "tick")
        self._send(next(event for (_, name), event in self._events.items() if name == "load"))

    def poll(self) -> None:
        self._send(self._events[self._timer, "tick"])

    def press(self, button: str, **values: Any) -> None:
        """Press a button; `values`: of its fields, by their names with _ for -."""
        self._send(self._events[self._ids[button], "click"], values)

    def choose(self, part: str, event: str, about: dict[str, Any]) -> None:
        """An event of one of the studio's own components."""
        self._send(self._events[self._ids[part], event], event_data=about)

    def call(self, part: str, name: str, **payload: Any) -> dict[str, Any]:
        """Call a function of one of the studio's own components. Raises BenchError with its
        sentence if it refuses."""
        body = {
            "session_hash": self._name,
            "component_id": self._ids[part],
            "fn_name": name,
            "data": payload,
        }
        answer = self.http.post("/gradio_api/component_server", json=body)
        result = answer.raise_for_status().json()
        if not result["ok"]:
            raise BenchError(f"{name}: {result['sentence']}")
        return result

    def get(self, url: str) -> None:
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
