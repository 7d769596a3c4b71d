"""Who may import whom: modules only import from the layers below their own."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import beto_spacy

ROOT = Path(beto_spacy.__file__).parent
LAYERS = [
    {
        "errors",
        "emoji",
        "files",
        "memory",
        "divergence",
        "positions",
        "cess",
        "cpu_training",
        "heads.crf_steps",
        "heads.mst",
        "heads.biaffine",
        "heads.tagger",
    },
    {"onnx_model", "settings", "footprint", "benchmark_report", "heads.crf"},
    {"formats", "windows", "texts", "checkpoint", "torch_shim", "augment", "tokenizer", "token_patterns"},
    {"corpus", "encoder", "sequences", "shrink", "heads.layer", "multiwords", "conjugation"},
    {"heads.base", "vectors"},
    {
        "transformer",
        "listener",
        "heads.scorers",
        "heads.textcat",
        "heads.ner",
        "heads.parser",
        "heads.senter",
        "vocabulary",
        "masked",
        "conllu",
        "lemmatizer",
    },
    {"unknown"},
    {"pretrain", "annotate", "project", "benchmark_texts", "train"},
    {"evaluate", "benchmark", "calibrate"},
    {"compare", "quantize", "distill"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
    if not path.name.startswith("__")
}


def imports_of(name):
    """Our own modules that a module imports, anywhere in it."""
    package = ["beto_spacy", *name.split(".")[:-1]]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = [*base, *(node.module or "").split(".")]
            names = [".".join([*target, alias.name]) for alias in node.names] + [".".join(target)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (n[len("beto_spacy.") :].strip(".") for n in names if n.startswith("beto_spacy."))


def test_every_module_has_its_layer():
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("name", list(MODULES))
def test_imports_go_down(name):
    for other in imports_of(name):
        if other in LEVEL:
            assert LEVEL[other] < LEVEL[name], f"{name} imports {other}"


def test_names_and_help_need_no_torch():
    heavy = {"torch", "spacy", "transformers", "matplotlib"}
    code = f"import sys, beto_spacy, beto_spacy.cli; assert not {heavy} & set(sys.modules)"
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
