"""The documentation says what is so: commands, figures, links, and the modules there are."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from studio.bench import answer_growth, curves, faults, tastes
from studio.cli import reference
from studio.cli.arguments import parse

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "studio" / "bench" / "figures"
README = ROOT / "README.md"
USUAL = ("pairs", "d3po", "finetune")  # the ways of learning whose runs docs/results.md shows
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^python launch\.py.*|`python launch\.py[^`]*`", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """Every command that a page shows, with the page; a heading is the name of one, and none."""
    found = []
    for page in PAGES:
        text = re.sub(r"^#.*$", "", page.read_text("utf-8"), flags=re.MULTILINE)
        for command in COMMAND.findall(text):
            words = " ".join(command.strip("`").split("   ")[0].split())
            if not words.endswith("COMMAND ..."):
                found.append((page.name, words))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), commands())
def test_each_command_is_one(page, command, monkeypatch):
    monkeypatch.delenv("D3PO_STUDIO_AUTH", raising=False)
    _, _, *arguments = shlex.split(command.replace("bench NAME", "bench clicks"))
    try:
        parse(arguments)
    except SystemExit as end:  # 0: it asked for help
        code = end.code
    else:
        code = 0
    assert code == 0, f"{page}: {command}"


def test_there_are_commands():
    assert len(commands()) > 25
    assert {page for page, _ in commands()} >= {"README.md", "command-line.md", "results.md"}


def test_the_readme_selects_tests_that_are_there():
    [command] = re.findall(r"^python launch\.py test (\S+ -k \S+)", README.read_text("utf-8"), re.M)
    line = [sys.executable, "-m", "pytest", "--collect-only", "-q", *shlex.split(command)]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def words(text: str) -> list[str]:
    """Versions of Python break the lines of `--help` differently."""
    return text.split()


def test_the_page_of_the_command_line_is_what_help_prints():
    written = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    assert words(written) == words(reference.page()), (
        "python -m studio.cli.reference > docs/command-line.md"
    )


def test_the_readme_has_the_figures_of_its_runs():
    rows = [row for row in curves.read(FIGURES / "curves.jsonl") if row["picks"] == 64]
    lines = {}
    for (way, noise), group in curves.of_all_artists(rows, "way", "noise").items():
        figures = curves.pooled(group)
        wins = "{win_rate:.2f} ({win_rate_low:.2f} to {win_rate_high:.2f})".format(**figures)
        score = f"{figures['shift_sd']:+.2f} sd"
        objects = "{object_accuracy_base:.0%} → {object_accuracy_tuned:.0%}".format(**figures)
        lines[way, noise] = (wins, score, objects)
    text = README.read_text("utf-8")
    for name, way in (
        ("the default", "pairs"),
        ("D3PO as published", "d3po"),
        ("LoRA fine-tuning on the chosen pictures", "finetune"),
    ):
        assert f"| {name} | {' | '.join(lines[way, 0.0])} |" in text
    assert f"wrong the share is {lines['pairs', 0.25][0][:4]}," in text


def test_the_results_have_the_table_of_the_curves():
    usual = [row for row in curves.read(FIGURES / "curves.jsonl") if row["way"] in USUAL]
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    missing = [line for line in curves.table(usual).splitlines() if line not in page]
    assert not missing, "\n".join(missing)


def test_the_tastes_that_are_reported_are_those_of_the_last_runs():
    reported = tastes.halves()["report"]
    rows = [row for row in curves.read(FIGURES / "tastes.jsonl") if row["artist"] in reported]
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert curves.table([row for row in rows if row["way"] == "pairs"]) in page
    figures = curves.pooled([row for row in rows if row["picks"] == 64 and row["way"] == "pairs"])
    said = (
        "{win_rate:.2f} ({win_rate_low:.2f} to {win_rate_high:.2f}) after 64 picks, "
        "{shift_sd:+.2f} sd"
    ).format(**figures)
    assert said in README.read_text("utf-8")


def test_the_faults_are_those_of_the_last_run():
    rows = [
        faults.Row(**row)
        for row in json.loads((FIGURES / "faults.json").read_text("utf-8"))["rows"]
    ]
    assert faults.table(rows) in (ROOT / "docs" / "reliability.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("diffusion_dpo", "bench train`"),
        ("ranked7", "bench train --images-per-prompt 7 --prompts 2`"),
        ("d3po_balanced", "bench train --objective d3po_balanced`"),
        ("d3po", "bench train --objective d3po`"),
    ],
)
def test_the_speeds_are_those_of_their_runs(file, options):
    run = json.loads((FIGURES / f"train-{file}-starter-cpu.json").read_text("utf-8"))
    page = (ROOT / "docs" / "results.md").read_text("utf-8").splitlines()
    [line] = [line for line in page if f"`{options}" in line and line.startswith("|")]
    ratio = "{ratio:.1f} ({ratio_low:.1f} to {ratio_high:.1f})".format(**run)
    assert line.endswith(f"| {ratio} |")
    assert f"{run['pair_steps_per_s']:.1f} pair-steps" in line
    assert f"published: {run['baseline_pair_steps_per_s']:.1f} |" in line


def test_the_answer_to_a_pick_is_that_of_its_run():
    run = json.loads((FIGURES / "clicks-latency-cpu.json").read_text("utf-8"))["answer"]
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert answer_growth.report(run) in page


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_each_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def modules() -> list[str]:
    files = [p for p in (ROOT / "studio").rglob("*.py") if "__pycache__" not in p.parts]
    return sorted(p.relative_to(ROOT).as_posix() for p in files)


def test_the_architecture_names_every_module_and_no_other():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`(studio/[\w/]+\.py)`", page))
    assert named == set(modules())


def test_the_readme_is_one_page():
    assert len(README.read_text("utf-8").splitlines()) <= 120
