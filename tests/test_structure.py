"""The structure of the package: who imports whom, what stays light, and whose the codes of messages are."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT as PROJECT

import beto_spacy

ROOT = Path(beto_spacy.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
    if not path.name.startswith("__")
}


def test_contracts_of_imports_are_kept():
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if command is None:
        pytest.skip("import-linter isn't installed here (the extra test brings it)")
    done = subprocess.run([command, "--no-cache"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_packages_have_empty_inits():
    inits = [path for path in ROOT.rglob("__init__.py") if path.parent != ROOT]
    assert {path.parent for path in ROOT.rglob("*.py")} == {ROOT, *(path.parent for path in inits)}
    assert [path for path in inits if path.read_text(encoding="utf8").strip()] == []


def test_names_and_help_need_no_torch():
    heavy = {"torch", "spacy", "transformers", "matplotlib"}
    code = f"import sys, beto_spacy, beto_spacy.cli.main; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_is_what_there_is():
    assert all(hasattr(beto_spacy, name) for name in beto_spacy.__all__)


def test_codes_of_messages_belong_to_one_module():
    seen = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"B\d\d\d", node.value):
                assert seen.setdefault(node.value, name) == name, f"{node.value} in {name} and {seen[node.value]}"
    assert len(seen) > 50
