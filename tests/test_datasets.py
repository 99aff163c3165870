"""Picks out to other people's forms, and in from them."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from studio import datasets, models
from studio.datasets import ExchangeError, ForeignPick
from studio.pictures import files as picture_files
from studio.pictures import infotext
from studio.settings import OBJECTIVES, TrainingSettings
from studio.store import Session, Store, StoreError, write_atomically
from studio.worker.loop import Worker

SAID = [
    ("left", {"much_better": True, "reason": "colour"}),
    ("right", {}),
    ("tie", {}),
    ("both_bad", {}),
    ("skip", {}),
    ("right", {"reason": "detail", "judge": "taste.py:calm"}),
]
MARKS = "0f" * 128
DECIDED = (0, 1, 5)  # of these: left or right


def png(number: int, form: str = "PNG", px: int = 64) -> bytes:
    """A picture that is like no other."""
    pixels = np.random.default_rng(number).integers(0, 256, (px, px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def picked(store: Store, session: Session, add_pairs: Callable) -> list:
    """Picks of every kind, their pictures on the disk, and one pair that was asked again."""
    for number, (pair, (choice, more)) in enumerate(zip(add_pairs(len(SAID)), SAID, strict=True)):
        for place, side in enumerate((pair.left, pair.right)):
            content = png(2 * number + place)
            write_atomically(store.image_path(side), lambda path, c=content: path.write_bytes(c))
        marks = {pair.right.id: MARKS} if number == 1 else {}
        store.add_answer(f"pick{number}", pair.id, choice, marks=marks, **more)
    [first, *rest] = store.picked_pairs(session.id)
    again = replace(first, pair=replace(first.pair, id="again", repeat_of=first.pair.id))
    return [first, *rest, again]


def test_a_folder_for_datasets_has_the_columns_of_pick_a_pic(store, picked, tmp_path):
    out = tmp_path / "picks"
    assert datasets.write(out, "pickapic", picked, store.image_path) == (6, 0)
    table = pq.read_table(out / "data" / "train-00000-of-00001.parquet")
    undecided = pq.read_table(out / "data" / "undecided-00000-of-00001.parquet")
    # diffusers' train_diffusion_dpo takes the left picture for the better one unless label_0 is 0.
    assert table["label_0"].to_pylist() == [1, 0, 0]
    rows = sorted((table.to_pylist() + undecided.to_pylist()), key=lambda row: row["ranking_id"])
    assert [row["choice"] for row in rows] == [choice for choice, _ in SAID]
    assert [row["has_label"] for row in rows] == [True, True, True, False, False, True]
    labels = [(1, 0), (0, 1), (0.5, 0.5), (None, None), (None, None), (0, 1)]
    assert [(row["label_0"], row["label_1"]) for row in rows] == labels
    assert [row["strength"] for row in rows] == [
        "much better",
        "better",
        None,
        None,
        None,
        "better",
    ]
    assert [row["reason"] for row in rows] == ["colour", None, None, None, None, "detail"]
    assert [row["judge"] for row in rows] == [None] * 5 + ["taste.py:calm"]
    assert [row["marks_0"] for row in rows] == [None] * 6
    assert [row["marks_1"] for row in rows] == [None, MARKS, None, None, None, None]
    for number, row in enumerate(rows):
        assert (row["jpg_0"], row["jpg_1"]) == (png(2 * number), png(2 * number + 1))
        assert row["caption"] == "a red apple"
        assert (row["seed_0"], row["num_example_per_prompt"]) == (7, 6)
    assert rows[0]["best_image_uid"] == rows[0]["image_0_uid"] == picked[0].pair.left.id
    assert rows[2]["best_image_uid"] == "tie"
    assert table.schema.field("created_at").type == pa.timestamp("ns")
    readme = (out / "README.md").read_text("utf-8")
    assert "  - split: train\n    path: data/train-*\n  - split: undecided\n" in readme
    with pytest.raises(ExchangeError, match="already"):
        datasets.write(out, "pickapic", picked, store.image_path)


def test_what_went_out_comes_in_again(store, picked, tmp_path):
    datasets.write(tmp_path / "picks", "pickapic", picked, store.image_path)
    expected = [
        ForeignPick("a red apple", png(2 * n), png(2 * n + 1), choice, **more)
        for n, (choice, more) in enumerate(SAID)
    ]
    decided = [expected[n] for n in DECIDED]
    undecided = [one for one in expected if one not in decided]
    assert list(datasets.read(tmp_path / "picks")) == decided + undecided
    assert list(datasets.read(next((tmp_path / "picks").rglob("train-*")))) == decided


def test_the_files_of_d3po_go_out_and_in(store, picked, tmp_path):
    out = tmp_path / "d3po"
    assert datasets.write(out, "d3po", picked, store.image_path) == (5, 1)
    assert json.loads((out / "preference.json").read_text()) == [
        [1, 0],
        [0, 1],
        [1, 1],
        [0, 0],
        [0, 1],
    ]
    assert json.loads((out / "prompt.json").read_text()) == ["a red apple"] * 5
    found = list(datasets.read(out))
    assert [one.choice for one in found] == ["left", "right", "tie", "tie", "right"]
    assert [one.left for one in found] == [png(n) for n in (0, 2, 4, 6, 10)]


def written_folders(store: Store, picked: list, folder: Path) -> Path:
    assert datasets.write(folder, "folders", picked, store.image_path) == (3, 3)
    return folder


def pairs_for_simpletuner(folder: Path) -> list[tuple[list[str], bytes, bytes]]:
    """As its guides say: a strict reference has the same path, and a line is a caption."""
    chosen, rejected = json.loads((folder / "simpletuner.json").read_text())
    assert (chosen["dataset_type"], chosen["conditioning_data"]) == ("image", [rejected["id"]])
    assert rejected["dataset_type"] == "conditioning"
    assert rejected["conditioning_type"] == "reference_strict"
    assert rejected["source_dataset_id"] == chosen["id"]
    assert chosen["caption_strategy"] == rejected["caption_strategy"] == "textfile"
    found = []
    for one in sorted(Path(chosen["instance_data_dir"]).glob("*.png")):
        other = Path(rejected["instance_data_dir"]) / one.name
        captions = one.with_suffix(".txt").read_bytes().decode("utf-8").split("\n")
        assert other.with_suffix(".txt").read_bytes() == one.with_suffix(".txt").read_bytes()
        found.append((captions, one.read_bytes(), other.read_bytes()))
    return found


def pairs_for_onetrainer(folder: Path) -> list[tuple[list[str], bytes, bytes]]:
    """As its pull request 1403 says: what stands for {} is the same in both patterns."""
    [concept] = json.loads((folder / "concepts.json").read_text())
    assert (concept["type"], concept["enabled"]) == ("STANDARD", True)
    assert concept["include_subdirectories"]
    start, end = concept["dpo_chosen_pattern"].split("{}")
    found = []
    for one in sorted(Path(concept["path"]).rglob("*.png")):
        name = one.relative_to(concept["path"]).with_suffix("").as_posix()
        if name.startswith(start) and name.endswith(end):
            stem = name[len(start) : len(name) - len(end)]
            other = concept["dpo_rejected_pattern"].replace("{}", stem)
            captions = one.with_suffix(".txt").read_text("utf-8").split("\n")[:1]
            content = (Path(concept["path"]) / f"{other}.png").read_bytes()
            found.append((captions, one.read_bytes(), content))
    return found


def pairs_for_flow_factory(folder: Path) -> list[tuple[list[str], bytes, bytes]]:
    """As its guide of data sets says: no unknown keys, no blank lines, paths within the folder."""
    found = []
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            assert set(record) == {"schema_version", "input", "supervision", "metadata"}
            assert record["schema_version"] == 2
            assert (set(record["input"]), record["input"]["media"]) == ({"prompt", "media"}, [])
            supervision = record["supervision"]
            assert set(supervision) == {"type", "chosen", "rejected"}
            assert supervision["type"] == "preference"
            sides = []
            for side in ("chosen", "rejected"):
                assert set(supervision[side]) == {"media"}
                [media] = supervision[side]["media"]
                assert (set(media), media["type"]) == ({"type", "path"}, "image")
                assert not Path(media["path"]).is_absolute()
                sides.append((folder / media["path"]).read_bytes())
            found.append(([record["input"]["prompt"]], *sides))
    return found


@pytest.mark.parametrize(
    "pairs_of", [pairs_for_simpletuner, pairs_for_onetrainer, pairs_for_flow_factory]
)
def test_folders_hold_the_pairs_where_each_trainer_looks(pairs_of, store, picked, tmp_path):
    folder = written_folders(store, picked, tmp_path / "my picks")
    assert pairs_of(folder) == [
        (["a red apple"], png(0), png(1)),
        (["a red apple"], png(3), png(2)),
        (["a red apple"], png(11), png(10)),
    ]
    readme = (folder / "README.md").read_text("utf-8")
    assert f"--data_backend_config={folder}/simpletuner.json" in readme


def test_folders_come_in_again_with_sides_strength_and_reason(store, picked, tmp_path):
    folder = written_folders(store, picked, tmp_path / "picks")
    assert list(datasets.read(folder)) == [
        ForeignPick(
            "a red apple",
            png(2 * number),
            png(2 * number + 1),
            name=f"Line {line} of train.jsonl",
            choice=SAID[number][0],
            **SAID[number][1],
        )
        for line, number in enumerate(DECIDED, start=1)
    ]
    (folder / "train.jsonl").unlink()
    found = list(datasets.read(folder))
    assert [(one.choice, one.prompt) for one in found] == [
        (choice, "a red apple") for choice in ("left", "right", "left")
    ]
    assert [one.left for one in found] == [png(0), png(2), png(11)]
    assert not any(one.problem or one.remark for one in found)


def test_folders_without_a_winner_or_a_place_get_a_sentence(store, picked, tmp_path):
    ties = [one for one in picked if one.pick.choice not in ("left", "right")]
    with pytest.raises(ExchangeError, match="no pick yet that says which picture is better"):
        datasets.write(tmp_path / "ties", "folders", ties, store.image_path)
    (tmp_path / "file").touch()
    with pytest.raises(ExchangeError, match="something at"):
        datasets.write(tmp_path / "file", "folders", picked, store.image_path)
    with pytest.raises(StoreError, match="in cannot be written"):
        datasets.write(tmp_path / "file" / "in", "folders", picked, store.image_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home"]


words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60
)
names = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", ".."))


@example(prompt="a cat", name=os.fsdecode(b"caf\xe9"))  # of Latin-1
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=words, name=names)
def test_any_prompt_and_name_of_a_folder(prompt, name, store, picked, tmp_path_factory):
    said = [replace(one, pair=replace(one.pair, prompt=prompt)) for one in picked]
    folder = written_folders(store, said, tmp_path_factory.mktemp("any") / name)
    assert [one.prompt for one in datasets.read(folder)] == [prompt] * 3
    for pairs_of in (pairs_for_simpletuner, pairs_for_onetrainer):
        assert [captions for captions, *_ in pairs_of(folder)] == [
            [" ".join(prompt.splitlines())]
        ] * 3
    assert len(pairs_for_flow_factory(folder)) == 3
    (folder / "train.jsonl").unlink()
    expected = " ".join(prompt.splitlines()).removeprefix("\ufeff").strip()
    assert [(one.prompt, one.problem) for one in datasets.read(folder)] == [(expected, "")] * 3


def test_a_picture_that_is_missing_leaves_its_pick_out(store, picked, tmp_path):
    store.image_path(picked[1].pair.left).unlink()
    assert datasets.write(tmp_path / "picks", "pickapic", picked, store.image_path) == (5, 1)


def test_the_votes_of_several_people_on_seven_pictures_count_together(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(14):
        (tmp_path / "images" / f"{number:05}.png").write_bytes(png(number))
    (tmp_path / "prompt.json").write_text(json.dumps(["a hand", "a foot", "one more"]))
    (tmp_path / "ann.json").write_text(json.dumps([[1, 0, 0, 0, 0, 0, 0], [0] * 7]))
    (tmp_path / "ben.json").write_text(json.dumps([[0, 1, 0, 0, 0, 0, 1], [0] * 7, [1] * 7]))
    found = list(datasets.read(tmp_path))
    assert len(found) == 2 * 21
    chosen = [one for one in found if one.choice != "tie"]
    assert {one.prompt for one in chosen} == {"a hand"}
    winners = {one.left if one.choice == "left" else one.right for one in chosen}
    assert winners == {png(0), png(1), png(6)}
    assert len(chosen) == 3 * 4


def test_rows_of_pick_a_pic_itself(tmp_path):
    """Its labels, pictures as JPEG, and pictures as the datasets library keeps them."""
    rows = [
        {"caption": "a cat", "jpg_0": png(0, "JPEG"), "jpg_1": png(1, "JPEG")} | label
        for label in (
            {"label_0": 0.0, "label_1": 1.0, "has_label": True},
            {"label_0": 0.5, "label_1": 0.5, "has_label": True},
            {"label_0": 1.0, "label_1": 0.0, "has_label": False},
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "plain.parquet")
    assert [one.choice for one in datasets.read(tmp_path)] == ["right", "tie"]
    nested = [{**row, "jpg_0": {"bytes": row["jpg_0"], "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "plain.parquet")
    assert next(datasets.read(tmp_path)).left == png(0, "JPEG")


def own_pairs(folder: Path) -> Path:
    """Three pairs: with a text file on either side, and with the prompt in the picture."""
    for side in ("chosen", "rejected"):
        (folder / side).mkdir(parents=True)
    for number, name in enumerate(("a", "b", "c")):
        (folder / "chosen" / f"{name}.png").write_bytes(png(2 * number))
        (folder / "rejected" / f"{name}.jpg").write_bytes(png(2 * number + 1, "JPEG", 96))
    (folder / "chosen" / "a.txt").write_text("a cat\n", "utf-8")
    (folder / "rejected" / "b.txt").write_text("a café", "utf-8")
    text = infotext.write(infotext.Parameters(prompt="a fish", steps=4, sampler="DDIM", seed=1))
    path = folder / "chosen" / "c.png"
    path.write_bytes(picture_files.png_with_text(path, text))
    return folder


def test_a_folder_of_own_pairs(tmp_path):
    found = list(datasets.read(own_pairs(tmp_path)))
    assert [one.prompt for one in found] == ["a cat", "a café", "a fish"]
    assert [one.choice for one in found] == ["left", "right", "left"]  # no side is favoured
    assert found[0].left == png(0)
    assert found[1].right == png(2)
    assert found[1].left == png(3, "JPEG", 96)


def test_the_pairs_of_onetrainers_pair_tool(tmp_path):
    """They lie in train and val of either side."""
    for part, number in (("train", 0), ("val", 1)):
        for place, side in enumerate(("chosen", "rejected")):
            folder = tmp_path / side / part
            folder.mkdir(parents=True)
            (folder / f"pair_{number:04}.png").write_bytes(png(2 * number + place))
        (tmp_path / "chosen" / part / f"pair_{number:04}.txt").write_text(f"a cat {number}")
    found = list(datasets.read(tmp_path))
    assert [(one.prompt, one.left, one.right, one.choice) for one in found] == [
        ("a cat 0", png(0), png(1), "left"),
        ("a cat 1", png(2), png(3), "left"),
    ]
    assert [one.name for one in found] == ["chosen/train/pair_0000.png", "chosen/val/pair_0001.png"]


def preference(chosen: str, rejected: str, **more: object) -> bytes:
    sides = {
        side: {"media": [{"type": "image", "path": path}]}
        for side, path in (("chosen", chosen), ("rejected", rejected))
    }
    record = {"schema_version": 2, "input": {"prompt": "a cat"}, **more}
    return json.dumps({"supervision": {"type": "preference", **sides}, **record}).encode() + b"\n"


def test_a_data_set_of_flow_factory_itself(tmp_path):
    """Of any folders, without our metadata; what cannot be used is named with its line."""
    folder = tmp_path / "set"
    for name in ("pairs", "chosen"):
        (folder / name).mkdir(parents=True)
    for number in range(4):
        (folder / "pairs" / f"{number}.png").write_bytes(png(number))
    (folder / "chosen" / "new.png").write_bytes(png(9))
    (tmp_path / "secret.png").write_bytes(png(9))
    pair = ("pairs/0.png", "./pairs/1.png")
    edit = {"prompt": "bluer", "media": [{"type": "image", "path": "pairs/3.png"}]}
    marks = {"better": ["left"], "strength": 3, "reason": {"a": "colour"}}
    lines = [
        preference(*pair),
        preference("pairs/2.png", str(folder / "pairs" / "3.png"), metadata=marks),
        preference("pairs/0.png", "../secret.png"),
        preference(str(tmp_path / "secret.png"), "pairs/0.png"),
        preference(*pair, schema_version=1),
        preference(*pair, input=edit),
        preference(*pair).replace(b"preference", b"demonstration"),
        preference(*pair).replace(b"a cat", b"\xff"),
        b"[" * 100_000 + b"\n",
        b"\r\n",
        preference("pairs/gone.png", "pairs/1.png"),
    ]
    (folder / "train.jsonl").write_bytes(b"".join(lines))
    found = list(datasets.read(folder))
    assert [(one.prompt, one.left, one.right, one.choice) for one in found[:2]] == [
        ("a cat", png(0), png(1), "left"),
        ("a cat", png(3), png(2), "right"),
    ]
    assert not any(one.much_better or one.reason or one.problem for one in found[:2])
    problems = [(one.name, one.problem.split(":")[0]) for one in found[2:]]
    no_record = "it is no version 2 record of which of two pictures is better for a prompt"
    assert problems == [
        ("Line 3 of train.jsonl", "its pictures are outside the folder"),
        ("Line 4 of train.jsonl", "its pictures are outside the folder"),
        *((f"Line {number} of train.jsonl", no_record) for number in range(5, 10)),
        ("Line 11 of train.jsonl", ""),  # the importer finds that the picture is missing
        ("chosen/new.png", "train.jsonl does not list it"),
    ]
    assert not any(one.left for one in found[2:])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("ending", [".txt", ".caption", ".TXT"])
def test_captions_of_any_encoding(encoding, ending, tmp_path):
    own_pairs(tmp_path)
    (tmp_path / "rejected" / "b.txt").unlink()
    (tmp_path / "rejected" / f"b{ending}").write_bytes("ein Café".encode(encoding))
    found = list(datasets.read(tmp_path))[1]
    assert found.prompt == "ein Café"
    guessed = f"rejected/b{ending} was read as cp1252" if encoding == "cp1252" else ""
    assert (found.remark, found.problem) == (guessed, "")


def test_what_is_left_out_of_own_pairs_is_named_with_the_reason(store, tiny_model, tmp_path):
    folder = own_pairs(tmp_path / "own")
    chosen, rejected = folder / "chosen", folder / "rejected"
    (chosen / "d.png").write_bytes(png(7))
    (rejected / "d.PNG").write_bytes(png(8))  # goes with d.png
    (chosen / "d.txt").write_text("a dog")
    (chosen / "e.png").write_bytes(png(9))  # alone
    (rejected / "f.png").write_bytes(png(9))
    for name in ("g.avif", "h.bmp", "i.tiff", "j.gif"):
        (chosen / name).write_bytes(b"a picture")
    (chosen / "k.png").write_bytes(png(10))  # without words
    (rejected / "k.png").write_bytes(png(11))
    (chosen / "l.png").write_bytes(b"no picture")
    (rejected / "l.png").write_bytes(png(11))
    (chosen / "l.txt").write_text("a lion")
    (chosen / "m.png").write_bytes(png(10))
    (rejected / "m.png").write_bytes(png(11))
    (chosen / "m.txt").write_bytes(b"\0" * 40)
    denoiser = models.load(str(tiny_model), "cpu")
    taken = datasets.import_picks(
        store, denoiser, (str(tiny_model), None), "Mine", datasets.read(folder), (64, 64)
    )
    assert (taken.picks, taken.left_out) == (4, 9)
    for name, reason in {
        "chosen/e.png": "no picture of this name in rejected",
        "rejected/f.png": "no picture of this name in chosen",
        "chosen/g.avif": "no PNG, JPEG or WebP",
        "chosen/h.bmp": "no PNG, JPEG or WebP",
        "chosen/i.tiff": "no PNG, JPEG or WebP",
        "chosen/j.gif": "no PNG, JPEG or WebP",
        "chosen/k.png": "has no prompt",
        "chosen/l.png": "cannot be read",
        "chosen/m.png": "m.txt cannot be read",
    }.items():
        [said] = [one for one in taken.remarks if one.startswith(f"{name} was left out")]
        assert reason in said


def test_a_session_of_them_is_learned_from_by_diffusion_dpo_and_refused_by_d3po(
    store, tiny_model, tmp_path
):
    denoiser = models.load(str(tiny_model), "cpu")
    base = (str(tiny_model), None)
    pairs = [replace(one, judge="calm") for one in datasets.read(own_pairs(tmp_path / "own"))] * 2
    pairs += [
        ForeignPick("no picture", b"", png(1), "left"),
        ForeignPick(" ", png(0), png(1), "left"),
    ]
    told: list[int] = []

    def tell(made, done):
        assert store.session(made.id).name == "Mine"
        told.append(done)

    taken = datasets.import_picks(store, denoiser, base, "Mine", pairs, (64, 64), tell)
    assert (taken.picks, taken.left_out, told) == (6, 2, [0, 1, 2, 3, 4, 5, 6])
    session = taken.session
    assert session.settings.prompts == ("a cat", "a café", "a fish")
    [first, *_] = store.picked_pairs(session.id)
    assert first.pick.judge == "calm"
    with PIL.Image.open(store.image_path(first.pair.left)) as picture:
        assert np.array_equal(np.array(picture), np.array(PIL.Image.open(io.BytesIO(png(0)))))
    with PIL.Image.open(store.image_path(first.pair.right)) as picture:
        assert picture.size == (64, 64)

    worker = Worker(store, "cpu")
    training = TrainingSettings(rank=2, updates_base=2, updates_per_pick=0)
    for objective, state in (("diffusion_dpo", "done"), ("d3po_balanced", "failed")):
        wanted = replace(
            OBJECTIVES[objective],
            **{
                name: getattr(training, name)
                for name in ("rank", "updates_base", "updates_per_pick")
            },
        )
        store.update_settings(session.id, replace(session.settings, training=wanted))
        round_ = store.request_round(session.id)
        while store.round(round_.id).state in ("queued", "running"):
            assert worker.work()
        ended = store.round(round_.id)
        assert ended.state == state, ended.message
    assert "D3PO cannot learn from them" in ended.message


def test_encoding_and_decoding_is_the_picture_again():
    """The starter's VAE is trained: what it decodes is near what it encoded, and its codes near the
    picture's own, much nearer than to another picture's."""
    denoiser = models.load("starter", "cpu")
    from studio.engine import sampling
    from studio.settings import SamplingSettings

    prompts = ["fox, flat style, blue background", "owl, ink style, white background"]
    chains = sampling.sample(denoiser, prompts, [3, 4], SamplingSettings(steps=10, guidance=2.0))
    pictures = sampling.images(denoiser, chains)
    latents = denoiser.encode(pictures)
    own = torch.stack([chain.latents[-1] for chain in chains])
    errors = (latents[:, None] - own).square().mean((2, 3, 4))
    assert (errors.diagonal() < 0.3 * errors.flip(1).diagonal()).all()
    for again, picture in zip(denoiser.decode(latents), pictures, strict=True):
        assert np.abs(np.array(again, dtype=float) - np.array(picture, dtype=float)).mean() < 10


def test_nothing_is_left_of_what_cannot_be_used(store, tiny_model, tmp_path):
    denoiser = models.load(str(tiny_model), "cpu")

    def breaks():
        yield ForeignPick("a cat", png(0), png(1), "left")
        raise ExchangeError("It ends in the middle.")

    for pairs, said in (
        ([ForeignPick("", b"", b"", "left")], "None of these"),
        (breaks(), "middle"),
    ):
        with pytest.raises(ExchangeError, match=said):
            datasets.import_picks(store, denoiser, (str(tiny_model), None), "Mine", pairs, (64, 64))
        assert store.sessions() == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no picks"),
        ({"x.parquet": b"PAR1 no"}, "no parquet file"),
        ({"prompt.json": b"[]"}, "no file with the scores"),
        ({"prompt.json": b"[]", "s.json": b"[[1, 0]]"}, "fewer prompts"),
        ({"prompt.json": b'["a"]', "s.json": b"[[1, 0], [1]]"}, "fewer prompts"),
        (
            {"prompt.json": b'["a", "b"]', "s.json": b"[[1, 0], [1]]"},
            "not rows of one",
        ),
        ({"prompt.json": b'["a"]', "s.json": b"[[1, NaN]]"}, "not rows"),
        ({"prompt.json": b'["a"]', "s.json": b"[[1, 1%s]]" % (b"0" * 400)}, "not rows"),
        ({"prompt.json": b'["a"]', "s.json": b"[[1, 1%s]]" % (b"0" * 9000)}, "as JSON"),
        ({"prompt.json": b'["a"]', "s.json": b'[[1, "1%s"]]' % (b"0" * 9000)}, "not rows"),
        ({"prompt.json": b'["a"]', "s.json": b'[[1, "x"]]'}, "not rows"),
        ({"prompt.json": b'["a"]', "s.json": b'{"a": 1}'}, "does not hold a list"),
        ({"prompt.json": b'["a"]', "s.json": b"[" * 100_000}, "cannot be read as JSON"),
        ({"prompt.json": b"\xff"}, "cannot be read as JSON"),
    ],
)
def test_what_is_not_what_it_should_be_gets_a_sentence(files, said, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExchangeError, match=said):
        list(datasets.read(tmp_path))
    with pytest.raises(ExchangeError, match="no folder"):
        datasets.read(tmp_path / "nothing")


def test_nothing_that_never_ends_is_read(tmp_path):
    """Pipes in the places of files: nobody writes into them."""
    own_pairs(tmp_path / "own")
    for picture in (tmp_path / "own" / "chosen").glob("*.png"):
        picture.unlink()
        os.mkfifo(picture)
    assert all(b"" in (one.left, one.right) for one in datasets.read(tmp_path / "own"))
    (tmp_path / "d3po").mkdir()
    (tmp_path / "d3po" / "prompt.json").write_text('["a"]')
    os.mkfifo(tmp_path / "d3po" / "scores.json")
    with pytest.raises(ExchangeError, match="cannot be read as JSON"):
        list(datasets.read(tmp_path / "d3po"))
    (tmp_path / "tables").mkdir()
    os.mkfifo(tmp_path / "tables" / "x.parquet")
    with pytest.raises(ExchangeError, match="holds no picks"):
        list(datasets.read(tmp_path / "tables"))
    with pytest.raises(ExchangeError, match="unpack it"):
        datasets.read(tmp_path / "picks.zip")
    with pytest.raises(ExchangeError, match="cannot be read"):
        datasets.read(tmp_path / ("x" * 300))


def test_columns_that_are_missing_are_named(tmp_path):
    pq.write_table(pa.table({"caption": ["a"], "jpg_0": [b""]}), tmp_path / "t.parquet")
    with pytest.raises(ExchangeError, match="jpg_1, label_0, label_1 is missing"):
        list(datasets.read(tmp_path))


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ([1.0], ["best"], "must hold numbers"),
        (["1"], ["0"], "must hold numbers"),
        ([[1]], [0], "must hold numbers"),
        ([float("inf")], [0.0], "must hold numbers"),
        ([None], ["best"], "must hold numbers"),
    ],
)
def test_labels_that_are_no_numbers_get_a_sentence(left, right, said, tmp_path):
    columns = {"caption": ["a"], "jpg_0": [b""], "jpg_1": [b""], "label_0": left, "label_1": right}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ExchangeError, match=said):
        list(datasets.read(tmp_path))


def test_labels_of_two_kinds_of_number_are_compared(tmp_path):
    columns = {
        "caption": ["a"] * 4,
        "jpg_0": [b""] * 4,
        "jpg_1": [b""] * 4,
        "label_0": [1, 0, 2, None],
        "label_1": [Decimal("0.5"), Decimal("0.5"), Decimal("2"), Decimal("1")],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert [one.choice for one in datasets.read(tmp_path)] == ["left", "right", "tie"]


def test_half_a_character_gets_a_sentence(store, tiny_model):
    denoiser = models.load(str(tiny_model), "cpu")
    base = (str(tiny_model), None)
    pairs = [
        ForeignPick("a \ud800 cat", png(0), png(1), "left"),
        ForeignPick("", b"", b"", "tie", name="chosen/\udcff.avif", problem="it is no PNG"),
        ForeignPick("a cat", png(0), png(1), "left", remark="chosen/\udcff.txt was read as UTF-16"),
    ]
    found = datasets.import_picks(store, denoiser, base, "Mine", pairs, (64, 64))
    assert (found.picks, found.left_out) == (1, 2)
    assert found.remarks == (
        "Row 1 was left out: its prompt contains half of a character (a lone surrogate).",
        "chosen/?.avif was left out: it is no PNG.",
        "chosen/?.txt was read as UTF-16.",
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=anything, scores=anything)
def test_whatever_the_json_says_it_is_picks_or_a_sentence(tmp_path, prompts, scores):
    (tmp_path / "prompt.json").write_text(json.dumps(prompts))
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    with contextlib.suppress(ExchangeError):
        for one in datasets.read(tmp_path):
            assert one.choice in ("left", "right", "tie")
            assert isinstance(one.prompt, str)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.binary(max_size=30)
        | st.builds(lambda value: json.dumps(value).encode(), anything)
        | st.builds(preference, st.text(max_size=8), st.text(max_size=8))
        | st.builds(lambda value: preference("a", "b", metadata=value), anything),
        max_size=5,
    )
)
@example(lines=[preference("a\0", "\ud800"), preference("x" * 5000, "~/.."), preference("", "")])
def test_whatever_the_lines_say_they_are_picks_or_problems(tmp_path, lines):
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    for one in datasets.read(tmp_path):
        assert one.choice in ("left", "right", "tie")
        assert one.problem or isinstance(one.prompt, str)
