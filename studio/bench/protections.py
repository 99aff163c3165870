"""Mutation test: every protection is removed from the code, one at a time, and a test must fail.

    python launch.py bench protections

The studio and its tests are copied, a protection is removed from the copy, and its tests in the
table run there. The command fails if they still pass. First all tests run on the unchanged copy,
where they must pass. The file is long because of its table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("studio", "tests", "assets", "launch.py", "pyproject.toml")


@dataclass(frozen=True)
class Protection:
    """A replacement in a file that removes a protection, and the test that must fail then."""

    what: str
    file: str
    code: str
    without: str
    test: str


PROTECTIONS = (
    Protection(
        "the guard around every route",
        "studio/ui/app.py",
        "    app.add_middleware(Guard, auth=auth)\n",
        "",
        "tests/ui/test_app.py::test_any_other_host_is_refused",
    ),
    Protection(
        "a request cannot claim another sender",
        "studio/ui/guard.py",
        '            scope = {**scope, "headers": headers}\n',
        "            scope = {**scope}\n",
        "tests/ui/test_guard.py::test_what_a_request_says_of_its_sender_is_not_believed",
    ),
    Protection(
        "only the socket's address is counted",
        "studio/ui/app.py",
        "        proxy_headers=False,",
        "        proxy_headers=True,",
        "tests/ui/test_guard.py::test_wrong_passwords_are_counted_whatever_they_say_of_their_sender",
    ),
    Protection(
        "a wait after ten wrong passwords",
        "studio/ui/guard.py",
        "        if self._count(sender) >= MOST_ATTEMPTS:\n",
        "        if False:\n",
        "tests/ui/test_guard.py::test_wrong_passwords_are_counted_whatever_they_say_of_their_sender",
    ),
    Protection(
        "many addresses cannot guess faster than a few",
        "studio/ui/guard.py",
        "self._count(EVERYBODY) >= MOST_ATTEMPTS_OF_ALL",
        "False",
        "tests/ui/test_guard.py::test_many_addresses_guess_no_faster_than_a_few",
    ),
    Protection(
        "a browser that knew the password is never made to wait",
        "studio/ui/guard.py",
        "        return cookie if self.is_ours(cookie) else address\n",
        "        return address\n",
        "tests/ui/test_guard.py::test_nobody_locks_out_a_browser_that_knew_the_password",
    ),
    Protection(
        "a page runs only its own scripts",
        "studio/ui/guard.py",
        "\"script-src 'self' 'unsafe-eval' blob:{scripts}\"",
        "\"script-src 'self' 'unsafe-eval' 'unsafe-inline' blob:\"",
        "tests/ui/test_app.py::test_a_page_runs_only_the_scripts_that_it_was_served_with",
    ),
    Protection(
        "fixed content types of files",
        "studio/ui/images.py",
        "    kind = TYPES.get(path.suffix, BYTES)\n",
        "    kind = None\n",
        "tests/ui/test_guard.py::test_what_an_archive_brought_is_only_to_be_saved",
    ),
    Protection(
        "only the program's own files have an executable content type",
        "studio/ui/guard.py",
        '        headers["content-type"] = BYTES\n',
        "",
        "tests/ui/test_guard.py::test_only_the_programs_own_files_have_a_type_that_runs",
    ),
    Protection(
        "foreign files are in a sandbox",
        "studio/ui/guard.py",
        '    headers["Content-Security-Policy"] = FOREIGN_POLICY\n',
        "",
        "tests/ui/test_guard.py::test_only_the_programs_own_files_have_a_type_that_runs",
    ),
    Protection(
        "a limit on connections with incomplete requests",
        "studio/ui/connections.py",
        "        if len(self.connections) > MOST_CONNECTIONS:\n",
        "        if False:\n",
        "tests/ui/test_guard.py::test_there_are_never_more_connections_than_there_is_room_for",
    ),
    Protection(
        "a time limit for incomplete requests",
        "studio/ui/connections.py",
        "        if not self.is_let_in:\n            self._end()\n",
        "        pass\n",
        "tests/ui/test_guard.py::test_a_drop_at_a_time_is_too_slow_as_well",
    ),
    Protection(
        "a time limit for request bodies",
        "studio/ui/guard.py",
        "asyncio.wait_for(receive(), BODY_PATIENCE_S)",
        "receive()",
        "tests/ui/test_guard.py::test_a_body_that_does_not_come_is_not_waited_for",
    ),
    Protection(
        "a request body has one length",
        "studio/ui/guard.py",
        '        if "transfer-encoding" in headers and "content-length" in headers:\n',
        "        if False:\n",
        "tests/ui/test_guard.py::test_no_framing_carries_more_than_there_is_room_for",
    ),
    Protection(
        "a refused request is not read to its end",
        "studio/ui/guard.py",
        '    refusal.headers["Connection"] = "close"\n',
        "",
        "tests/ui/test_guard.py::test_before_the_password_no_body_is_read",
    ),
    Protection(
        "received bytes are counted",
        "studio/ui/guard.py",
        "return message if received <= most_bytes else",
        "return message if received <= 2 * most_bytes else",
        "tests/ui/test_guard.py::test_a_body_of_no_said_length_is_counted",
    ),
    Protection(
        "the studio starts with any network variables",
        "studio/cli/serve.py",
        "    with without_network_variables():\n",
        "    with contextlib.nullcontext():\n",
        "tests/cli/test_cli.py::test_what_the_environment_says_of_the_network_keeps_it_from_nothing",
    ),
    Protection(
        "a failing print does not end the work",
        "studio/cli/errors.py",
        '            stream.reconfigure(errors="backslashreplace")\n',
        "            pass\n",
        "tests/cli/test_cli.py::test_no_print_ends_the_work",
    ),
    Protection(
        "a file is on the disk before it gets its name",
        "studio/files.py",
        "            _sync(path)\n",
        "            pass\n",
        "tests/test_files.py",
    ),
    Protection(
        "a file's name is on the disk before its row",
        "studio/files.py",
        "        _sync(folder)\n",
        "        pass\n",
        "tests/test_files.py",
    ),
    Protection(
        "the checksum of files that are read",
        "studio/store/files.py",
        "    if expected and files.sha256(path) != expected:\n",
        "    if False:\n",
        "tests/store/test_doctor.py::test_files_are_compared_and_the_damaged_set_aside",
    ),
    Protection(
        "a pickled textual inversion is not opened",
        "studio/models/inversions.py",
        "        if _is_pickle(path):\n",
        "        if not path:\n",
        "tests/models/test_companions.py::test_a_broken_one_is_a_sentence_when_it_is_named_and_else_nothing",
    ),
    Protection(
        "no pickles and programs are fetched from the hub",
        "studio/models/hub.py",
        "            return texts, [name for part in parts for name in found[part]]\n",
        "            return texts, [name for name in names if name not in texts]\n",
        "tests/models/test_hub.py::test_a_model_comes_with_progress_and_draws_as_its_folder_does",
    ),
    Protection(
        "a session draws only with its own model",
        "studio/worker/renderer.py",
        "        elif actual != expected:\n",
        "        elif not actual:\n",
        "tests/ui/test_library.py::test_a_session_remembers_its_model_and_says_when_it_has_changed",
    ),
    Protection(
        "only pictures of known models are served",
        "studio/ui/images.py",
        "        known = store.known_model(model)  # no other file is served\n",
        "        from studio.store import KnownModel\n\n"
        "        known = KnownModel(model, '', '', '', 0, 0, 0, preview=model)\n",
        "tests/ui/test_library.py::test_only_pictures_of_known_models_are_served",
    ),
    Protection(
        "a studio with a password runs no file as a judge",
        "studio/ui/tabs/export/judge.py",
        "    if not is_local:\n        raise SettingsError(_(NOT_HERE))\n",
        "",
        "tests/ui/tabs/test_judge.py::test_a_file_is_run_only_where_no_other_machine_is_let_in",
    ),
    Protection(
        "a page runs no file of another user as a judge",
        "studio/worker/judge.py",
        "    judging.require_own_file(reference)\n",
        "",
        "tests/worker/test_judge.py::test_a_file_of_ones_own_is_run_and_one_of_others_is_not",
    ),
    Protection(
        "a repeated request for a pick counts once",
        "studio/store/answers.py",
        "            if known is not None:\n",
        "            if False:\n",
        "tests/store/test_strength.py::test_sent_twice_is_kept_once_with_its_first_strength",
    ),
    Protection(
        "collapse detection: values that are not numbers, during training",
        "studio/engine/training.py",
        "        if not (math.isfinite(float(loss.mean())) and math.isfinite(float(grad_norm))):\n",
        "        if False:\n",
        "tests/engine/test_training.py::test_an_exploding_round_is_stopped_with_a_sentence",
    ),
    Protection(
        "collapse detection: values that are not numbers, after training",
        "studio/worker/rounds.py",
        "        if not all(bool(value.isfinite().all()) "
        "for value in denoiser.adapters.state().values()):\n",
        "        if False:\n",
        "tests/worker/test_worker.py::TestRounds"
        "::test_weights_that_are_no_numbers_never_become_an_adapter",
    ),
    Protection(
        "collapse detection: a round that ruined the model is held back",
        "studio/worker/round_checks.py",
        "message, held_back=bool(lost))",
        "message, held_back=False)",
        "tests/worker/test_worker.py::TestCollapse::test_a_ruined_adapter_is_not_used_and_a_gentle_one_is",
    ),
    Protection(
        "a held-out pick is never used for training",
        "studio/store/rounds.py",
        "        if question in held_before or (question not in trained_before and due):\n",
        "        if due:\n",
        "tests/store/test_store.py::TestRounds::test_held_out_once_is_held_out_for_ever",
    ),
    Protection(
        "a round learns from all picks, not only from new ones",
        "studio/store/rounds.py",
        "    usable = [one for one in picked if one.pick.id in learnable]\n",
        "    learned = {id_ for one in earlier for id_ in one.train_pick_ids}\n"
        "    usable = [one for one in picked if one.pick.id in learnable - learned]\n",
        "tests/store/test_store.py::TestRounds::test_held_out_once_is_held_out_for_ever",
    ),
    Protection(
        "an undone pick is no longer learned from",
        "studio/store/waiting.py",
        "is_last_pick = ~sa.exists().where(_later.c.supersedes == picks.c.id)\n",
        "is_last_pick = sa.true()\n",
        "tests/worker/test_worker.py::TestRepeating::test_a_pick_taken_back_is_out_of_the_weights",
    ),
    Protection(
        "the same picks and seed give the same adapter",
        "studio/engine/estimators.py",
        "np.random.SeedSequence(key)",
        "np.random.SeedSequence()",
        "tests/worker/test_worker.py::TestRepeating::test_the_same_picks_make_the_same_adapter",
    ),
    Protection(
        "a resumed round equals an uninterrupted one",
        "studio/engine/training.py",
        '        self.optimizer.load_state_dict(state["optimizer"])\n',
        "",
        "tests/engine/test_training.py::test_a_run_continued_from_its_state_is_the_run_itself",
    ),
    Protection(
        "pictures with other settings share no round",
        "studio/settings.py",
        '("seed", "shared_noise")',
        '("seed", "shared_noise", "clip_skip")',
        "tests/store/test_store.py::test_a_round_is_of_pictures_that_may_share_one",
    ),
    Protection(
        "a step equals diffusers' step",
        "studio/maths/schedules.py",
        "next_variance - s.square()",
        "next_variance + s.square()",
        "tests/maths/test_schedules.py::test_every_step_agrees_with_diffusers",
    ),
    Protection(
        "the lock against a second studio",
        "studio/store/lock.py",
        "            self._lock.acquire(timeout=0)\n",
        "",
        "tests/store/test_faults.py::TestLock",
    ),
    Protection(
        "an archive writes only the files of its rows",
        "studio/store/archive/reading.py",
        "        if not is_plain(name):\n",
        "        if False:\n",
        "tests/store/test_archive.py::test_a_hostile_archive_is_a_sentence_and_leaves_nothing",
    ),
    Protection(
        "a row of an archive has a shape that the studio writes",
        "studio/store/checked.py",
        "    if odd := odd_columns(table, row, stored=stored):\n",
        "    if False:\n",
        "tests/store/test_damaged_rows.py::test_the_archive_that_locked_the_artist_out",
    ),
    Protection(
        "an archive starts no round",
        "studio/store/counts.py",
        "    if mark is None:\n",
        "    if True:\n",
        "tests/store/test_damaged_rows.py::TestWhatAnArchiveSaysStartsNothing",
    ),
    Protection(
        "the gallery shows no picture of an open exam",
        "studio/store/gallery.py",
        "    found = [images.c.session_id == session_id, _is_no_secret(session_id)]\n",
        "    found = [images.c.session_id == session_id]\n",
        "tests/store/test_gallery.py::test_the_pictures_of_an_open_exam_are_a_secret",
    ),
    Protection(
        "the gallery erases no picture that something uses",
        "studio/store/deleting.py",
        "        if use := use_of(row):\n",
        '        if use := "":\n',
        "tests/store/test_deleting.py::test_what_something_uses_is_not_erased",
    ),
    Protection(
        "settings beyond measure are not parsed",
        "studio/pictures/comfyui.py",
        "    if len(prompt) > MOST_CHARACTERS:\n",
        "    if False:\n",
        "tests/pictures/test_programs.py::test_a_graph_that_cannot_be_read_is_a_sentence",
    ),
    Protection(
        "unwanted work is left between two blocks",
        "studio/models/denoiser.py",
        "                block.register_forward_pre_hook(lambda *_: self.require_wanted())\n",
        "                pass\n",
        "tests/worker/test_worker.py::TestRoundsThatAreLeft",
    ),
    Protection(
        "a round that is left before it is measured is measured later",
        "studio/engine/training.py",
        '            "scaled": self.is_scaled,\n',
        "",
        "tests/worker/test_ending.py"
        "::test_left_in_any_phase_of_a_round_it_goes_on_where_it_was[measuring-ended]",
    ),
    Protection(
        "a worker that is asked to end is not one that died of its work",
        "studio/worker/ending.py",
        "            store.give_work_back()  # the request is no fault of the work\n",
        "            pass\n",
        "tests/worker/test_ending.py"
        "::test_a_model_that_takes_for_ever_to_load_is_no_reason_to_stay",
    ),
    Protection(
        "a large picture is decoded in tiles",
        "studio/models/denoiser.py",
        " or height_px * width_px > MOST_UNTILED_PX",
        "",
        "tests/worker/test_worker.py"
        "::test_a_large_picture_is_decoded_in_tiles_and_left_between_two_of_them",
    ),
    Protection(
        "an adapter is checked before memory is allocated",
        "studio/models/adapters.py",
        "        if not state or not all(_fits(",
        "        if False and not all(_fits(",
        "tests/bench/test_hostile.py"
        "::test_an_adapter_of_a_huge_rank_is_refused_before_memory_is_asked_for_it",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch.py bench protections",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only protections whose name contains WORD"
    )
    arguments = parser.parse_args(argv)
    selected = [each for each in PROTECTIONS if arguments.only in each.what]
    red = {}
    with tempfile.TemporaryDirectory(prefix="protections-") as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name)
            else:
                shutil.copy(ROOT / name, copy / name)
        if failed := first_red(copy, *dict.fromkeys(each.test for each in selected)):
            print(f"{failed} fails on the unchanged code: mend it first.", file=sys.stderr)
            return 1
        for protection in selected:
            red[protection] = without(copy, protection)
            print(f"{protection.what}: {red[protection] or 'NO TEST FAILS'}", flush=True)
    print("\n| removed protection | failing test |\n|---|---|")
    for protection, test in red.items():
        print(f"| {protection.what} | {f'`{test}`' if test else '**none**'} |")
    return 0 if all(red.values()) else 1


def without(copy: Path, protection: Protection) -> str:
    """The first test that fails without a protection; "" if none does."""
    path = copy / protection.file
    code = path.read_text(encoding="utf-8")
    if code.count(protection.code) != 1:
        raise RuntimeError(
            f"{protection.file} has changed: update the code of “{protection.what}” in the table."
        )
    path.write_text(code.replace(protection.code, protection.without), encoding="utf-8")
    try:
        return first_red(copy, protection.test)
    finally:
        path.write_text(code, encoding="utf-8")


def first_red(copy: Path, *tests: str) -> str:
    """The first failing test; "" if none fails. The tests import the copy."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if done.returncode != 1 or not failed:
        raise RuntimeError(f"{tests} could not be run:\n{done.stdout[-2000:]}")
    return failed[0].split()[1]
