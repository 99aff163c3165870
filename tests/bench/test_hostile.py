"""Files and texts of somebody's making: a value or a sentence, and nothing else.

`bench faults` gives ten thousand examples to the same readers; here are a few of each kind.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from studio import models
from studio.bench.faults import examples, hostile
from studio.bench.faults.hostile import NAMES, Kind, Outcome, kinds_of
from studio.bench.faults.operations import make_homes
from studio.files import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from studio.settings import TrainingSettings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they are tried in forks, on Linux")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    place = tmp_path_factory.mktemp("hostile")
    return {kind.what: kind for kind in kinds_of(make_homes(place)["new"], place)}


@pytest.fixture
def denoiser(tmp_path: Path) -> models.Denoiser:
    """With an adapter of its own saved in `tmp_path`."""
    denoiser = models.load("starter", "cpu")
    denoiser.adapters.new(TrainingSettings(rank=2))
    denoiser.adapters.save(tmp_path)
    denoiser.adapters.remove()
    return denoiser


@pytest.mark.parametrize("name", NAMES)
def test_what_others_made_is_a_value_or_a_sentence(kinds, name):
    number = int(30 * kinds[name].share)
    outcome = hostile.in_a_process(lambda: hostile.tries(kinds[name], number))
    assert outcome.problems == []
    assert (outcome.tried, outcome.torn, outcome.hung) == (number, 0, 0)
    assert outcome.accepted, "no example was accepted: they prove nothing"


def careless(text: str) -> bool:
    return bool(text.index("{") + 1)


def greedy(text: str) -> bool:
    return bool(bytearray(2 * hostile.MEMORY_BYTES))


def deadly(text: str) -> bool:
    import ctypes

    return bool(ctypes.string_at(0))


def endless(text: str) -> bool:
    while True:
        pass


@pytest.mark.parametrize(
    ("reader", "problem"),
    [(careless, "ValueError"), (greedy, "MemoryError"), (deadly, "died"), (endless, "died")],
)
def test_a_reader_that_does_harm_is_noticed(kinds, monkeypatch, reader, problem):
    monkeypatch.setattr(hostile, "ROW_LIMIT_S", 5.0)
    kind = Kind("prompts", examples.templates, reader)
    outcome = hostile.in_a_process(lambda: hostile.tries(kind, 3))
    assert outcome.torn
    assert problem in outcome.problems[0]


def test_an_adapter_of_a_huge_rank_is_refused_before_memory_is_asked_for_it(denoiser, tmp_path):
    """As an archive can bring it in: the weights are small, and their description is not."""
    path = tmp_path / ADAPTER_CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 5000}))

    def apply() -> Outcome:
        import resource  # there is none on Windows

        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(models.ModelError, match="damaged"), denoiser.adapters.using(tmp_path):
            pass
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
        return Outcome(problems=[f"{grown_kb} kB"] if grown_kb > 100_000 else [])

    assert hostile.in_a_process(apply) == Outcome()


def test_an_adapter_with_another_kernel_than_its_layer_has_is_refused(denoiser, tmp_path):
    path = tmp_path / ADAPTER_FILE
    state = load_file(path)
    name = next(name for name in state if name.endswith("conv_shortcut.lora_A.weight"))
    state[name] = state[name].expand(-1, -1, 3, 3).contiguous()
    save_file(state, path)
    with pytest.raises(models.ModelError, match="damaged"), denoiser.adapters.using(tmp_path):
        pass
