"""What the pages say and refuse, without a browser: the guard, the routes, the words."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
import uuid
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from PIL import Image as Pictures

from studio.settings import OBJECTIVES, SessionSettings, SettingsError, TrainingSettings
from studio.starter.data import CONCEPTS_PATH
from studio.store import (
    Consistency,
    Export,
    Metric,
    Round,
    Session,
    Store,
    StoreError,
    WorkerStatus,
)
from studio.ui import curves, fields, guard, words
from studio.ui.app import build, serve, server
from studio.ui.images import THUMBNAIL_PX
from studio.ui.page import Look, begin_session, open_session
from studio.ui.starter_pack import first_settings, starter_packs
from studio.ui.tabs import compare, export, prefer, prompt, train
from tests.browser import seed
from tests.support.factories import make_image, make_pair

LOCAL = {"host": "127.0.0.1:7860"}


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory):
    store = Store.open(tmp_path_factory.mktemp("home"))
    yield store
    store.close()


@pytest.fixture(scope="module")
def client(module_store: Store) -> TestClient:
    """The studio as others reach it on this machine."""
    return TestClient(build(module_store), base_url="http://127.0.0.1:7860")


@pytest.fixture(scope="module")
def guarded_app(module_store: Store):
    return build(module_store, auth=("ada", "secret: x"))


@pytest.fixture
def guarded_client(guarded_app) -> TestClient:
    """The studio when it listens beyond this machine; each test comes from another address."""
    address = (uuid.uuid4().hex, 50_000)
    return TestClient(guarded_app, base_url="http://studio.example:7860", client=address)


# --- the guard -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860"])
def test_names_of_this_machine_are_let_in(client, host):
    assert client.get("/studio/studio.css", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil:80",
        "",
        "[::]",
    ],
)
def test_any_other_host_is_refused(client, host):
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 403
    assert "only on this machine" in answer.text


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://localhost:3000", "http://127.0.0.1:7861", "null", "file://"],
)
def test_another_origin_is_refused(client, origin):
    answer = client.post(
        "/gradio_api/run/predict", json={"data": []}, headers={**LOCAL, "origin": origin}
    )
    assert answer.status_code == 403


def test_its_own_origin_is_let_in(client):
    headers = {**LOCAL, "origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}
    assert client.get("/studio/studio.js", headers=headers).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("mode", "destination", "method", "status"),
    [
        ("navigate", "document", "GET", 200),  # a link in a mail opens the studio
        ("navigate", "document", "POST", 403),  # a form on another page does not
        ("navigate", "iframe", "GET", 403),
        ("no-cors", "image", "GET", 403),
        ("cors", "empty", "GET", 403),
    ],
)
def test_other_pages_may_only_link(client, site, mode, destination, method, status):
    headers = {
        **LOCAL,
        "sec-fetch-site": site,
        "sec-fetch-mode": mode,
        "sec-fetch-dest": destination,
    }
    assert client.request(method, "/", headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/", "/studio/studio.css", "/images/none", "/config"])
def test_every_answer_carries_the_security_headers(client, path):
    headers = client.get(path).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    expected = "default-src 'none'; sandbox" if "none" in path else "default-src 'self'"
    assert expected in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


PATHS = ("/", "/config", "/images/none", "/exports/a/b/c", "/studio/studio.css", "/gradio_api/info")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    [None, "Basic", "Basic ???", "Bearer x", "Basic " + b64encode(b"ada:wrong").decode()],
)
def test_beyond_this_machine_every_route_asks_for_the_password(guarded_client, path, authorization):
    headers = {"authorization": authorization} if authorization else {}
    answer = guarded_client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_with_the_password_one_is_let_in_under_any_host(guarded_client):
    headers = {"authorization": "Basic " + b64encode(b"ada:secret: x").decode()}
    assert guarded_client.get("/studio/studio.css", headers=headers).status_code == 200
    headers["origin"] = "http://evil.example"
    assert guarded_client.get("/studio/studio.css", headers=headers).status_code == 403


def test_wrong_passwords_are_counted(module_store, monkeypatch):
    app = build(module_store, auth=("ada", "secret"))
    client = TestClient(app, base_url="http://studio.example:7860", client=("10.0.0.1", 1))
    other = TestClient(app, base_url="http://studio.example:7860", client=("10.0.0.2", 1))
    right, wrong = (
        {"authorization": "Basic " + b64encode(text).decode()} for text in (b"ada:secret", b"ada:x")
    )
    path = "/studio/studio.css"
    for _ in range(guard.MOST_ATTEMPTS * 2):
        assert client.get(path).status_code == 401  # a browser that asks for the password
    for _ in range(guard.MOST_ATTEMPTS):
        assert client.get(path, headers=wrong).status_code == 401
    for headers in (wrong, right):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "60"
    assert other.get(path, headers=right).status_code == 200
    monkeypatch.setattr(guard, "WAIT_S", 0.0)
    assert client.get(path, headers=right).status_code == 200


def routes_of(routes) -> list[tuple[str, str]]:
    """Every (method, path) that an app answers, the mounted ones among them."""
    found = []
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            found += routes_of(inner.routes)
        else:
            path = re.sub(r"\{(\w+)(:path)?\}", "x", route.path)
            found += [(method, path) for method in sorted(route.methods)]
    return found


ATTACKS = {
    "rebinding": {"host": "evil.example:7860"},
    "no host": {"host": ""},
    "a foreign origin": {"origin": "http://evil.example"},
    "a null origin": {"origin": "null"},
    "another port": {"origin": "http://127.0.0.1:7861"},
    "a cross-site fetch": {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "cors",
        "sec-fetch-dest": "empty",
    },
    "a frame": {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "iframe",
    },
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_route_refuses_every_attack(client, attack):
    found = routes_of(client.app.routes)
    assert len(found) > 60  # the walk goes through gradio's own routes too
    for known in (("GET", "/images/x"), ("POST", "/gradio_api/queue/join"), ("GET", "/config")):
        assert known in found
    for method, path in found:
        answer = client.request(method, path, headers={**LOCAL, **ATTACKS[attack]})
        assert answer.status_code == 403, (method, path)


def test_beyond_this_machine_every_route_there_is_asks_for_the_password(guarded_client):
    for method, path in routes_of(guarded_client.app.routes):
        assert guarded_client.request(method, path).status_code == 401, path


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=studio.sqlite",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://evil.example/",
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/svelte/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/studio/..%2fapp.py",
        "/images/..%2f..%2fstudio.sqlite/master",
        "/gradio_api/custom_component/x/server/component/../../../../etc/passwd",
    ],
)
def test_no_file_is_read_but_what_the_store_names(client, path):
    answer = client.get(path, headers=LOCAL)
    assert answer.status_code in (400, 403, 404), path
    assert b"root:" not in answer.content
    assert b"SQLite format" not in answer.content


def test_nothing_can_be_uploaded_and_nothing_endless_sent(client):
    files = {"files": ("x.png", b"x")}
    assert client.post("/gradio_api/upload", files=files, headers=LOCAL).status_code == 404
    join = "/gradio_api/queue/join"
    large = b"x" * (guard.LARGEST_BODY_BYTES + 1)
    assert client.post(join, content=large, headers=LOCAL).status_code == 413
    endless = client.post(join, content=(b"x" for _ in range(3)), headers=LOCAL)
    assert endless.status_code == 411


def test_a_page_runs_only_the_scripts_that_it_was_served_with(client):
    page = client.get("/", headers=LOCAL)
    policy = page.headers["content-security-policy"]
    [scripts] = [part for part in policy.split("; ") if part.startswith("script-src")]
    assert "unsafe-inline" not in scripts
    inline = re.findall(r"<script(?![^>]*\ssrc=)[^>]*>", page.text)
    assert inline
    assert scripts.count("sha256-") == len(inline)
    elsewhere = client.get("/images/none", headers=LOCAL).headers["content-security-policy"]
    assert "sha256-" not in elsewhere


def test_listening_to_others_without_a_password_is_refused(store):
    with pytest.raises(ValueError, match="password"):
        serve(store, host="0.0.0.0", port=0)


def test_what_a_killed_studio_left_unfinished_is_gone(store, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # as it was, afterwards
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    left = store.home / "temporary" / "half a file"
    left.parent.mkdir()
    left.touch()
    server(store, "127.0.0.1", 0)
    assert not left.exists()
    assert Path(os.environ["GRADIO_TEMP_DIR"]) == left.parent


def test_a_click_before_the_page_shows_anything_does_nothing(client, module_store):
    """The forms hold no session's values yet: they must not be taken for anybody's."""
    config = client.get("/config").json()
    parts = {one["id"]: one["props"] for one in config["components"]}
    ids = {props.get("elem_id"): id_ for id_, props in parts.items()}
    save = next(
        one for one in config["dependencies"] if [ids["export-make"], "click"] in one["targets"]
    )
    before = module_store.version()
    body = {
        "data": [parts[id_].get("value") for id_ in save["inputs"]],
        "fn_index": save["id"],
        "session_hash": uuid.uuid4().hex,
    }
    answer = client.post("/gradio_api/run/predict", json=body, headers=LOCAL)
    assert answer.status_code == 200
    assert "The page was still loading" in answer.text
    assert module_store.version() == before


def test_gradios_own_doors_are_shut(client):
    for path in ("/docs", "/openapi.json", "/redoc", "/monitoring"):
        assert client.get(path).status_code in (403, 404), path


def test_building_the_app_imports_no_torch(tmp_path):
    script = (
        "import sys; from pathlib import Path; from studio.store import Store; "
        "from studio.ui.app import build; build(Store.open(Path(sys.argv[1]))); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split()[-1] == "False"


def test_the_page_asks_for_nothing_from_another_machine(client):
    page = client.get("/").text
    for attribute in ('src="http', "src='http", 'href="http', "href='http"):
        assert attribute not in page


# --- pictures and downloads ----------------------------------------------------------------------


@pytest.fixture
def picture(module_store: Store):
    session = module_store.create_session("Pictures", SessionSettings(prompts=("a lion",)))
    image = make_image(module_store, session.id)
    path = module_store.image_path(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", (8, 8), "red").save(path)
    return module_store.add_image(image)


def test_a_picture_is_served_by_its_id(client, picture):
    for path in (f"/images/{picture.id}", f"/images/{picture.id}/master"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert "immutable" in answer.headers["cache-control"]


def test_what_is_not_a_picture_is_not_found(client, picture, module_store):
    module_store.image_path(picture).unlink()
    gone = client.get(f"/images/{picture.id}")
    assert gone.status_code == 404
    assert "missing" in gone.text
    for path in ("/images/none", "/images/..%2f..%2fstudio.sqlite", "/images/%2e%2e/master"):
        assert client.get(path).status_code == 404


def test_only_the_files_of_an_export_are_served(client, module_store):
    session = module_store.create_session("Exports", SessionSettings(prompts=("a lion",)))
    seed.add_pairs(module_store, session, 4)
    seed.pick_all(module_store, session)
    adapter = seed.learn(module_store, session)
    made = Export("e1", session.id, adapter.id, "Blue", ("Blue.safetensors",), {}, time.time())
    folder = module_store.export_path(session.id, made.id)
    folder.mkdir(parents=True)
    (folder / "Blue.safetensors").write_bytes(b"lora")
    (folder / "secret.txt").write_text("no")
    module_store.add_export(made)
    good = client.get(f"/exports/{session.id}/e1/Blue.safetensors")
    assert good.content == b"lora"
    assert "attachment" in good.headers["content-disposition"]
    for path in (
        f"/exports/{session.id}/e1/secret.txt",
        f"/exports/{session.id}/e1/..%2f..%2fstudio.sqlite",
        f"/exports/{session.id}/e2/Blue.safetensors",
        "/exports/none/e1/Blue.safetensors",
    ):
        assert client.get(path).status_code == 404, path


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "a few seconds"),
        (12, "about 10 s"),
        (58, "about 1 min"),
        (60 * 3 + 20, "about 3 min"),
        (3600, "about 1 h"),
        (4800, "about 1 h 20 min"),
    ],
)
def test_durations(seconds, said):
    assert words.duration(seconds) == said


def a_round(**changes: object) -> Round:
    values = {
        "id": "r",
        "session_id": "s",
        "number": 2,
        "state": "running",
        "settings": TrainingSettings(),
        "train_pick_ids": tuple("abcdefgh"),
        "held_out_pick_ids": tuple("ij"),
        "updates_done": 40,
        "updates_total": 100,
        "adapter_id": None,
        "message": "",
        "created_at_s": 0.0,
        "started_at_s": 0.0,
        "finished_at_s": None,
    }
    return Round(**values | changes)


def a_status(state: str = "idle", age_s: float = 0.0, message: str = "") -> WorkerStatus:
    """Said so many seconds before it is looked at."""
    return WorkerStatus(1, state, message, "cpu", -age_s)


def said_now(status: WorkerStatus) -> WorkerStatus:
    return replace(status, heartbeat_at_s=time.time() + status.heartbeat_at_s)


METRICS = [Metric("r", update, {"seconds": 1.0, "loss": 0.69}) for update in range(1, 41)]


@pytest.mark.parametrize(
    ("status", "round_", "said"),
    [
        (None, None, ("wait", "The painter is starting")),
        (a_status(), None, ("idle", "Idle")),
        (a_status("sampling"), None, ("busy", "Drawing pairs")),
        (a_status("training"), a_round(), ("busy", "Learning: 40 %, about 1 min left")),
        (a_status("sampling"), a_round(), ("busy", "Learning: 40 %, about 1 min left")),
        (a_status("training"), a_round(updates_done=0), ("busy", "Learning: getting ready")),
        (a_status("training", 99), a_round(), ("bad", "The painter stopped and is starting again")),
        (a_status("error", message="No model."), None, ("bad", "No model")),
        (a_status("starting", message="Loading x."), None, ("wait", "Loading x")),
    ],
)
def test_the_workers_line(status, round_, said):
    assert words.worker_line(status and said_now(status), round_, METRICS) == said


def test_a_curve_is_drawn_within_its_frame_and_says_its_newest_value():
    chart = curves.share_chart("Agrees", [(1, 0.25), (50, 1.0), (100, 0.5)], "about <it>", 100)
    assert ">50 %<" in chart
    assert "about &lt;it&gt;" in chart
    line = chart.split("points='")[1].split("'")[0]
    for point in line.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= curves.WIDTH
        assert 0 <= y <= curves.HEIGHT


def test_a_curve_without_points_is_an_empty_frame():
    assert "polyline" not in curves.value_chart("Leaning", [], "", 10)
    assert "polyline" not in curves.value_chart("Leaning", [(1, 0.0)], "", 10)


# --- prompts and other input ---------------------------------------------------------------------


def test_prompts_are_the_lines_without_blanks_and_repeats(tmp_path):
    settings = prompt.with_prompts(
        SessionSettings(), "  a  lion \n\n\na {cat|dog}\na lion\n", tmp_path
    )
    assert settings.prompts == ("a lion", "a {cat|dog}")


@pytest.mark.parametrize(
    ("text", "sentence"), [("a {cat|dog", "both braces"), ("a __ghost__", "ghost.txt")]
)
def test_a_prompt_that_cannot_be_read_is_answered_with_a_sentence(text, sentence, tmp_path):
    with pytest.raises(SettingsError, match=sentence):
        prompt.with_prompts(SessionSettings(), f"a lion\n{text}", tmp_path)


@pytest.mark.parametrize("text", ["", "   \n\t\n"])
def test_no_prompt_at_all_is_answered_with_a_sentence(text, tmp_path):
    with pytest.raises(SettingsError, match="no prompt"):
        prompt.with_prompts(SessionSettings(), text, tmp_path)


def test_what_a_model_does_not_read_is_named_as_long_as_it_is_written(store):
    session = begin_session(store, "Long")
    long = "a cat on <b>a mat</b> and so on for ever and ever and ever"
    store.update_settings(session.id, replace(session.settings, prompts=("a dog", long)))
    [job] = store.jobs(session.id, kind="preview")
    store.update_job(job.id, state="done", result={"unread": {long: "for <ever>", "old": "x"}})
    said = prompt.unread(Look(store))
    assert "for &lt;ever&gt;” is left out" in said
    assert said.count("<li>") == 1
    store.update_settings(session.id, session.settings)
    assert prompt.unread(Look(store)) == ""


def test_the_starter_packs_are_ready_to_use():
    prompts = [prompt for pack in starter_packs().values() for prompt in pack]
    assert len(prompts) == len(set(prompts)) >= 40
    assert set(first_settings().prompts) < set(prompts)
    assert set(prompts) <= set(CONCEPTS_PATH.read_text(encoding="utf-8").splitlines())


def test_the_strength_dial_sets_how_far_a_round_goes_and_reads_it_back():
    for name in train.REACHES:
        settings = train.with_strength(SessionSettings(), name)
        assert train.strength_of(settings.training) == name
    gentle, strong = (train.with_strength(SessionSettings(), n) for n in ("Gentle", "Strong"))
    assert gentle.training.target_shift < strong.training.target_shift
    assert gentle.training.beta == strong.training.beta


def test_the_strength_dial_sets_beta_where_there_is_no_reach():
    published = SessionSettings(training=OBJECTIVES["d3po"])
    gentle, strong = (train.with_strength(published, n) for n in ("Gentle", "Strong"))
    assert gentle.training.beta > strong.training.beta  # beta is what holds it back
    assert gentle.training.target_shift is strong.training.target_shift is None


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_another_way_of_learning_is_taken_whole_but_for_rank_and_alpha(objective):
    settings = SessionSettings(training=TrainingSettings(rank=4, alpha=2.0))
    changed = train.with_objective(settings, objective)
    assert changed.training == replace(OBJECTIVES[objective], rank=4, alpha=2.0)
    assert objective in train.OBJECTIVE_WORDS


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text": " \n "}, "at least one prompt"),
        ({"first": -1}, "Seeds are whole numbers"),
        ({"count": None}, "Seeds are whole numbers"),
        ({"adapter_id": None}, "let a round learn first"),
        ({"count": 20}, "at most 32"),
    ],
)
def test_what_cannot_be_compared_is_said(changes, sentence):
    good = {"text": "a\nb", "first": 5, "count": 2, "adapter_id": "x", "strength": 1.0}
    assert compare.comparison_payload(**good)["seeds"] == [5, 6]
    with pytest.raises(SettingsError, match=sentence):
        compare.comparison_payload(**good | changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"adapter_id": None}, "let a round learn first"),
        ({"name": "  "}, "name"),
        ({"strength": None}, "strength"),
        ({"strength": 3.0}, "strength"),
        ({"formats": []}, "at least one kind"),
    ],
)
def test_what_cannot_be_exported_is_said(changes, sentence):
    good = {
        "adapter_id": "x",
        "name": " Blue ",
        "notes": "",
        "trigger": "",
        "strength": 1,
        "author": "",
        "licence": None,
        "formats": ["kohya"],
    }
    assert export.export_payload(**good)["name"] == "Blue"
    with pytest.raises(SettingsError, match=sentence):
        export.export_payload(**good | changes)


# --- what the tabs make of the store -------------------------------------------------------------

NASTY = "<img src=x onerror=alert(1)> `${alert(1)}` {{value}} \"'"


def test_what_the_artist_types_is_never_html(store: Store):
    session = begin_session(store, NASTY[:100])
    settings = replace(session.settings, prompts=(NASTY,), base_model=NASTY)
    store.update_settings(session.id, settings)
    store.add_job(session.id, "inspect", {"path": NASTY})
    look = Look(store)
    shown = prompt.preview(look) + train.strip_of_rounds(look) + prompt.model_card(look)
    shown += prompt.inspected(look) + export.exports(look, is_local=True)
    assert "<img src=x" not in shown
    assert "&lt;img src=x" in shown


def test_a_new_home_is_ready_to_label(store: Store):
    session = open_session(store)
    assert session.settings.prompts
    assert open_session(store).id == session.id  # and there is one of it
    [job] = store.jobs(session.id)
    assert job.kind == "preview"


@pytest.mark.parametrize(
    ("status", "prompts", "title"),
    [
        (None, (), "No prompts yet"),
        (None, ("a",), "The painter is starting"),
        (a_status("sampling"), ("a",), "The next pair is being drawn"),
        (a_status("sampling", 99), ("a",), "The painter stopped and is starting again"),
    ],
)
def test_an_empty_queue_says_why(store: Store, status, prompts, title):
    session = store.create_session("Empty", SessionSettings(prompts=prompts))
    store.set_last_session(session.id)
    if status is not None:
        store.set_worker_status(said_now(status))
    assert prefer.state(Look(store))["empty"]["title"] == title


def test_nobody_is_faster_than_the_painter_before_the_first_pick(store: Store):
    session = store.create_session("Empty", SessionSettings(prompts=("a",)))
    store.set_last_session(session.id)
    store.set_worker_status(said_now(a_status("sampling")))
    assert "faster" not in prefer.state(Look(store))["empty"]["text"]
    store.add_answer("p1", make_pair(store, session.id).id, "left")
    assert "faster" in prefer.state(Look(store))["empty"]["text"]


def test_the_state_of_prefer_follows_the_picks(store: Store, session: Session):
    store.set_last_session(session.id)
    pairs = [make_pair(store, session.id) for _ in range(3)]
    store.add_answer("p1", pairs[0].id, "left")
    store.add_answer("p2", pairs[1].id, "tie")
    shown = prefer.state(Look(store))
    assert [pair["id"] for pair in shown["waiting"]] == [pairs[2].id]
    assert (shown["counts"]["total"], shown["counts"]["new"]) == (2, 1)


def test_prefer_says_what_is_known_as_train_does(store: Store, session: Session):
    """One figure each, of the same sources; nothing before there is any."""
    store.set_last_session(session.id)
    pairs = [make_pair(store, session.id) for _ in range(10)]
    for pair in pairs:
        store.add_answer(f"p-{pair.id}", pair.id, "left")
    assert prefer.state(Look(store))["known"] == ""
    again = store.ask_again(session.id)
    store.add_answer("again", again.id, "right")  # the same picture: the sides are swapped
    round_ = store.request_round(session.id)
    store.claim_round()
    store.add_metric(round_.id, 1, {"held_out_agreement": 0.5})
    assert prefer.state(Look(store))["known"] == "it guesses 1 of 2, you repeat 1 of 1"
    evidence = train.evidence(Look(store))
    assert "agrees with 1 of 2 picks" in evidence
    assert "the same again in 1 of 1 pair" in evidence


def test_a_thumbnail_is_small_and_says_when_its_picture_is_gone(client, picture, module_store):
    answer = client.get(f"/images/{picture.id}/thumbnail")
    assert answer.headers["content-type"] == "image/jpeg"
    path = module_store.image_path(picture)
    Pictures.new("RGB", (400, 200), "red").save(path)
    small = Pictures.open(io.BytesIO(client.get(f"/images/{picture.id}/thumbnail").content))
    assert small.size == (THUMBNAIL_PX, THUMBNAIL_PX // 2)
    path.write_bytes(b"not a picture")
    assert client.get(f"/images/{picture.id}/thumbnail").status_code == 404
    path.unlink()
    assert client.get(f"/images/{picture.id}/thumbnail").status_code == 404
    assert client.get("/images/none/thumbnail").status_code == 404


class FailingPage:
    """All that `answered` needs of a page."""

    went_wrong = "Something went wrong."


def test_a_pick_is_sent_again_only_when_that_can_help():
    def refused(_: dict) -> dict:
        raise StoreError("This pair does not exist.")

    def full(_: dict) -> dict:
        raise StoreError("The disk is full.") from OSError(28, "No space left on device")

    def broken(_: dict) -> dict:
        raise KeyError("bug")

    answers = [prefer.answered(call, FailingPage())({}) for call in (refused, full, broken)]
    assert [answer["ok"] for answer in answers] == [False] * 3
    assert [answer["final"] for answer in answers] == [True, False, True]
    assert answers[1]["sentence"] == "The disk is full."


def test_the_strip_has_a_row_for_the_base_and_every_round(store: Store, session: Session):
    store.set_last_session(session.id)
    for _ in range(6):
        pair = make_pair(store, session.id)
        store.add_answer(f"pick{pair.id}", pair.id, "left")
    round_ = store.request_round(session.id)
    store.claim_round()
    store.update_round(round_.id, state="failed", message="It <broke>.")
    strip = train.strip_of_rounds(Look(store))
    assert "Base model" in strip
    assert "Round 1" in strip
    assert "It &lt;broke&gt;." in strip
    assert "could not be finished" in train.round_card(Look(store))


def test_a_round_that_ran_short_of_memory_says_so_while_it_runs_and_when_it_is_done(
    store: Store, session: Session, add_pairs
):
    for number, pair in enumerate(add_pairs(4)):
        store.add_answer(f"pick{number}", pair.id, "left")
    round_ = store.request_round(session.id)
    store.claim_round()
    note = "The memory ran out at update 2."
    store.update_round(round_.id, message=note)
    assert note in train.round_card(Look(store))
    store.update_round(round_.id, state="done", message=f"Done. {note}")
    assert note in train.round_card(Look(store))
    assert "Done." not in train.round_card(Look(store))


def test_the_consistency_of_picks_is_explained():
    said = dict(train.consistency_lines(Consistency(repeated=4, agreed=3, picked=24, left=20)))
    assert "You chose the same again in 3 of 4 pairs shown twice" in said
    assert "look at the left one first?" in said["You chose the left picture in 83 % of 24 picks"]
    even = dict(train.consistency_lines(Consistency(repeated=0, agreed=0, picked=24, left=11)))
    assert "you do not favour one" in even["You chose the right picture in 54 % of 24 picks"]
    assert train.consistency_lines(Consistency(0, 0, 5, 5)) == []


def test_the_dial_ends_at_very_gentle():
    settings = SessionSettings()
    for name in ("Gentle", "Very gentle"):
        assert train.can_be_gentler(settings)
        settings = train.more_gently(settings)
        assert train.strength_of(settings.training) == name
    assert not train.can_be_gentler(settings)


def test_a_field_keeps_what_another_saved_since_it_was_read(store: Store, session: Session) -> None:
    """Leaving a field by a click on another saves both, and neither knows of the other."""
    page = SimpleNamespace(store=store)

    def saver(put) -> object:
        return fields._saver(page, fields.Field(None, None, put), None)

    saver(lambda s, value: replace(s, round_every=value))(session, 24)
    saver(lambda s, value: replace(s, live=value))(session, not session.settings.live)
    settings = store.session(session.id).settings
    assert (settings.round_every, settings.live) == (24, not session.settings.live)
