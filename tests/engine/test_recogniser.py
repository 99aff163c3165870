"""The classifier that judges what was kept."""

from pathlib import Path

import torch
from PIL import Image

from studio.engine import recogniser
from studio.engine.recogniser import Network, Recogniser


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    network = Network(4, 3, 2).to(memory_format=torch.channels_last).eval()  # as it is trained
    made = Recogniser(network, ("owl", "fox", "cat", "hen"), ("ink", "flat", "soft"), ("a", "b"))
    recogniser.save(made, tmp_path)
    read = recogniser.load(tmp_path)
    assert (read.objects, read.styles, read.grounds) == (made.objects, made.styles, made.grounds)
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "navy")]
    for ours, theirs in zip(made.logits(pictures), read.logits(pictures), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)  # half precision


def test_the_likeliest_object_has_rank_0() -> None:
    judge = Recogniser(Network(3, 2, 2).eval(), ("owl", "fox", "cat"), ("x", "y"), ("a", "b"))
    picture = Image.new("RGB", (64, 64), "teal")
    order = judge.logits([picture])[0][0].argsort(descending=True)
    names = [judge.objects[int(index)] for index in order]
    assert judge.object_ranks([picture] * 3, names).tolist() == [0, 1, 2]
