"""Markup in whatever an artist, or somebody else, has typed: shown as it is, and never run."""

from __future__ import annotations

import time
from dataclasses import replace

from playwright.sync_api import Page, expect

from studio.store import Export, Session, Store
from tests.browser import seed
from tests.browser.seed import export_files

CANARY = '<img src=x onerror="window.canary=1"><script>window.canary=2</script>'
HOSTILE = f"{CANARY}'\"`--></textarea></script><svg onload=window.canary=3>"

TABS = ("prompt", "prefer", "train", "compare", "export")


def is_quiet(page: Page) -> None:
    """No canary has sung, and none of its markup has become a part of the page."""
    assert page.evaluate("window.canary") is None
    assert page.locator("img[src='x'], svg[onload]").count() == 0


def test_markup_in_the_store_is_text_on_every_tab(open_page, store: Store, labelling: Session):
    """Every text that a row can hold, as a hostile archive or a careless artist would fill it."""
    hostile = replace(
        labelling.settings,
        prompts=(HOSTILE,),
        preview_prompts=(HOSTILE,),
        sampling=replace(labelling.settings.sampling, negative_prompt=HOSTILE),
    )
    session = store.create_session(HOSTILE[:190], hostile)
    store.create_session(CANARY, hostile)
    store.set_last_session(session.id)
    seed.add_previews(store, session)
    seed.add_pairs(store, session, 10)
    seed.pick_all(store, session)
    adapter = seed.learn(store, session)
    seed.add_pairs(store, session, 3)
    store.set_current_adapter(session.id, adapter.id)
    round_ = store.request_round(session.id)
    store.update_round(round_.id, message=HOSTILE)
    for kind in ("preview", "compare", "export", "inspect"):
        payload = {"prompts": [HOSTILE], "name": HOSTILE, "path": HOSTILE, "adapter_id": adapter.id}
        job = store.add_job(session.id, kind, payload)
        if kind != "compare":
            store.update_job(job.id, state="failed", message=HOSTILE)
    base, tuned = (
        seed.image(store, session, "compare", HOSTILE, adapter_id=id_) for id_ in (None, adapter.id)
    )
    for image in (base, tuned):
        store.add_image(image)
    cell = {"prompt": HOSTILE, "seed": 1, "base": base.id, "tuned": tuned.id}
    store.update_job(
        store.jobs(session.id, "compare")[0].id,
        state="done",
        message=HOSTILE,
        result={"cells": [cell]},
    )
    store.add_export(
        Export(
            "e",
            session.id,
            adapter.id,
            HOSTILE,
            (f"{HOSTILE}.png",),
            {HOSTILE: HOSTILE},
            time.time(),
        )
    )
    seed.say(store, "error", HOSTILE)
    page = open_page("prompt")
    for tab in TABS:
        page.locator(f"#tab-{tab}-button").click()
        expect(page.locator(f"#tab-{tab}-button")).to_have_attribute("aria-selected", "true")
        page.wait_for_timeout(1500)
        is_quiet(page)
    page.locator(".session-open").click()
    expect(page.locator("#session-menu li").first).to_be_visible()
    is_quiet(page)


def test_markup_that_is_typed_is_text(open_page, store: Store, labelling: Session):
    """In every field of every tab, and in the names of sessions."""
    page = open_page("prompt")
    for tab in TABS:
        page.locator(f"#tab-{tab}-button").click()
        fields = page.locator("textarea:visible, input[type=text]:visible")
        for place in range(fields.count()):
            field = fields.nth(place)
            if field.is_editable():
                field.fill(CANARY)
                field.blur()
                page.wait_for_timeout(300)
        is_quiet(page)
    page.locator(".session-open").click()
    page.locator("#session-menu [data-act=rename]").first.click()
    page.locator("dialog input").fill(CANARY)
    page.locator("dialog input").press("Enter")
    expect(page.locator("#studio-header .session-name")).to_have_text(CANARY)
    is_quiet(page)


def test_even_markup_that_gets_into_the_page_runs_no_script(open_page, labelling: Session):
    page = open_page("prefer")
    page.evaluate(
        """() => {
            const place = document.createElement("div");
            document.body.append(place);
            place.innerHTML = '<img src=x onerror="window.canary=1">'
                + '<svg onload="window.canary=2"></svg>'
                + '<a id="bait" href="javascript:window.canary=3">x</a>'
                + '<iframe srcdoc="<script>parent.canary=4</script>"></iframe>';
            const script = document.createElement("script");
            script.textContent = "window.canary = 5";
            document.body.append(script);
        }"""
    )
    page.locator("#bait").evaluate("bait => bait.click()")
    page.wait_for_timeout(1000)
    assert page.evaluate("window.canary") is None


def test_what_an_archive_brought_runs_in_no_way(open_page, store: Store, labelling: Session):
    """Even with markup of somebody's making in the page, which asks for it in every way."""
    js, html, svg = export_files(store, labelling, "x.js", "x.html", "x.svg")
    marked = "<script>window.canary = parent.canary = 1</script>"
    folder = store.export_path(labelling.id, "e1")
    (folder / "x.html").write_text(marked)
    (folder / "x.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{marked}</svg>')
    page = open_page("prefer")
    tried = page.evaluate(
        """async ([js, html, svg]) => {
            const place = document.createElement("div");
            document.body.append(place);
            place.innerHTML = `<iframe srcdoc="<script src='${js}'></script>"></iframe>`
                + [html, svg, js].map(one => `<iframe src="${one}"></iframe><object data="${one}">`
                + `</object><embed src="${one}"><img src="${one}">`).join("");
            for (const type of ["text/javascript", "module"]) {
                const script = Object.assign(document.createElement("script"), {src: js, type});
                document.body.append(script);
            }
            const ran = [];
            await import(js).then(() => ran.push("import"), () => {});
            await new Promise(done => {
                const worker = new Worker(js);
                worker.onerror = done;
                setTimeout(() => { ran.push("worker"); done(); }, 5000);
            });
            return ran;
        }""",
        [js, html, svg],
    )
    page.wait_for_timeout(1000)
    assert tried == []
    assert page.evaluate("window.canary") is None
    assert all(frame.evaluate("window.canary") is None for frame in page.frames)


def test_a_report_for_help_is_copied(browser, pages, open_page, store: Store, labelling: Session):
    page = open_page("prefer")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=pages)
    page.locator(".session-open").click()
    page.get_by_role("button", name="Copy a report for help").click()
    expect(page.locator("#notice-area")).to_contain_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "Last errors and warnings" in copied
    assert labelling.name not in copied
