"""Tiny encoders of each family, built here with random weights, and pipelines on them."""

import os
import re
import shutil
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertModel,
    AlbertTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizerFast,
)

from beto_spacy.training.vocabulary import build_encoder

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

#: Sentences that the tokenizers of the tests are trained on, and that the tests encode.
SENTENCES = [
    "El presidente de la República del Perú viajó ayer a Montevideo con tres ministros.",
    "¿Vos tenés el pasaje, o se lo dejaste a María José en la estación de Atocha?",
    "¡Qué buena película! La vimos dos veces en el cine de Guadalajara, México.",
    "El 12 de marzo de 2024 la empresa vendió 1.250,50 euros en acciones.",
    "Dámelo ahora mismo, por favor; mañana salgo temprano para Bogotá.",
    "No me gustó nada el servicio: tardaron una hora y la comida llegó fría.",
    "Los niños jugaban al fútbol en la plaza, junto al río, cuando empezó a llover.",
    "La Universidad de Salamanca y el Banco del Sur firmaron un acuerdo.",
]
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
FAMILIES = ("bert", "roberta", "xlm-roberta", "albert")


def _save(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _bert(folder, texts):
    text = folder.with_suffix(".txt")
    text.write_text("\n".join(SENTENCES * 2), encoding="utf8")
    return build_encoder([text], folder, vocabulary_size=400, layers=2, width=32, heads=4)


def _roberta(folder, texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    config = RobertaConfig(vocab_size=500, max_position_embeddings=514, pad_token_id=1, type_vocab_size=1, **SIZES)
    return _save(folder, RobertaModel(config), RobertaTokenizerFast(tokenizer_object=tokenizer))


def _unigram(texts, specials, normalizer, pre_tokenizer):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=specials, unk_token="<unk>", show_progress=False)
    # Punctuation apart: as in the real vocabularies, a word with a mark glued to it is no piece.
    tokenizer.train_from_iterator([re.sub(r"([^\w\s])", r" \1 ", text) for text in texts], trainer)
    return tokenizer


def _xlm_roberta(folder, texts):
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pre = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer = _unigram(texts, specials, normalizers.NFKC(), pre)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=514, pad_token_id=1, type_vocab_size=1, **SIZES
    )
    return _save(folder, XLMRobertaModel(config), XLMRobertaTokenizerFast(tokenizer_object=tokenizer))


def _albert(folder, texts):
    specials = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("``", '"')])
    tokenizer = _unigram(texts, specials, normalizer, pre_tokenizers.Metaspace())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = AlbertConfig(
        vocab_size=tokenizer.get_vocab_size(), embedding_size=16, max_position_embeddings=512, pad_token_id=0, **SIZES
    )
    return _save(folder, AlbertModel(config), AlbertTokenizerFast(tokenizer_object=tokenizer))


BUILDERS = {"bert": _bert, "roberta": _roberta, "xlm-roberta": _xlm_roberta, "albert": _albert}


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """A folder with a tiny random encoder for each family."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    return {family: str(build(root / family, SENTENCES)) for family, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def shared():
    """The folder of real corpora, for the tests that want it."""
    if not SHARED.is_dir():
        pytest.skip("the real corpora are not here (a folder shared/data beside the project)")
    return SHARED


# --- the project -----------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("convert-sample", "check", "train", "calibrate", "evaluate", "package")
SHORT = ("--vars.updates", "6", "--vars.evaluations", "1")


def run(*command, cwd, **kwargs):
    """Run a command as a user would; returns the finished process with its output."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf8", **kwargs.pop("env", {})}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, encoding="utf8", **kwargs)


def spacy_project(folder, step, *options):
    return run(sys.executable, "-m", "spacy", "project", "run", step, str(folder), *options, cwd=folder)


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A copy of the project in which the steps of the quick start ran, with a short training; it's left as it is."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("project.yml", "configs", "corpus/sample"):
        source, dest = ROOT / name, folder / name
        shutil.copytree(source, dest) if source.is_dir() else shutil.copy(source, dest)
    for step in STEPS:
        done = spacy_project(folder, step, *SHORT)
        assert done.returncode == 0, f"{step}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return folder


@pytest.fixture(scope="session")
def installed(project, tmp_path_factory):
    """A folder that has the project's package installed, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = (project / "packages").glob("*.whl")
    done = run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(wheel),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder
