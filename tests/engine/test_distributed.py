"""Two processes on the CPU, started as on two GPUs, and what they learn together."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio import models
from studio.engine import sampling
from studio.engine.distributed import SINGLE_PROCESS, ProcessGroup, process_group
from studio.engine.training import Training, TrainingFailed
from studio.engine.trajectory import PairBatch, load
from studio.runtime.supervisor import worker_command
from studio.settings import OBJECTIVES, SamplingSettings, SessionSettings, TrainingSettings
from studio.store import Store
from studio.worker import follower
from studio.worker.loop import Worker
from tests.worker.test_process import wait_for

SAMPLING = SamplingSettings(steps=4, width_px=64, height_px=64)
PROMPTS = ["a cat", "a dog", "a fish", "a bird", "a fox"]
PATIENCE_S = 300
KINDS = ("d3po_balanced", "diffusion_dpo")


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
    pairs = PairBatch.of(sampling.sample_pairs(denoiser, PROMPTS, [*range(5)], SAMPLING))
    found = {}
    for kind in KINDS:
        training = Training(denoiser, pairs, settings(kind), processes=processes)
        loss, _ = training.gradient()
        found[f"{kind} loss"] = loss.mean()
        names = [name for name, p in denoiser.unet.named_parameters() if p.requires_grad]
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


def launched(*arguments: str) -> list[str]:
    """As `accelerate launch` does on a machine with two GPUs."""
    options = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *arguments]


def together(work: str, model: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    """What the leader of two processes finds."""
    path = tmp_path / "found.safetensors"
    subprocess.run(
        launched(__file__, work, str(model), str(path)),
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        check=True,
        timeout=PATIENCE_S,
    )
    return load_file(path)


def test_two_processes_give_the_gradient_of_one(tiny_model, tmp_path):
    expected = learn(str(tiny_model), SINGLE_PROCESS)
    found = together("learn", tiny_model, tmp_path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
        if " gradient " in name and value.any():  # not only small: the same
            assert (found[name] - value).norm() < 1e-4 * value.norm(), name


def test_a_process_that_fails_says_so_to_the_other(tiny_model, tmp_path):
    assert together("fail", tiny_model, tmp_path)["said"]


def test_two_processes_draw_what_one_does_to_the_bit(tiny_model, tmp_path):
    expected = draw(str(tiny_model), SINGLE_PROCESS)
    found = together("draw", tiny_model, tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(found["base 0"], found["tuned 0"])


def test_a_worker_of_two_processes_draws_what_one_does(tiny_model, tmp_path):
    def drawn(store: Store) -> set[tuple[str, int, bytes]]:
        pairs = store.waiting_pairs(store.last_session_id(), 100)
        shown = [image for pair in pairs for image in (pair.left, pair.right)]
        # not of the files, whose headers are in any order
        return {
            (one.prompt, one.seed, load(store.trajectory_path(one)).latents.numpy().tobytes())
            for one in shown
        }

    wanted = SessionSettings(
        base_model=str(tiny_model), prompts=("a cat", "a dog"), sampling=SAMPLING, queue_target=5
    )
    found = []
    for home in (tmp_path / "one", tmp_path / "two"):
        with contextlib.closing(Store.open(home)) as store:
            session = store.create_session("Tiny", wanted)
            store.set_last_session(session.id)
            if not found:
                worker = Worker(store, "cpu")
                while worker.work():
                    pass
            else:
                process = begun(home)
                try:
                    wait_for(lambda s=store, i=session.id: s.waiting_count(i) == 5, process)
                    process.send_signal(signal.SIGTERM)
                    process.communicate(timeout=PATIENCE_S)
                finally:
                    process.kill()
            found.append(drawn(store))
    assert len(found[0]) == 10
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with eight picks and a round to begin; to be copied."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    with contextlib.closing(Store.open(home)) as store:
        wanted = SessionSettings(
            base_model=str(tiny_model),
            prompts=("a cat", "a dog"),
            sampling=SAMPLING,
            training=TrainingSettings(rank=2, updates_base=6, updates_per_pick=0),
            live=False,
        )
        session = store.create_session("Tiny", wanted)
        store.set_last_session(session.id)
        worker = Worker(store, "cpu")
        while worker.work():
            pass
        for number, pair in enumerate(store.waiting_pairs(session.id, 100)):
            store.add_answer(f"pick{number}", pair.id, "left" if number % 3 else "right")
        store.request_round(session.id)
    return home


def begun(home: Path) -> subprocess.Popen[bytes]:
    """A worker of two processes."""
    return subprocess.Popen(
        [*worker_command(home, processes=2), "--device", "cpu"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def adapter(store: Store) -> dict[str, torch.Tensor]:
    [made] = store.adapters(store.last_session_id())
    return load_file(store.adapter_path(made) / "adapter_model.safetensors")


def test_a_worker_of_two_processes_learns_what_one_does_and_ends_in_order(prepared, tmp_path):
    homes = [shutil.copytree(prepared, tmp_path / name) for name in ("one", "two")]
    with contextlib.closing(Store.open(homes[0])) as store:
        worker = Worker(store, "cpu")
        while not store.adapters(store.last_session_id()):
            assert worker.work()
        expected = adapter(store)

    command = worker_command(homes[1], processes=2)
    assert command[: len(launched())] == launched()
    process = begun(homes[1])
    with contextlib.closing(Store.open(homes[1])) as store:
        try:
            session_id = store.last_session_id()
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    work, model, path = sys.argv[1:]
    with process_group() as processes:
        result = {"learn": learn, "fail": fail, "draw": draw}[work](model, processes)
        if processes.is_main_process:
            save_file(result, path)
