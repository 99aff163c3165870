"""What the store keeps and gives back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from studio.settings import SamplingSettings, SessionSettings, SettingsError, TrainingSettings
from studio.store import Export, Store, StoreError, WorkerStatus, set_orphans_aside
from studio.store.schema import metadata
from tests.support.factories import OTHER_SAMPLING, finish, make_image, make_pair, pick

UNUSUAL = SessionSettings(
    base_model="/models/a b",
    prompts=("naïve café ☕", "'; DROP TABLE picks; --"),
    preview_prompts=("x",),
    sampling=SamplingSettings(steps=7, seed=2**62, negative_prompt='"'),
    training=TrainingSettings(objective="d3po", clip_range=0.1, beta=0.1, reduction="mean"),
    round_every=5,
    live=False,
    queue_target=3,
)


def test_the_migrations_make_the_schema_the_code_speaks(store):
    with store.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_everything_is_still_there_after_reopening(store, home):
    session = store.create_session("Ünïcode", UNUSUAL)
    pair = make_pair(store, session.id, prompt=UNUSUAL.prompts[1], sampling=UNUSUAL.sampling)
    picked = store.add_answer("p", pair.id, "tie").answer.pick
    store.close()
    again = Store.open(home)
    assert again.session(session.id) == session
    assert again.picked_pairs(session.id)[0].pair == pair
    assert again.picked_pairs(session.id)[0].pick == picked
    again.close()


class TestSessions:
    def test_newest_first_and_the_last_opened_is_remembered(self, store):
        assert store.last_session_id() is None
        first, second = (store.create_session(n, SessionSettings()) for n in ("A", "B"))
        assert [one.id for one in store.sessions()] == [second.id, first.id]
        store.set_last_session(first.id)
        assert store.last_session_id() == first.id
        store.delete_session(first.id)
        assert store.last_session_id() == second.id

    def test_a_name_must_say_something(self, store, session):
        for name in ("", " \t", "x" * 201):
            with pytest.raises(StoreError, match="name"):
                store.rename_session(session.id, name)
        assert store.rename_session(session.id, "  New   name ").name == "New name"

    def test_a_duplicate_has_the_settings_and_no_picks(self, store, session, add_pairs):
        pick(store, add_pairs(2))
        copy = store.duplicate_session(session.id, "Copy")
        assert copy.settings == session.settings
        assert store.pick_counts(copy.id).total == 0
        assert store.pick_counts(session.id).total == 2

    def test_deleting_sets_the_files_aside_and_ends_the_work(self, store, session, add_pairs, home):
        (pair,) = add_pairs(1)
        path = store.image_path(pair.left)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"picture")
        pick(store, add_pairs(4))
        round_ = store.request_round(session.id)
        job = store.add_job(session.id, "preview", {})
        store.delete_session(session.id)
        assert (home / "aside" / path.relative_to(home)).read_bytes() == b"picture"
        assert store.sessions() == []
        assert store.round(round_.id).state == "stopped"
        assert store.job(job.id).state == "cancelled"
        assert store.claim_round() is None
        assert store.claim_job() is None
        for refused in (
            lambda: store.session(session.id),
            lambda: store.add_job(session.id, "preview", {}),
            lambda: make_pair(store, session.id),
        ):
            with pytest.raises(StoreError, match="does not exist any more"):
                refused()

    def test_new_prompts_keep_the_pairs_that_still_fit(self, store, session, add_pairs):
        (apple,) = add_pairs(1, prompt="a red apple")
        (lion,) = add_pairs(1, prompt="a lion")
        settings = replace(session.settings, prompts=("a lion", "a fox"))
        store.update_settings(session.id, settings)
        assert store.waiting_pairs(session.id) == [lion]
        store.add_answer("late", apple.id, "left")  # it was on the screen already
        assert store.pick_counts(session.id).total == 1

    def test_two_who_change_settings_at_once_are_both_kept(self, store, session):
        """Each adds prompts of its own, one at a time, to whatever is there by then."""

        def add(name: str) -> None:
            for number in range(20):
                prompt = f"{name} {number}"
                store.change_settings(
                    session.id, lambda now, new=prompt: replace(now, prompts=(*now.prompts, new))
                )

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(add, ("a cat", "a dog")))
        prompts = store.session(session.id).settings.prompts[len(session.settings.prompts) :]
        assert sorted(prompts) == sorted(f"{n} {i}" for n in ("a cat", "a dog") for i in range(20))
        assert [p for p in prompts if "cat" in p] == [f"a cat {number}" for number in range(20)]

    def test_settings_that_cannot_be_made_change_nothing(self, store, session):
        def refuse(now: SessionSettings) -> SessionSettings:
            raise SettingsError("This cannot be.")

        with pytest.raises(SettingsError):
            store.change_settings(session.id, refuse)
        assert store.session(session.id) == session

    def test_other_picture_settings_make_all_waiting_pairs_stale(self, store, session, add_pairs):
        add_pairs(2)
        sampling = replace(session.settings.sampling, steps=5)
        store.update_settings(session.id, replace(session.settings, sampling=sampling))
        assert store.waiting_count(session.id) == 0

    def test_another_who_draws_makes_all_waiting_pairs_stale(self, store, session, add_pairs):
        add_pairs(2)
        store.update_settings(session.id, replace(session.settings, pairs_by="newest"))
        assert store.waiting_count(session.id) == 0

    def test_another_base_model_does_not_keep_the_adapter(self, store, session, add_pairs):
        pick(store, add_pairs(4))
        finish(store, session.id, store.request_round(session.id))
        pick(store, add_pairs(4))
        round_ = store.request_round(session.id)
        assert store.claim_round().id == round_.id
        after = store.update_settings(session.id, replace(session.settings, base_model="/other"))
        assert after.current_adapter_id is None
        assert store.session(session.id) == after
        assert store.round(round_.id).state == "stopped"
        with pytest.raises(StoreError, match="ended before"):
            finish(store, session.id, round_)
        assert store.session(session.id).current_adapter_id is None


class TestRounds:
    def test_too_few_picks_is_a_sentence(self, store, session, add_pairs):
        pick(store, add_pairs(3))
        pick(store, add_pairs(3), "tie")
        with pytest.raises(StoreError, match=r"at least 4 picks.*there are 3"):
            store.request_round(session.id)

    def test_asking_twice_gives_the_open_round(self, store, session, add_pairs):
        pick(store, add_pairs(10))
        assert store.request_round(session.id) == store.request_round(session.id)
        round_ = store.request_round(session.id)
        assert len(round_.held_out_pick_ids) == 2
        assert round_.updates_total == session.settings.training.updates(8)

    def test_held_out_once_is_held_out_for_ever(self, store, session, add_pairs):
        trained, held_out = set(), set()
        for number in range(1, 6):
            pairs = add_pairs(7)
            pick(store, pairs, prefix=f"r{number}")
            store.add_answer(
                f"again{number}", pairs[0].id, "right"
            )  # moves to the end of the order
            store.undo_pick(f"undo{number}", session.id)
            if number == 3:  # the artist changes the share; what was decided stays
                training = replace(session.settings.training, held_out_fraction=0.5)
                store.update_settings(session.id, replace(session.settings, training=training))
            round_ = store.request_round(session.id)
            pair_of = {one.pick.id: one.pair.id for one in store.picked_pairs(session.id)}
            trained |= {pair_of[id_] for id_ in round_.train_pick_ids}
            held_out |= {pair_of[id_] for id_ in round_.held_out_pick_ids}
            assert not trained & held_out
            assert len(round_.train_pick_ids) + len(round_.held_out_pick_ids) == len(pair_of)
            finish(store, session.id, round_)
        assert len(held_out) > 5

    def test_pictures_made_otherwise_do_not_take_part(self, store, session, add_pairs):
        pick(store, add_pairs(5))
        pick(store, add_pairs(4, sampling=SamplingSettings(steps=9)))
        assert store.pick_counts(session.id).new == 4
        round_ = store.request_round(session.id)
        assert len(round_.train_pick_ids) + len(round_.held_out_pick_ids) == 4

    def test_pause_resume_stop(self, store, session, add_pairs):
        pick(store, add_pairs(4))
        round_ = store.request_round(session.id)
        assert store.claim_round().state == "running"
        assert store.pause_round(round_.id).state == "paused"
        assert store.claim_round() is None
        assert store.resume_round(round_.id).state == "queued"
        assert store.claim_round().id == round_.id
        assert store.stop_round(round_.id).state == "stopping"
        assert store.claim_round().state == "stopping"  # the worker that was told has died
        assert store.update_round(round_.id, state="stopped").finished_at_s is not None
        assert store.resume_round(round_.id).state == "stopped"
        assert store.update_round(round_.id, state="running").state == "stopped"
        with pytest.raises(StoreError, match="ended before"):
            finish(store, session.id, round_)
        assert store.adapters(session.id) == []

    @pytest.mark.parametrize(("pairs_by", "kept"), [("newest", 2), ("base", 6)])
    def test_finishing_uses_the_adapter_and_leaves_what_it_would_not_draw_anew(
        self, store, session, add_pairs, pairs_by, kept
    ):
        store.update_settings(session.id, replace(session.settings, pairs_by=pairs_by))
        pick(store, add_pairs(4))
        waiting = add_pairs(6)
        round_ = store.request_round(session.id)
        done, adapter = finish(store, session.id, round_)
        assert (done.state, done.adapter_id) == ("done", adapter.id)
        assert store.session(session.id).current_adapter_id == adapter.id
        assert store.adapters(session.id) == [adapter]
        assert store.waiting_pairs(session.id) == waiting[:kept]
        assert store.set_current_adapter(session.id, None).current_adapter_id is None
        other = store.create_session("Other", SessionSettings())
        with pytest.raises(StoreError, match="does not belong"):
            store.set_current_adapter(other.id, adapter.id)

    def test_a_round_that_kills_the_worker_is_given_up(self, store, session, add_pairs):
        pick(store, add_pairs(4))
        round_ = store.request_round(session.id)
        for update in range(1, 6):  # it gets further every time
            assert store.claim_round().id == round_.id
            store.add_metric(round_.id, update, {"loss": 0.5})
        for _ in range(2):  # and then no further, whatever is measured again
            assert store.claim_round().id == round_.id
            store.add_metric(round_.id, 4, {"loss": 0.5})
        assert store.claim_round() is None
        assert store.round(round_.id).state == "failed"
        assert "stopped 3 times" in store.round(round_.id).message

    def test_a_live_session_is_due_once_for_its_picks(self, store, session, add_pairs):
        pick(store, add_pairs(3))
        assert store.due_session() is None
        pick(store, add_pairs(1))
        assert store.due_session() == session.id
        round_ = store.request_round(session.id)
        assert store.due_session() is None
        assert store.pick_counts(session.id).new == 0
        store.update_round(round_.id, state="failed", message="Something happened.")
        assert store.due_session() is None  # not again and again for the same picks
        pick(store, add_pairs(4))
        assert store.pick_counts(session.id).new == 4
        assert store.due_session() == session.id
        store.update_settings(session.id, replace(session.settings, live=False))
        assert store.due_session() is None

    def test_metrics_are_kept_once_an_update(self, store, session, add_pairs):
        pick(store, add_pairs(4))
        round_ = store.request_round(session.id)
        for update, loss in ((1, 0.7), (2, 0.6), (1, 0.5)):
            store.add_metric(round_.id, update, {"loss": loss, "margin": float("nan")})
        kept = store.metrics(round_.id)
        assert [(one.update, one.values["loss"]) for one in kept] == [(1, 0.5), (2, 0.6)]
        assert store.round(round_.id).updates_done == 2


class TestJobs:
    def test_jobs_are_claimed_in_order_and_finish_once(self, store, session):
        first, second = (store.add_job(session.id, "preview", {"name": n}) for n in "ab")
        assert store.claim_job().id == first.id
        assert store.update_job(first.id, progress=0.5, message="Half.").progress == 0.5
        store.cancel_job(first.id)
        assert store.update_job(first.id, state="done", result={"note": "x"}).state == "cancelled"
        assert store.claim_job().payload == {"name": "b"}
        assert store.update_job(second.id, state="done", result={"note": "x"}).result == {
            "note": "x"
        }
        assert [job.id for job in store.jobs(session.id)] == [second.id, first.id]
        assert store.jobs(session.id, "export") == []

    def test_a_job_that_kills_the_worker_is_given_up(self, store, session):
        job = store.add_job(session.id, "inspect", {})
        store.claim_job()
        store.requeue_running()
        assert store.claim_job().id == job.id
        store.requeue_running()
        assert store.claim_job() is None
        assert store.job(job.id).state == "failed"

    def test_an_unknown_kind_or_field_is_refused(self, store, session):
        with pytest.raises(StoreError, match="A job is one of"):
            store.add_job(session.id, "format_disk", {})
        job = store.add_job(session.id, "preview", {})
        with pytest.raises(TypeError):
            store.update_job(job.id, session_id="x")

    def test_exports(self, store, session, add_pairs):
        pick(store, add_pairs(4))
        _, adapter = finish(store, session.id, store.request_round(session.id))
        export = Export(
            "e", session.id, adapter.id, "n", ("a", "b"), {"n.safetensors": "whole"}, time.time()
        )
        store.add_export(export)
        assert store.exports(session.id) == [export]


def test_images_are_found_by_purpose_and_adapter(store, session):
    base = store.add_image(make_image(store, session.id, purpose="preview"))
    store.add_image(make_image(store, session.id, purpose="compare"))
    assert store.images(session.id, "preview") == [base]
    assert store.images(session.id, "preview", adapter_id=None) == [base]
    assert store.images(session.id, "preview", adapter_id="x") == []
    assert store.image(base.id) == base


def test_a_large_picture_has_a_smaller_copy_for_the_screen(store, session):
    small = make_image(store, session.id)
    large = make_image(store, session.id, sampling=SamplingSettings(width_px=1024))
    assert store.display_path(small) == store.image_path(small)
    assert store.display_path(large).suffix == ".jpg"


def test_version_changes_with_every_change_and_with_no_mere_heartbeat(store, home):
    seen = {store.version()}
    other = Store.open(home)
    session = other.create_session("A", SessionSettings())
    seen.add(store.version())
    status = WorkerStatus(1, "idle", "Waiting.", "cpu", 1.0)
    other.set_worker_status(status)
    seen.add(store.version())
    assert len(seen) == 3
    other.set_worker_status(replace(status, heartbeat_at_s=2.0))
    assert store.worker_status().heartbeat_at_s == 2.0
    assert store.version() in seen
    other.set_worker_status(replace(status, message="Training."))
    assert store.version() not in seen
    seen.add(store.version())
    assert other.claim_job() is None  # finding nothing changes nothing
    assert store.version() in seen
    other.set_last_session(session.id)
    assert store.version() not in seen
    other.close()


def test_files_without_a_row_are_set_aside(store, session, add_pairs, home):
    (pair,) = add_pairs(1)
    kept = store.image_path(pair.left)
    orphans = [
        kept.with_name("0123.png"),
        store.trajectory_path(pair.left).with_name(".writing-x.safetensors"),
        store.session_path(session.id) / "adapters" / "gone" / "adapter_model.safetensors",
        store.session_path("unknown") / "images" / "1.png",
    ]
    for path in (kept, *orphans):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert len(set_orphans_aside(store)) == 4
    assert kept.exists()
    for path in orphans:
        assert not path.exists()
        assert (home / "aside" / path.relative_to(home)).read_bytes() == b"x"
    assert set_orphans_aside(store) == []


@pytest.mark.parametrize("name", [field.name for field in fields(SamplingSettings)])
def test_a_round_is_of_pictures_that_may_share_one(store, session, name):
    """Two picks of before and one of pictures that were made otherwise: which are counted."""
    before = [make_pair(store, session.id) for _ in range(2)]
    other = replace(SamplingSettings(), **{name: OTHER_SAMPLING[name]})
    newest = make_pair(store, session.id, sampling=other)
    for pair in (*before, newest):
        store.add_answer(pair.id, pair.id, "left")
    assert store.pick_counts(session.id).new == (3 if name in ("seed", "shared_noise") else 1)
