"""Jobs: requests of the artist from a page, such as a comparison or an export."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from studio import datasets
from studio.durations import with_time_left
from studio.engine.distributed import ProcessLost
from studio.lora import format as lora_format
from studio.lora.export import file_name
from studio.paths import expanded
from studio.settings import StartLora
from studio.store import Job, Session, Store, StoreError
from studio.worker.best_of import draw_best_first
from studio.worker.disk_space import require_disk_space
from studio.worker.exporting import write_export
from studio.worker.folder_reading import read_folder
from studio.worker.judge import let_pick
from studio.worker.mixing import Mix, mix_of, mix_of_exam, read_mix
from studio.worker.model_library import describe, scan
from studio.worker.own_art import read_own_art
from studio.worker.pair_queue import PairQueue
from studio.worker.renderer import Renderer
from studio.worker.status import StatusReporter
from studio.worker.wanted import Cancelled

MOST_REMARKS = 50  # shown of the picks left out of an import


class Jobs:
    """Does jobs in the order of their requests."""

    def __init__(
        self,
        store: Store,
        renderer: Renderer,
        pair_queue: PairQueue,
        status: StatusReporter,
        stopping: threading.Event,
    ) -> None:
        self.store, self.renderer, self.pair_queue, self.status = (
            store,
            renderer,
            pair_queue,
            status,
        )
        self.stopping = stopping

    def run_next(self) -> bool:
        """Do the oldest job; False if there is none."""
        self.store.requeue_running()  # left by an earlier worker
        job = self.store.claim_job()
        if job is None:
            return False
        do = {
            "preview": self._do_preview,
            "compare": self._do_compare,
            "exam": self._do_exam,
            "grid": self._do_grid,
            "best_of": self._do_best_of,
            "export": self._do_export,
            "inspect": self._do_inspect,
            "library": self._do_library,
            "fit": self._do_fit,
            "give_picks": self._do_give_picks,
            "take_picks": self._do_take_picks,
            "read_folder": self._do_read,
            "read_own": self._do_read,
            "judge": self._do_judge,
        }[job.kind]
        try:
            with self.renderer.while_wanted(lambda: self._require_wanted(job)):
                result = do(job, self.store.session(job.session_id))
        except Cancelled:
            return True
        except ProcessLost:
            raise  # the next worker takes the job again
        except Exception as error:
            self.store.update_job(job.id, state="failed", message=self.status.sentence(error))
        else:
            self.store.update_job(
                job.id, state="done", progress=1.0, message="Done.", result=result
            )
        self.renderer.give_memory_back()
        return True

    def _say(
        self, job: Job, what: str, done: int, total: int, unit_s: float | None, **fields: Any
    ) -> Job:
        """Show what of a job is done next, and how long all that is left takes."""
        left_s = None if unit_s is None else unit_s * (total - done)
        message = with_time_left(f"{what} {min(done + 1, total)} of {total}", left_s)
        share = done / max(total, 1)
        return self.store.update_job(job.id, progress=share, message=message, **fields)

    def _report(
        self,
        job: Job,
        done: int,
        total: int,
        result: dict[str, Any],
        session: Session,
        what: str = "picture",
        pictures: int = 1,
    ) -> None:
        """Show a job's progress before each picture (or set of `pictures`), and check for
        cancellation and the queue."""
        picture_s = self.renderer.picture_s(session)
        unit_s = None if picture_s is None else picture_s * pictures
        self._stay(self._say(job, f"Drawing {what}", done, total, unit_s, result=result))

    def _require_wanted(self, job: Job) -> None:
        """Raise Cancelled if the artist has cancelled the job, or the worker ends."""
        if self.store.job(job.id).state == "cancelled":
            raise Cancelled
        if self.stopping.is_set():
            self.store.update_job(job.id, state="queued")
            raise Cancelled

    def _stay(self, job: Job) -> None:
        """Raise Cancelled if the job is no longer wanted; else top up the queue of pairs."""
        self._require_wanted(job)
        self.pair_queue.keep_pairs_ready()

    def _do_preview(self, job: Job, session: Session) -> dict[str, Any]:
        """{"prompts", "adapter_id"} → {"image_ids", "unread"}: pictures of the fixed prompts, and
        the end of each prompt that is too long for the text encoder."""
        shown = job.payload["prompts"]
        denoiser = self.renderer.model_of(session)
        written = (*session.settings.prompts, session.settings.sampling.negative_prompt)
        ends = {prompt: denoiser.text.unread(prompt) for prompt in written}
        unread = {prompt: end for prompt, end in ends.items() if end}
        result: dict[str, Any] = {"image_ids": [], "unread": unread}
        unit_s = self.renderer.picture_s(session)
        self._say(job, "Drawing picture", 0, len(shown), unit_s)  # this one comes before any pair
        for done, prompt in enumerate(shown, start=1):
            image = self.renderer.draw(
                self.renderer.preview(session, prompt, job.payload["adapter_id"])
            )
            result["image_ids"].append(image.id)
            self._report(job, done, len(shown), result, session)
        return result

    def _do_compare(self, job: Job, session: Session) -> dict[str, Any]:
        """{"prompts", "seeds", "adapter_id", "strength", "mix", "other"} → {"cells", "mix", "fit"},
        each cell with base, tuned (mixed with others, perhaps) and, if another LoRA file is named,
        the base with that."""
        wanted = [
            (self.renderer.expand(prompt, seed), seed)
            for prompt in job.payload["prompts"]
            for seed in job.payload["seeds"]
        ]
        adapter_id, strength = job.payload["adapter_id"], job.payload["strength"]
        result: dict[str, Any] = {"cells": []}
        other = None
        pictures = 3 if job.payload.get("other") else 2
        self.renderer.model_of(session)
        self._report(job, 0, len(wanted), result, session, "comparison", pictures)
        if job.payload.get("other"):
            lora = StartLora.from_dict(job.payload["other"])
            file = lora_format.read(expanded(lora.path))
            other = Mix(self.renderer, (), ((file, lora.strength),), "")
            result["fit"] = self.renderer.model_of(session).fit(file).words
        if mix := read_mix(self.renderer, session, job.payload):
            result["mix"] = f"{mix.words}. {mix.remarks}".strip()
        for done, (prompt, seed) in enumerate(wanted, start=1):
            question = (session, "compare", prompt, seed)
            base = self.renderer.draw(self.renderer.image(*question, None))
            if mix:
                tuned = self.renderer.draw(mix.image(session, prompt, seed), mix.applied())
            else:
                tuned = self.renderer.draw(self.renderer.image(*question, adapter_id, strength))
            cell = {"prompt": prompt, "seed": seed, "base": base.id, "tuned": tuned.id}
            if other:
                shown = other.image(session, prompt, seed)
                cell["other"] = self.renderer.draw(shown, other.applied()).id
            result["cells"].append(cell)
            self._report(job, done, len(wanted), result, session, "comparison", pictures)
        return result

    def _do_grid(self, job: Job, session: Session) -> dict[str, Any]:
        """{"prompts", "seeds", "adapter_ids", "strengths", "mixes"} → {"image_ids"}, the last
        varying first. An adapter's id may be that of one of the mixes.

        At strength 0 every adapter is the base model, which is drawn once.
        """
        axes = ("prompts", "seeds", "adapter_ids", "strengths")
        wanted = list(itertools.product(*(job.payload[axis] for axis in axes)))
        given = job.payload.get("mixes", {})
        mixes = {id_: mix_of(self.renderer, session, mix["parts"]) for id_, mix in given.items()}
        for adapter_id in job.payload["adapter_ids"]:
            if adapter_id not in mixes:
                self.renderer.require_base(session, self.store.adapter(adapter_id))
        result: dict[str, Any] = {"image_ids": []}
        self._report(job, 0, len(wanted), result, session)
        for done, (prompt, seed, adapter_id, strength) in enumerate(wanted, start=1):
            text = self.renderer.expand(prompt, seed)
            if adapter_id in mixes and strength:
                mix = mixes[adapter_id].scaled(strength)
                image = self.renderer.draw(mix.image(session, text, seed), mix.applied())
            else:
                tuned = (adapter_id, strength) if strength else (None,)
                wish = self.renderer.image(session, "compare", text, seed, *tuned)
                image = self.renderer.draw(wish)
            result["image_ids"].append(image.id)
            self._report(job, done, len(wanted), result, session)
        return result

    def _do_best_of(self, job: Job, session: Session) -> dict[str, Any]:
        """{"prompts", "seeds", "adapter_id", "strength"} → {"image_ids"}, the best first."""
        total = len(job.payload["seeds"])

        def report(done: int, result: dict[str, Any]) -> None:
            self._report(job, done, total, result, session)

        return draw_best_first(self.renderer, self.store, session, job.payload, report)

    def _do_exam(self, job: Job, session: Session) -> dict[str, Any]:
        """{"exam_id"} → {}: draws the missing pictures; a pair is asked once it has both."""
        exam = self.store.exam(job.payload["exam_id"])
        self.renderer.require_base(session, self.store.adapter(exam.adapter_id))
        mix = mix_of_exam(self.renderer, session, exam)
        as_begun = replace(session, settings=replace(session.settings, sampling=exam.sampling))
        self._report(job, 0, len(exam.pairs), {}, as_begun, "pair", 2)
        for done, pair in enumerate(exam.pairs, start=1):
            if not pair.is_drawn:
                question = (as_begun, "exam", pair.prompt, pair.seed)
                base = self.renderer.draw(self.renderer.image(*question, None))
                if mix is None:
                    wish = self.renderer.image(*question, exam.adapter_id, exam.strength)
                    tuned = self.renderer.draw(wish)
                else:
                    wish = mix.image(as_begun, pair.prompt, pair.seed, "exam")
                    tuned = self.renderer.draw(wish, mix.applied())
                self.store.set_exam_pictures(pair.id, base.id, tuned.id)
            self._report(job, done, len(exam.pairs), {}, as_begun, "pair", 2)
        return {}

    def _do_export(self, job: Job, session: Session) -> dict[str, Any]:
        """{"adapter_id", "name", "formats", "mix", "rank", …} → {"export_id"}: checked LoRA files
        of an adapter, or of a mix that it takes part in."""
        self.status.report("exporting", f"Exporting {job.payload['name']}.")

        def say_next(done: int, drawings: int) -> None:
            unit_s = self.renderer.picture_s(session)
            self._say(job, "Drawing test picture", done, drawings, unit_s)

        export = write_export(self.renderer, self.store, session, job.payload, say_next)
        return {"export_id": export.id, "files": list(export.files), "checks": export.checks}

    def _do_give_picks(self, job: Job, session: Session) -> dict[str, Any]:
        """{"form"} → {"folder", "picks", "left_out"}: a new folder for other programs."""
        form, picked = job.payload["form"], self.store.picked_pairs(session.id)
        # Each pair has its own copies, also of a picture that belongs to several pairs of a grid.
        paths = [self.store.image_path(side) for row in picked for side in row.images]
        needed = sum(path.stat().st_size for path in paths if path.is_file())
        require_disk_space(self.store.home, needed)
        stem = f"{file_name(session.name)}-{form}"
        names = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
        folder = next(
            path for name in names if not (path := self.store.home / "picks" / name).exists()
        )
        done, left_out = datasets.write(folder, form, picked, self.store.image_path)
        return {"folder": str(folder), "picks": done, "left_out": left_out}

    def _do_take_picks(self, job: Job, session: Session) -> dict[str, Any]:
        """{"path"} → {"session_id", "name", "picks", "left_out", "remarks"}: a new session with
        the model and size of the present one."""
        if earlier := job.result.get("session_id"):
            with contextlib.suppress(StoreError):  # incomplete, by a worker that was killed
                self.store.delete_session(earlier)
        path = expanded(job.payload["path"])
        given = datasets.read(path)  # a quick refusal, before a model is loaded
        settings = session.settings
        denoiser = self.renderer.model_of(session)

        def report(made: Session, done: int) -> None:
            require_disk_space(self.store.home)
            words = f"{done} read."
            self._stay(self.store.update_job(job.id, message=words, result={"session_id": made.id}))

        size_px = settings.sampling.width_px, settings.sampling.height_px
        taken = datasets.import_picks(
            self.store, denoiser, settings.base, path.stem, given, size_px, report
        )
        return {
            "session_id": taken.session.id,
            "name": taken.session.name,
            "picks": taken.picks,
            "left_out": taken.left_out,
            "remarks": list(taken.remarks[:MOST_REMARKS]),
        }

    def _do_read(self, job: Job, session: Session) -> dict[str, Any]:
        """{"path"} → {"pictures", "known", "left_out", "other_model", "other_size", "remarks"}:
        pictures of a folder, copied into the session. Or {"path", "caption"} → {"pictures",
        "known", "left_out", "remarks"}: the artist's own art; drawings beside it follow while there
        is nothing else to do. What was read stays when it is cancelled."""
        about = self.renderer, self.store, session, job.payload["path"]
        report = self._count_read(job)
        if job.kind == "read_folder":
            self.status.report("starting", "Reading a folder of pictures.")
            return read_folder(*about, report)
        self.status.report("starting", "Reading your own art.")
        return read_own_art(*about, job.payload["caption"], report)

    def _count_read(self, job: Job) -> Callable[[int, int], None]:
        """Shows how many of how many files were read."""

        def report(done: int, total: int) -> None:
            words = f"{done} of {max(total, 1)} read."
            self._stay(self.store.update_job(job.id, progress=done / max(total, 1), message=words))

        return report

    def _do_judge(self, job: Job, session: Session) -> dict[str, Any]:
        """{"judge", "picks"} → {"picks", "name"}: a function picks in the artist's place."""
        wanted = job.payload["picks"]

        def report(done: int) -> None:
            words = f"{done} of {wanted} picks"
            progress = {"progress": done / wanted, "message": words, "result": {"picks": done}}
            self._require_wanted(self.store.update_job(job.id, **progress))

        done = job.result.get("picks", 0)
        return let_pick(self.store, self.pair_queue, session, job.payload, done, report)

    def _do_inspect(self, job: Job, session: Session) -> dict[str, Any]:
        """{"path"} → the description of a model, without loading its weights."""
        self.status.report("starting", "Reading a model's file.")
        return describe(self.store, job.payload["path"])

    def _do_library(self, job: Job, session: Session) -> dict[str, Any]:
        """{} → {"models", "others", "problems"}: the models in the artist's folders."""
        self.status.report("starting", "Looking for models.")
        return scan(self.store, self._count_read(job))

    def _do_fit(self, job: Job, session: Session) -> dict[str, Any]:
        """{"path"} → how a LoRA file fits the session's base model, which is not changed."""
        self.status.report("starting", "Reading a LoRA file.")
        file = lora_format.read(expanded(job.payload["path"]))
        fit = self.renderer.model_of(session).fit(file)
        return {"name": fit.name, "words": fit.words}
