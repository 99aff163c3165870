"""Two processes on the CPU, started as on two GPUs, and what they learn together."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio import models
from studio.engine import sampling
from studio.engine.distributed import SINGLE_PROCESS, ProcessGroup, process_group
from studio.engine.orders import counted
from studio.engine.training import Training, TrainingFailed
from studio.engine.trajectory import PairBatch, load
from studio.prompting.mismatched import mismatched
from studio.runtime.supervisor import worker_command
from studio.settings import OBJECTIVES, SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store
from studio.worker import follower
from studio.worker.loop import Worker
from tests.support.loras import random_adapter
from tests.support.processes import PATIENCE_S, together, wait_for

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64)
PROMPTS = ["a cat", "a dog", "a fish", "a bird", "a fox"]


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that are started here have: sums are in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(kind: str) -> TrainingSettings:
    """Updates of three pairs, so that one process has two of them and the other one."""
    few = {"updates_base": 4, "updates_per_pick": 0, "batch_pairs": 3, "micro_batch_pairs": 2}
    return replace(OBJECTIVES[kind], rank=2, seed=1, **few)


def learn(model: str, processes: ProcessGroup) -> dict[str, torch.Tensor]:
    """The gradient of the first update and the adapter of the last, of every kind."""
    denoiser = models.load(model, "cpu")
    chains = sampling.sample_pairs(denoiser, PROMPTS, [*range(5)], SAMPLING)
    chains[1] = [replace(one, prompt=PROMPTS[0]) for one in chains[1]]  # in a grid with the first
    pairs, sure = PairBatch.of(chains), PairBatch.of(chains, certainty=[1, 0.75, 0.75, 1, 0.75])
    alone = PairBatch.of([*chains[:3], (chains[3][0], None), *((None, one) for one in chains[4])])
    grid = [(chains[0][0], chains[0][1]), (chains[0][0], chains[1][0])]
    lists = counted(PairBatch.of([*grid, *chains[2:]], wrong_prompts=mismatched), "list")
    other = random_adapter(denoiser, settings("diffusion_dpo"))
    found = {}
    for kind, objective, batch, beside in (
        ("d3po_balanced", "d3po_balanced", pairs, None),
        ("diffusion_dpo", "diffusion_dpo", pairs, None),
        ("sure", "diffusion_dpo", sure, None),
        ("alone", "diffusion_dpo", alone, None),
        ("lists", "diffusion_dpo", lists, None),
        ("beside", "diffusion_dpo", pairs, other),
    ):
        training = Training(
            denoiser, batch, settings(objective), processes=processes, beside=beside
        )
        loss, _ = training.gradient()
        found[f"{kind} loss"] = loss.mean()
        names = [name for name, p in denoiser.network.named_parameters() if p.requires_grad]
        for name, parameter in zip(names, training.parameters, strict=True):
            found[f"{kind} gradient {name}"] = parameter.grad.clone()
        found[f"{kind} grad_norm"] = torch.tensor([metrics.grad_norm for metrics in training])
        found |= {f"{kind} {name}": value for name, value in denoiser.adapters.state().items()}
    return found


def fail(model: str, processes: ProcessGroup) -> dict[str, torch.Tensor]:
    """An update in which the second process fails: the first hears of it."""
    denoiser = models.load(model, "cpu")
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, PROMPTS, [*range(5)], SAMPLING))
    training = Training(denoiser, pairs, settings("diffusion_dpo"), processes=processes)
    if not processes.is_main_process:
        denoiser.predict = None
    with pytest.raises(TrainingFailed if processes.is_main_process else TypeError) as failure:
        training.step()
    said = "Another of the worker's processes could not go on" in str(failure.value)
    return {"said": torch.tensor(said)}


def draw(model: str, processes: ProcessGroup) -> dict[str, torch.Tensor]:
    """Five pairs of the base and five with an adapter, while a round is at hand; and in between
    one that the others cannot draw."""
    if not processes.is_main_process:
        follower.run(processes, "cpu")
        return {}
    denoiser = models.load(model, "cpu")
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, PROMPTS[:2], [1, 2], SAMPLING))
    denoiser.adapters.new(settings("d3po_balanced"))
    for parameter in denoiser.adapters.parameters():
        torch.nn.init.constant_(parameter, 0.05)
    with tempfile.TemporaryDirectory() as folder:
        denoiser.adapters.save(Path(folder))
        adapter = denoiser.adapters.read(Path(folder))
    order = follower.SamplePairs(
        base=(model, None),
        base_hash=denoiser.base_hash,
        adapter=None,
        texts=PROMPTS,
        seeds=[*range(5)],
        sampling=SAMPLING,
        pictures=2,
    )
    found = {}
    if processes.size > 1:
        with pytest.raises(models.ModelError, match=r"could not draw\..*no model at"):
            follower.sample_pairs(processes, denoiser, replace(order, base=("/nowhere", None)))
    training = Training(denoiser, pairs, settings("d3po_balanced"), processes=processes)
    follower.start_round(processes, (model, None), training)
    for name, one in (("base", order), ("tuned", replace(order, adapter=adapter))):
        groups = follower.sample_pairs(processes, denoiser, one)
        for place, (left, right) in enumerate(groups):
            assert left.prompt == right.prompt == PROMPTS[place]
            found[f"{name} {place}"] = torch.stack([left.latents, right.latents])
    for _ in range(2):
        processes.broadcast(follower.UPDATE)
        training.step()
    processes.broadcast(follower.LEAVE)
    return found


def work(kind: str, model: str, path: Path) -> None:
    """One of two processes; what the leader finds goes to `path`."""
    with process_group() as processes:
        result = {"learn": learn, "fail": fail, "draw": draw}[kind](model, processes)
        if processes.is_main_process:
            save_file(result, path)


def found_by_two(kind: str, model: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    path = tmp_path / "found.safetensors"
    together(2, work, kind, str(model), path)
    return load_file(path)


def test_two_processes_give_the_gradient_of_one(tiny_model, tmp_path):
    expected = learn(str(tiny_model), SINGLE_PROCESS)
    found = found_by_two("learn", tiny_model, tmp_path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
        if " gradient " in name and value.any():  # not only small: the same
            assert (found[name] - value).norm() < 1e-4 * value.norm(), name


def test_a_process_that_fails_says_so_to_the_other(tiny_model, tmp_path):
    assert found_by_two("fail", tiny_model, tmp_path)["said"]


def test_two_processes_draw_what_one_does_to_the_bit(tiny_model, tmp_path):
    expected = draw(str(tiny_model), SINGLE_PROCESS)
    found = found_by_two("draw", tiny_model, tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(found["base 0"], found["tuned 0"])


# --- a worker of two processes -------------------------------------------------------------------

DRAWN_FIRST, DRAWN = 8, 13  # pairs


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with eight picks, in which five pairs are to be drawn; to be copied."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    with contextlib.closing(Store.open(home)) as store:
        wanted = SessionSettings(
            base_model=str(tiny_model),
            prompts=("a cat", "a dog"),
            sampling=SAMPLING,
            training=TrainingSettings(rank=2, updates_base=6, updates_per_pick=0),
            live=False,
            queue_target=DRAWN_FIRST,
        )
        session = store.create_session("Tiny", wanted)
        store.set_last_session(session.id)
        worker = Worker(store, "cpu")
        while worker.work():
            pass
        for number, pair in enumerate(store.waiting_pairs(session.id, 100)):
            store.add_answer(f"pick{number}", pair.id, "left" if number % 3 else "right")
        store.update_settings(session.id, replace(wanted, queue_target=DRAWN - DRAWN_FIRST))
    return home


def drawn(store: Store) -> set[tuple[str, int, bytes]]:
    """Prompt, seed and latents of the pairs that wait."""
    pairs = store.waiting_pairs(store.last_session_id(), 100)
    shown = [image for pair in pairs for image in (pair.left, pair.right)]
    # not of the files, whose headers are in any order
    return {
        (one.prompt, one.seed, load(store.trajectory_path(one)).latents.numpy().tobytes())
        for one in shown
    }


def adapter(store: Store) -> dict[str, torch.Tensor]:
    [made] = store.adapters(store.last_session_id())
    return load_file(store.adapter_path(made) / "adapter_model.safetensors")


def test_a_worker_of_two_processes_draws_and_learns_what_one_does(prepared, tmp_path):
    """Started as `accelerate launch` does on a machine with two GPUs, and told to end."""
    homes = [shutil.copytree(prepared, tmp_path / name) for name in ("one", "two")]
    with contextlib.closing(Store.open(homes[0])) as store:
        session_id = store.last_session_id()
        worker = Worker(store, "cpu")
        while worker.work():
            pass
        expected_pairs = drawn(store)
        store.request_round(session_id)
        while not store.adapters(session_id):
            assert worker.work()
        expected = adapter(store)
    assert len(expected_pairs) == 2 * (DRAWN - DRAWN_FIRST)

    process = subprocess.Popen(
        [*worker_command(homes[1], processes=2), "--device", "cpu"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with contextlib.closing(Store.open(homes[1])) as store:
        try:
            wait_for(lambda: store.waiting_count(session_id) == DRAWN - DRAWN_FIRST, process)
            assert drawn(store) == expected_pairs
            store.request_round(session_id)
            wait_for(lambda: store.adapters(session_id), process)
            found = adapter(store)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        [round_] = store.rounds(session_id)
        assert (round_.state, round_.message) == ("done", "Done.")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
