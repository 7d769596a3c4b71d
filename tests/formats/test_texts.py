"""Reading and cleaning running text."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from beto_spacy.errors import FormatError, ProjectError
from beto_spacy.formats.running_text import (
    TextSource,
    clean_paragraph,
    clean_texts,
    duplicate_keys,
    parse_source,
    read_documents,
)


def test_documents_are_read_from_plain_and_compressed_files(tmp_path):
    text = "\nUno.\n Dos. \n\n\nTres.\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf8")
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(text.encode()))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.txt", "a.txt.xz", "a.txt.gz"):
        assert list(read_documents([tmp_path / name])) == [["Uno.", "Dos."], ["Tres."]]
    (tmp_path / "a.txt").write_text("\ufeffUno.", encoding="utf8")
    assert list(read_documents([tmp_path / "a.txt"])) == [["Uno."]]


@pytest.mark.parametrize(
    "name, content, code",
    [
        ("a.pdf", b"x", "B601"),
        ("a.txt", None, "B602"),
        ("a.txt", b"\xff\xfe\xfa", "B602"),
        ("a.txt.xz", b"no xz", "B602"),
        ("a.txt.gz", gzip.compress(b"abc\n" * 1000)[:30], "B602"),
        ("a.txt", b"\n \n", "B603"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, code):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=code):
        list(read_documents([tmp_path / name]))


@pytest.mark.parametrize(
    "text, problem",
    [
        ("El ministro llegó ayer a la ciudad.", ""),
        ("—¿Vienes? —preguntó.", ""),
        ("Buenos días.", ""),
        ("Introducción", "short"),
        ("Use el comando `git push` para enviar los cambios.", "markup"),
        ("Consulte https://ejemplo.es para más información sobre el tema.", "markup"),
        ("12 345 678 90 11 12 13 14 a 15 b 16", "symbols"),
        ("TÍTULO PRIMERO DE LA NACIÓN", "symbols"),
        ("The quick brown fox jumps over lazy dogs again today", "foreign"),
    ],
)
def test_paragraphs_are_judged(text, problem):
    assert clean_paragraph(text) == (text, problem)


def test_paragraphs_are_normalized():
    assert clean_paragraph("El  nin\u0303o\u00a0 vino\u200b de\tallí.") == ("El niño vino de allí.", "")


def test_near_duplicates_are_known():
    keys = duplicate_keys("El 3 de mayo de 2004 se aprobó la Ley N° 25.453.")
    assert keys == duplicate_keys("El 17 de MAYO de 1999, se aprobo la ley n° 1")
    assert not set(keys) & set(duplicate_keys("El 3 de junio de 2004 se aprobó la Ley N° 25.453."))
    long = "Que la presente medida se dicta en ejercicio de las atribuciones conferidas "
    long += "por la Constitución Nacional y las leyes, "
    assert set(duplicate_keys(long + "artículo primero.")) & set(duplicate_keys(long + "artículo segundo."))


def write(path, documents):
    path.write_text("\n\n".join("\n".join(d) for d in documents) + "\n", encoding="utf8")
    return path


def words(register, n, length=20):
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    name = "".join(alphabet[int(d)] for d in str(n))
    return [f"{register} {name} {alphabet[i]}rio fue a la casa de mi vecina" for i in range(length)]


@pytest.fixture
def sources(tmp_path):
    big = write(tmp_path / "big.txt", [words("ley", n) for n in range(300)])
    small = write(tmp_path / "small.txt", [words("noticia", n) for n in range(60)])
    other = write(tmp_path / "other.txt", [words("novela", n) for n in range(80)] + [words("novela", 3)])
    return [TextSource("law", [big]), TextSource("news", [small]), TextSource("novels", [other])]


def test_registers_are_evened_out_and_some_is_put_aside(tmp_path, sources):
    report = clean_texts(sources, tmp_path / "out", share=0.4, held_out_words=500)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf8"))
    shares = {name: r["share"] for name, r in report["registers"].items()}
    assert max(shares.values()) <= 0.41 and abs(sum(shares.values()) - 1) < 1e-3
    assert shares["law"] > 0.39
    seen = []
    for name in ("law", "news", "novels"):
        train = list(read_documents([tmp_path / "out" / f"{name}.txt.xz"]))
        aside = list(read_documents([tmp_path / "out" / "held-out" / f"{name}.txt"]))
        kept = report["registers"][name]
        assert sum(len(p.split()) for d in train for p in d) == kept["words"]
        assert sum(len(p.split()) for d in aside for p in d) == kept["held_out_words"]
        assert 500 <= kept["held_out_words"] < 520
        train_lines, aside_lines = ({p for d in part for p in d} for part in (train, aside))
        assert not train_lines & aside_lines
        seen.extend([*train_lines, *aside_lines])
        for file in kept["files"].values():
            assert file["words_read"] == file["words_kept"] + sum(file["words_dropped"].values())
    assert len(seen) == len(set(seen))
    assert report["registers"]["novels"]["files"]["other.txt"]["words_dropped"] == {"near-duplicate": 200}
    assert {p.name for p in tmp_path.iterdir()} == {"big.txt", "small.txt", "other.txt", "out"}


def test_cleaning_is_repeatable_and_replaces_what_it_wrote(tmp_path, sources):
    for _ in range(2):
        clean_texts(sources, tmp_path / "a", share=0.4)
    clean_texts(sources, tmp_path / "b", share=0.4)
    for name in ("law.txt.xz", "held-out/news.txt", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    clean_texts(sources, tmp_path / "b", share=0.4, seed=1)
    assert (tmp_path / "a" / "law.txt.xz").read_bytes() != (tmp_path / "b" / "law.txt.xz").read_bytes()


def test_cleaning_says_what_is_wrong(tmp_path, sources):
    with pytest.raises(ProjectError, match="B604"):
        clean_texts(sources, tmp_path / "out", share=0.3)
    with pytest.raises(ProjectError, match="B604"):
        clean_texts(sources, tmp_path / "out", share=float("nan"))
    with pytest.raises(ProjectError, match="B604"):
        clean_texts([sources[0], sources[0]], tmp_path / "out")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ProjectError, match="B605"):
        clean_texts(sources, tmp_path / "mine", share=0.5)
    with pytest.raises(FormatError, match="B602"):
        clean_texts([*sources, TextSource("x", [tmp_path / "no.txt"])], tmp_path / "out", share=0.5)
    with pytest.raises(ProjectError, match="B607.*--held-out-words"):
        clean_texts(sources, tmp_path / "out", share=0.5, held_out_words=10_000_000)
    assert not (tmp_path / "out").exists()
    assert parse_source("news=a.txt,b.txt") == TextSource("news", [Path("a.txt"), Path("b.txt")])
    assert parse_source(f"news={tmp_path}/*.txt").paths == sorted(tmp_path.glob("*.txt"))
    with pytest.raises(FormatError, match="B637"):
        parse_source(f"news={tmp_path}/none*.txt")
    for text in ("news", "=a.txt", "a/b=c", "news="):
        with pytest.raises(ProjectError, match="B606"):
            parse_source(text)
