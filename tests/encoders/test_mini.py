"""The encoder that comes with the package."""

import sys

import pytest
import torch
from conftest import ROOT, run
from safetensors import safe_open
from transformers import AutoModel, AutoModelForMaskedLM, pipeline

from beto_spacy.encoders.checkpoint import EMBEDDED, load_checkpoint, resolve_encoder
from beto_spacy.encoders.masked import EMOJI, evaluate_encoder, load_masked_model

MINI = EMBEDDED / "beto-mini"


def test_it_is_found_by_its_name(tmp_path):
    assert resolve_encoder("beto-mini") == str(MINI)
    code = "from beto_spacy.encoders.checkpoint import *; print(load_checkpoint('beto-mini').model.config.hidden_size)"
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path, env=offline)
    assert done.returncode == 0 and done.stdout.strip().isdigit(), done.stderr
    assert not done.stderr


def test_its_files_are_small_and_ordinary():
    files = {file.name: file.stat().st_size for file in MINI.iterdir()}
    assert sum(files.values()) < 45 << 20
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"} <= set(files)
    with safe_open(MINI / "model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(key) for key in weights.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


def test_its_card_says_what_it_is():
    card = (MINI / "README.md").read_text(encoding="utf8")
    for word in ("license", "un_news_es", "beto-spacy pretrain", "CoNLL-2002", "Limits", "no licence"):
        assert word in card, word


def test_transformers_loads_it():
    assert AutoModel.from_pretrained(MINI).config.model_type == "bert"
    assert (
        AutoModelForMaskedLM.from_pretrained(MINI).config.vocab_size == load_masked_model(MINI).model.config.vocab_size
    )


@pytest.mark.parametrize(
    "text",
    [
        "El pingüino y la cigüeña comieron ñoquis en Ñuñoa.",
        "¿Cómo estás? ¡Qué alegría!",
        "Última canción, él sí está aquí: áéíóú ÁÉÍÓÚ ç à",
        "Costó 1.250,50 € — ¿o 30 %? «No sé», dijo.",
    ],
)
def test_its_vocabulary_round_trips_spanish(text):
    tokenizer = load_checkpoint("beto-mini").tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_its_vocabulary_has_emoji_and_few_pieces_a_word():
    tokenizer = load_checkpoint("beto-mini").tokenizer
    for emoji in (*"😊😂❤👍😭", EMOJI[0], EMOJI[-1]):
        assert tokenizer.tokenize(f"presidente{emoji}amigo") == ["presidente", emoji, "amigo"]
    text = (ROOT / "corpus" / "sample" / "text" / "news.txt").read_text(encoding="utf8")
    assert len(tokenizer.tokenize(text)) / len(text.split()) < 1.6  # marks of punctuation are pieces too


def test_it_has_learned_spanish():
    """On text that it hasn't read, it's far better than guessing the most frequent words."""
    files = sorted((ROOT / "corpus" / "sample" / "text").glob("*.txt"))
    scores = evaluate_encoder("beto-mini", files, perplexity_sequences=1)
    assert scores["all"]["accuracy"] > 0.2
    guesses = pipeline("fill-mask", str(MINI))("El presidente de la [MASK] viajó ayer.", top_k=20)
    assert {"República", "Asamblea", "Comisión", "Corte"} & {guess["token_str"] for guess in guesses}
