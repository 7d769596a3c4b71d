"""Every command and every block of code in the README runs."""

import os
import re
import shlex
import shutil
import sys

import pytest
from conftest import ROOT, run

README = (ROOT / "README.md").read_text(encoding="utf8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [line for language, code in BLOCKS if language == "bash" for line in code.strip().splitlines()]
#: The commands that start from nothing; `.ci/run` runs them word for word.
FROM_NOTHING = [command for command in COMMANDS if command.startswith("python3 -m venv")]


def test_there_are_blocks_of_the_known_kinds_only():
    assert {language for language, _ in BLOCKS} <= {"python", "bash"}
    assert len(PYTHON) >= 4 and len(FROM_NOTHING) == 2


def test_ci_runs_the_commands_that_start_from_nothing():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf8")
    assert "README.md" in ci and "python3 -m venv" in ci


def test_python_blocks_run(installed, tmp_path):
    code = "\n".join(PYTHON)
    done = run(sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "NOUN" in done.stdout and "[CLS]" in done.stdout
    assert (tmp_path / "dependencies.svg").read_text(encoding="utf8").startswith("<svg")
    assert "Lima" in (tmp_path / "entities.html").read_text(encoding="utf8")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in FROM_NOTHING])
def test_commands_run(project, command):
    words = shlex.split(command)
    if words[:3] == ["spacy", "project", "run"]:
        # A long training, a hub, a GPU: what it would run is checked, not run.
        dry = words[3] not in ("check", "evaluate")
        words = [sys.executable, "-m", *words] + (["."] if words[4:5] != ["."] else []) + (["--dry"] if dry else [])
    else:
        assert words[0] == "beto-spacy", command
        words = [sys.executable, "-m", "beto_spacy", *words[1:]]
        if "quantize" in words:  # the fixture's pipeline is hardly trained, and of two minds about everything
            words += ["--max-loss", "100"]
    done = run(*words, cwd=project, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_workflows_are_documented(tmp_path):
    shutil.copy(ROOT / "project.yml", tmp_path)  # beside assets that are here it would link to them
    done = run(sys.executable, "-m", "spacy", "project", "document", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in README, "paste the output of 'spacy project document' into the README"


def test_links_inside_the_readme_lead_somewhere():
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", README, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\(#([^)]+)\)", README):
        assert target in headings, target
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
