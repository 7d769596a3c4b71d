"""Dependencies and sentences: learned, saved, and what happens at the edges."""

import textwrap
from itertools import product

import numpy
import pytest
import spacy
import torch
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Adam, fix_random_seed

from beto_spacy.errors import CorpusError
from beto_spacy.heads.parser import biaffine
from beto_spacy.heads.parser.component import _MOST_WORDS, _heads_with_one_root, _likeliest_heads
from beto_spacy.heads.parser.mst import are_trees, best_trees
from beto_spacy.heads.senter.component import _SHAPES, _WINDOW, _move_from_marks, token_shapes
from beto_spacy.pipeline.shim import at_once

CNN = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": None,
    "width": 48,
    "depth": 3,
    "embed_size": 500,
    "window_size": 1,
    "maxout_pieces": 2,
    "subword_features": True,
}
#: Word, head (from 1 in its sentence, 0 for the root), label. The last sentence isn't projective.
SENTENCES = [
    [("La", 2, "det"), ("casa", 3, "nsubj"), ("arde", 0, "ROOT"), (".", 3, "punct")],
    [("Ana", 2, "nsubj"), ("come", 0, "ROOT"), ("pan", 2, "obj"), ("negro", 3, "amod"), (".", 2, "punct")],
    [("¡", 2, "punct"), ("Corre", 0, "ROOT"), ("!", 2, "punct")],
    [("Qué", 5, "obj"), ("dice", 0, "ROOT"), ("Luis", 2, "nsubj"), ("que", 5, "mark"), ("quiere", 2, "ccomp")],
]


def doc_of(nlp, sentences, annotated=True):
    words = [word for sentence in sentences for word, _, _ in sentence]
    if not annotated:
        return Doc(nlp.vocab, words=words)
    heads, deps, starts = [], [], []
    for sentence in sentences:
        first = len(heads)
        for i, (_, head, dep) in enumerate(sentence):
            heads.append(first + head - 1 if head else first + i)
            deps.append(dep)
            starts.append(i == 0)
    return Doc(nlp.vocab, words=words, heads=heads, deps=deps, sent_starts=starts)


def example(nlp, sentences):
    return Example(doc_of(nlp, sentences, annotated=False), doc_of(nlp, sentences))


def examples(nlp):
    return [example(nlp, SENTENCES), example(nlp, SENTENCES[1:3]), example(nlp, SENTENCES[::-1])]


def build(tok2vec=CNN, **settings):
    nlp = spacy.blank("es")
    senter = {"@architectures": "beto_spacy.SentenceStarts.v1", "tok2vec": tok2vec, "dropout": 0.0}
    parser = {"@architectures": "beto_spacy.Biaffine.v1", "tok2vec": tok2vec, "dropout": 0.0}
    nlp.add_pipe("beto_senter", name="senter", config={"model": senter})
    widths = {"arc_width": 32, "label_width": 16, "hidden_width": 16}
    nlp.add_pipe("beto_parser", name="parser", config={"model": {**parser, **widths}, **settings})
    return nlp


def train(nlp, data, steps=60, rate=0.01):
    sgd = Adam(rate, L2=0.0)
    for _ in range(steps):
        losses = nlp.update(data, sgd=sgd, drop=0.0)
    return losses


@pytest.fixture(scope="module")
def trained():
    fix_random_seed(0)
    nlp = build()
    nlp.initialize(lambda: examples(nlp))
    train(nlp, examples(nlp))
    return nlp


def tree(doc):
    return [(token.text, token.head.i, token.dep_) for token in doc]


def test_it_memorises_trees_and_sentences(trained):
    for gold in (e.reference for e in examples(trained)):
        doc = trained(Doc(trained.vocab, words=[token.text for token in gold]))
        assert tree(doc) == tree(gold)
        assert [s.start for s in doc.sents] == [s.start for s in gold.sents]
    scores = trained.evaluate(examples(trained))
    assert scores["dep_las"] == 1.0 and scores["sents_f"] == 1.0


def test_pipe_equals_call_and_saving_changes_nothing(trained, tmp_path):
    trained.to_disk(tmp_path / "model")
    other = spacy.load(tmp_path / "model")
    docs = [doc_of(trained, sentences, annotated=False) for sentences in (SENTENCES, SENTENCES[1:], SENTENCES[::2])] * 3
    together = [tree(doc) for doc in trained.pipe([doc.copy() for doc in docs], batch_size=4)]
    assert together == [tree(trained(doc.copy())) for doc in docs]
    assert together == [tree(other(Doc(other.vocab, words=[t.text for t in doc]))) for doc in docs]
    assert (tmp_path / "model" / "parser" / "model.safetensors").stat().st_size > 1000


@pytest.mark.parametrize("amount", [1, 50, 1_000_000])
def test_it_is_the_same_however_much_is_worked_on_at_once(trained, monkeypatch, amount):
    docs = [doc_of(trained, sentences, annotated=False) for sentences in (SENTENCES, SENTENCES[1:], SENTENCES[::2])]
    expected = [tree(trained(doc.copy())) for doc in docs]
    monkeypatch.setattr("beto_spacy.heads.parser.component.at_once", lambda number, device: amount)
    assert [tree(doc) for doc in trained.pipe(docs)] == expected


def test_a_gpu_works_on_more_at_once():
    assert at_once(100, torch.device("cpu")) == 100 < at_once(100, torch.device("cuda"))


def test_projective_trees_on_demand(trained):
    nlp = spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes())
    free = nlp(doc_of(nlp, [SENTENCES[3]], annotated=False))
    nlp.get_pipe("parser").settings["projective"] = True
    bound = nlp(doc_of(nlp, [SENTENCES[3]], annotated=False))
    assert tree(free) != tree(bound)
    assert sum(token.head.i == token.i for token in bound) == 1


def test_each_sentence_has_one_root_and_whitespace_hangs_on_a_word(trained):
    words = ["\n", "La", "casa", " ", "arde", ".", "\n\n", "Ana", "come", "pan", ".", " "]
    doc = trained(Doc(trained.vocab, words=words))
    for sentence in doc.sents:
        roots = [token for token in sentence if token.head.i == token.i]
        assert roots == [sentence.root]
        assert all(token.head in sentence for token in sentence)
    for token in doc:
        assert token.is_space == (token.dep_ == "dep")
    blank = trained(Doc(trained.vocab, words=["\n", " "]))
    assert all(token.dep_ == "dep" for token in blank)


def test_white_space_alone_teaches_nothing(trained):
    gold = Doc(trained.vocab, words=["\n", " "], heads=[0, 0], deps=["ROOT", "dep"], sent_starts=[True, False])
    example = Example(Doc(trained.vocab, words=["\n", " "]), gold)
    pipe = trained.get_pipe("parser")
    loss, gradients = pipe.get_loss([example], pipe.model.predict([example.predicted]))
    assert loss == 0.0 and not any(d.any() for d in gradients.tensors)


def test_empty_short_and_long_documents(trained):
    empty, one, long = trained.pipe(
        [
            Doc(trained.vocab),
            Doc(trained.vocab, words=["Corre"]),
            Doc(trained.vocab, words=[w for w, _, _ in SENTENCES[1]] * 400),
        ]
    )
    assert not len(empty) and one[0].dep_ == "ROOT"
    assert len(list(long.sents)) == 400


def test_a_very_long_sentence_is_cut(trained):
    doc = Doc(
        trained.vocab, words=["pan"] * (2 * _MOST_WORDS + 10), sent_starts=[True] + [False] * (2 * _MOST_WORDS + 9)
    )
    trained.get_pipe("parser")(doc)
    assert doc.has_annotation("DEP") and max(len(sentence) for sentence in doc.sents) <= _MOST_WORDS


def test_sentences_that_are_there_are_kept(trained):
    doc = Doc(trained.vocab, words=["Ana", "come", "pan"], sent_starts=[True, None, True])
    trained.get_pipe("senter")(doc)
    assert [token.is_sent_start for token in doc] == [True, False, True]
    with pytest.raises(CorpusError, match="B250.*beto_senter"):
        trained.get_pipe("parser")(Doc(trained.vocab, words=["Ana", "come"]))


def test_the_shapes_of_words(trained):
    nlp = trained
    docs = [nlp.make_doc("Vino J. Paz (hoy)."), nlp.make_doc(""), nlp.make_doc("¿ALTO? 12")]
    seen, before = token_shapes(docs)
    assert seen.shape == (sum(map(len, docs)), len(_WINDOW) * len(_SHAPES)) and set(seen.ravel()) == {0.0, 1.0}
    assert before[1:].tolist() == list(range(len(seen) - 1))  # the word before is the token before
    shapes = seen.reshape(len(seen), len(_WINDOW), len(_SHAPES)).astype(bool)
    own = shapes[:, _WINDOW.index(0)]
    of = dict(zip([token.text for doc in docs for token in doc], own.tolist()))
    known = "lower title upper digit space stop dots ask comma colon open close quote dash dotted initial 1 2 3 long"
    found = {word: {name for name, holds in zip(known.split(), row, strict=True) if holds} for word, row in of.items()}
    assert found["J."] == {"title", "dotted", "initial", "2"}
    assert found["("] == {"open", "1"} and found["¿"] == {"open", "1"} and found["?"] == {"ask", "1"}
    assert found["hoy"] == {"lower", "3"} and found["ALTO"] == {"upper"} and found["12"] == {"digit", "2"}
    assert token_shapes([docs[1]])[0].shape == (0, seen.shape[1])
    # what is beside a token, within its document
    start = 0
    for doc in docs:
        for i in range(len(doc)):
            for place, offset in enumerate(_WINDOW):
                there = own[start + i + offset] if 0 <= i + offset < len(doc) else numpy.zeros(len(_SHAPES), bool)
                numpy.testing.assert_array_equal(shapes[start + i, place], there)
        start += len(doc)


def test_the_shapes_of_words_beyond_white_space(trained):
    docs = [
        Doc(trained.vocab, words=["\n", "Ana", " ", "\n", "come", "pan", "\t", "."]),
        Doc(trained.vocab, words=["\n"]),
    ]
    seen, before = token_shapes([docs[0], docs[1], docs[0]])
    plain, _ = token_shapes([Doc(trained.vocab, words=["Ana", "come", "pan", "."])])
    for start in (0, 9):
        numpy.testing.assert_array_equal(seen[start:][[1, 4, 5, 7]], plain)
        assert (before[start:][[4, 5, 7]] - start).tolist() == [1, 4, 5]


def test_a_line_break_may_be_a_space_and_an_empty_line_ends_a_sentence(with_encoder, monkeypatch):
    sentences = ["Ana come pan .", "Luis duerme .", "La casa arde", "Ana duerme ."]
    words = " ".join(sentences).split()

    def starts(separator):
        doc = with_encoder(separator.join(sentences).replace(" ", separator if separator == "\n" else " "))
        kept = [token for token in doc if not token.is_space]
        assert [token.text for token in kept] == words
        numbers = {token.i: n for n, token in enumerate(kept)}
        return [bool(t.is_sent_start) for t in kept], [(numbers[t.head.i], t.dep_) for t in kept]

    with monkeypatch.context() as changed:
        changed.setitem(with_encoder.get_pipe("senter").settings, "line_breaks", "space")
        assert starts(" ") == starts("\n") == starts(" \n ") == starts("\t") == starts("\n\n")
        assert sum(starts(" ")[0]) > 1
    for separator in ("\n\n", " \n \n", "\r\n\r\n"):
        found = numpy.flatnonzero(starts(separator)[0]).tolist()
        assert {0, 4, 7, 10} <= set(found)
    for text in ("\n\nAna come pan .", " Ana come pan .\n\n", "\n\n"):
        assert len(list(with_encoder(text).sents)) == 1


def untrained(**settings):
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.SentenceStarts.v1", "tok2vec": CNN, "dropout": 0.0}
    nlp.add_pipe("beto_senter", config={"model": model, **settings})
    nlp.initialize(lambda: examples(nlp))
    return nlp


@pytest.fixture
def bias(monkeypatch):
    """Make a senter find a boundary everywhere, or nowhere."""

    def set_bias(nlp, value):
        module = nlp.get_pipe("beto_senter").model.get_ref("output_layer").shims[0]._model
        torch.nn.init.constant_(module.score.bias, value)
        return nlp

    return set_bias


LISTS = {
    "Lima\nQuito\nBogotá": ["Lima", "Quito", "Bogotá"],
    "Asistentes:\nAna Ruiz\nJuan Gil": ["Asistentes:", "Ana Ruiz", "Juan Gil"],
    "Compra:\n\n1 pan\n2 huevos": ["Compra:", "1 pan", "2 huevos"],
    "Lima y\nla costa": ["Lima y la costa"],
    "Lima\n, la ciudad": ["Lima , la ciudad"],
    "Compra:\nPan\nhuevos\nLeche": ["Compra:", "Pan huevos", "Leche"],
    "El acta\nAna Ruiz dice que la casa\nes de Luis, y que viajó a\nLima con la hija y que\nél no": [
        "El acta",
        "Ana Ruiz dice que la casa es de Luis, y que viajó a Lima con la hija y que él no",
    ],
}


@pytest.mark.parametrize("text", LISTS)
def test_a_line_that_had_room_for_the_next_word_ends_a_sentence(bias, text):
    doc = bias(untrained(), -100.0)(text)
    assert [" ".join(s.text.split()) for s in doc.sents] == LISTS[text]


NAMES = "Ana Ruiz (Lima) y Juan Gil viajaron a Buenos Aires. El Banco Central «de Chile» subió la Tasa, y Quito no. "
NEWS = "El presidente del club dijo a la prensa que Ana Ruiz había llegado tarde a la reunión con los ministros. "


@pytest.mark.parametrize("text, width", [(NEWS, 20), (NEWS, 30), *((NAMES, width) for width in (40, 60, 72, 100))])
def test_wrapped_text_has_no_boundary_at_a_line_break(bias, text, width):
    wrapped = textwrap.fill(text * 8, width, break_on_hyphens=False, break_long_words=False)
    nlp = bias(untrained(), -100.0)
    assert wrapped.count("\n") > 5 and len(list(nlp(wrapped).sents)) == 1
    for before in ("https://" + 120 * "x", "Lima " * 40 + "."):
        assert len(list(nlp(f"{before}\n\n{wrapped}").sents)) == 2
    nlp = bias(untrained(line_breaks="boundary"), -100.0)
    assert len(list(nlp(wrapped).sents)) == wrapped.count("\n") + 1


def test_a_pipeline_that_was_saved_without_the_setting_has_its_default(bias, tmp_path):
    bias(untrained(line_breaks="space"), -100.0).to_disk(tmp_path)
    config = (tmp_path / "config.cfg").read_text(encoding="utf8")
    assert len(list(spacy.load(tmp_path)("Lima\nQuito").sents)) == 1
    (tmp_path / "config.cfg").write_text(config.replace('line_breaks = "space"\n', ""), encoding="utf8")
    assert len(list(spacy.load(tmp_path)("Lima\nQuito").sents)) == 2
    setting = {"components.beto_senter.line_breaks": "space"}
    assert len(list(spacy.load(tmp_path, config=setting)("Lima\nQuito").sents)) == 1


@pytest.mark.parametrize(
    "words, moved",
    [
        ("( Sí . ) Luego vino", 4),
        ("« Sí . » ) \n Luego vino", 6),
        ("( Sí . ) ; luego vino", None),
        ("« Sí . » .", None),
        ("Sí . , luego vino", None),
    ],
)
def test_a_start_at_a_closing_mark_goes_to_the_next_word(words, moved):
    doc = Doc(spacy.blank("es").vocab, words=words.split(" "))
    begins = numpy.zeros(len(doc), dtype=bool)
    begins[[0, 3 if doc[2].text == "." else 2]] = True
    _move_from_marks(doc, begins)
    assert numpy.flatnonzero(begins).tolist() == ([0] if moved is None else [0, moved])


def test_no_sentence_starts_with_a_mark_that_closes(bias):
    words = "( La casa ) , : ; . ... ?! » ” ’ ] } ! ? Ana « pan » . \n\n ) Luis".split(" ")
    for kind in ("space", "hint", "boundary"):
        doc = bias(untrained(line_breaks=kind), 100.0)(Doc(spacy.blank("es").vocab, words=words))
        assert [s[0].text for s in doc.sents] == ["(", "La", "casa", "Ana", "«", "pan", "Luis"]
    doc = bias(untrained(), 100.0)(")")
    assert doc[0].is_sent_start


def test_open_starts_teach_nothing():
    nlp = untrained()
    pipe = nlp.get_pipe("beto_senter")
    words = ["Lima", ",", "25", "may", "-", "Ana", "ríe", ".", "Leo", "ríe", "."]
    starts = [True, *[False] * 4, None, False, False, True, False, False]
    example = Example(nlp.make_doc(" ".join(words)), Doc(nlp.vocab, words=words, sent_starts=starts))
    gold = pipe.gold(example)
    assert numpy.flatnonzero(numpy.isnan(gold)).tolist() == [5] and numpy.flatnonzero(gold == 1).tolist() == [0, 8]
    assert pipe.n_units(gold) == 10
    outputs = pipe.model.predict([example.predicted])
    _, gradients = pipe.get_loss([example], outputs)
    assert numpy.flatnonzero(gradients.tensors[0].numpy() == 0).tolist() == [5]
    only_starts = Doc(nlp.vocab, words=words)
    only_starts[0].is_sent_start = only_starts[8].is_sent_start = True
    gold = pipe.gold(Example(example.predicted, only_starts))
    assert numpy.flatnonzero(gold).tolist() == [0, 8] and not numpy.isnan(gold).any()


def test_a_line_break_is_one_of_three_things():
    with pytest.raises(CorpusError, match="B258.*'line'"):
        spacy.blank("es").add_pipe("beto_senter", config={"line_breaks": "line"})


def test_sentences_do_not_depend_on_the_documents_beside(trained):
    texts = ["Ana come pan. Luis duerme.", "", "Luis duerme. Ana come pan. Ana"]
    together = [[t.is_sent_start for t in doc] for doc in trained.pipe(texts, batch_size=3)]
    assert together == [[t.is_sent_start for t in trained(text)] for text in texts]


def test_missing_annotation_teaches_nothing(trained):
    nlp = spacy.blank("es").from_config(trained.config).from_bytes(trained.to_bytes())
    bare = Example(doc_of(nlp, SENTENCES, annotated=False), doc_of(nlp, SENTENCES, annotated=False))
    losses = nlp.update([bare], sgd=None)
    assert losses["parser"] == 0.0 and losses["senter"] == 0.0
    golds = [e for e in examples(nlp)[:1]] + [bare]
    for name in ("parser", "senter"):
        pipe = nlp.get_pipe(name)
        outputs = pipe.model.predict([e.predicted for e in golds])
        _, gradients = pipe.get_loss(golds, outputs)
        n = len(golds[0].predicted)
        assert gradients.tensors[0][:n].abs().sum() > 0
        assert gradients.tensors[0][n:].abs().sum() == 0
    gold = doc_of(nlp, [SENTENCES[1]])
    partly = Doc(nlp.vocab, words=[t.text for t in gold], heads=[1, 1, 1, 3, 4], deps=["nsubj", "ROOT", "obj", "", ""])
    known = nlp.get_pipe("parser").gold(Example(doc_of(nlp, [SENTENCES[1]], annotated=False), partly))
    assert known.labels.tolist()[3:] == [-1, -1]


def log_sum(arcs):
    """That of the scores of all trees with one root, one after the other."""
    n = len(arcs)
    every = numpy.asarray([heads for heads in product(range(n + 1), repeat=n)])
    every = every[are_trees(every, [n] * len(every))]
    return torch.logsumexp(arcs[torch.arange(n), torch.from_numpy(every)].sum(dim=1), dim=0).item()


def test_the_loss_is_the_sum_of_cross_entropies(trained):
    pipe = trained.get_pipe("parser")
    gold = example(trained, [SENTENCES[0]])
    outputs = pipe.model.predict([gold.predicted])
    loss, _ = pipe.get_loss([gold], outputs)
    p = biaffine.Projections(*outputs.tensors)
    words, lengths = torch.arange(4)[None], torch.tensor([4])
    arcs = biaffine.score_arcs(p, words, lengths)[0]
    expected = log_sum(arcs) - sum(arcs[i, head].item() for i, (_, head, _) in enumerate(SENTENCES[0]))
    for i, (_, head, label) in enumerate(SENTENCES[0]):
        children = [j for j, (_, other, _) in enumerate(SENTENCES[0]) if other == i + 1]
        siblings = [j for j, (_, other, _) in enumerate(SENTENCES[0]) if other == head and j != i and head > 0]
        left = torch.cat([sum((p.label_child[j] for j in children), p.label_dependent[i]), torch.ones(1)])
        right = p.label_root if head == 0 else p.label_head[head - 1]
        right = torch.cat([sum((p.label_child[j] for j in siblings), right), torch.ones(1)])
        side = 0 if head == 0 else 1 if head < i + 1 else 2
        labels = torch.stack([left @ weight @ right for weight in p.label_weight])
        labels = labels + (left @ p.label_sides).reshape(3, -1)[side]
        of_dependent, of_head, of_child, of_sibling = p.hidden.chunk(4, dim=1)
        hidden = of_dependent[i] + p.hidden_sides[side]
        hidden = hidden + (p.hidden_root if head == 0 else of_head[head - 1])
        hidden = sum((of_child[j] for j in children), hidden)
        hidden = sum((of_sibling[j] for j in siblings), hidden)
        hidden = torch.cat([torch.nn.functional.gelu(hidden), torch.ones(1)])
        labels = labels + p.hidden_labels @ hidden
        expected -= torch.log_softmax(labels, 0)[pipe.labels.index(label)].item()
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert torch.isneginf(arcs[torch.arange(4), torch.arange(1, 5)]).all()


def test_the_probabilities_of_trees_and_of_single_heads():
    generator = torch.Generator().manual_seed(0)
    arcs = 3 * torch.randn((6, 4, 5), generator=generator)
    heads = torch.tensor([[2, 0, 2, 3], [0, 1, 2, -1], [2, 0, -1, 3], [0, 0, 1, 3], [2, 3, 1, 0], [0, -1, -1, -1]])
    lengths = [4, 3, 4, 4, 4, 1]
    places = torch.arange(5)
    beyond = places > torch.tensor(lengths)[:, None, None]
    arcs = arcs.masked_fill(beyond | (places == places[1:, None]), float("-inf")).requires_grad_()
    is_tree = torch.tensor([True, True, False, False, False, True])
    loss = biaffine.tree_loss(arcs, heads, is_tree)
    expected = 0.0
    for row, n in enumerate(lengths):
        known = [word for word in range(n) if heads[row, word] >= 0]
        if is_tree[row]:
            expected += log_sum(arcs.detach()[row, :n, : n + 1])
        else:
            expected += sum(torch.logsumexp(arcs[row, word], 0).item() for word in known)
        expected -= sum(arcs[row, word, heads[row, word]].item() for word in known)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert torch.isfinite(arcs.grad).all() and not arcs.grad[beyond.expand_as(arcs)].any()
    # The gradient is how much more probable a head is than annotated, and all heads of a word together are certain.
    assert torch.allclose(arcs.grad.sum(dim=2), torch.zeros(6, 4), atol=1e-5)
    (found,) = torch.autograd.grad(biaffine.tree_loss(far := 40 * arcs.detach().requires_grad_(), heads, is_tree), far)
    assert torch.isfinite(found).all()


def test_scores_do_not_depend_on_what_shares_the_batch():
    torch.manual_seed(0)
    module = biaffine.BiaffineProjections(8, 3, arc_width=6, label_width=4, hidden_width=5, dropout=0.0)
    torch.nn.init.normal_(module.arc_weight)
    torch.nn.init.normal_(module.label_weight)
    torch.nn.init.normal_(module.arc_places)
    torch.nn.init.normal_(module.label_sides)
    torch.nn.init.normal_(module.hidden_labels)
    torch.nn.init.normal_(module.gate_dependents)
    torch.nn.init.normal_(module.gate_heads)
    p = module(torch.randn(9, 8))
    words = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 0, 0]])
    arcs = biaffine.score_arcs(p, words, torch.tensor([5, 3]))
    alone = biaffine.score_arcs(p, words[1:, :3], torch.tensor([3]))
    assert torch.allclose(arcs[1, :3, :4], alone[0], atol=1e-5)
    assert torch.isneginf(arcs[1, :3, 4:]).all()
    heads = torch.tensor([[0, 1, 1, 2, 3], [2, 0, 2, 0, 0]])
    labels = biaffine.score_labels(p, words, heads)
    assert labels.shape == (2, 5, 3)
    assert torch.allclose(labels[1, :3], biaffine.score_labels(p, words[1:, :3], heads[1:, :3])[0], atol=1e-5)


def test_words_between_part_a_word_and_its_head():
    torch.manual_seed(0)
    module = biaffine.BiaffineProjections(8, 3, arc_width=5, label_width=4, hidden_width=5, dropout=0.0).eval()
    for weight in (module.gate_dependents, module.gate_heads):
        torch.nn.init.normal_(weight)
    k = biaffine.N_GATES
    with torch.no_grad():
        projections = module(torch.randn(9, 8))
        words, lengths = torch.tensor([[4, 5, 6, 7, 8], [1, 2, 3, 0, 0]]), torch.tensor([5, 3])
        scores = biaffine.score_arcs(projections, words, lengths)
        without = projections._replace(gate_dependents=torch.zeros(6, 2 * k), gate_heads=torch.zeros(5, 2 * k))
        part = scores - biaffine.score_arcs(without, words, lengths)
        for row, n in enumerate(lengths.tolist()):
            for word in range(n):
                assert part[row, word, 0] == 0
                for head in set(range(n)) - {word}:
                    low, high = sorted((word, head))
                    between = sum((projections.gates[words[row, i]] for i in range(low + 1, high)), torch.zeros(k))
                    side = slice(0, k) if head < word else slice(k, 2 * k)
                    own = torch.cat([projections.arc_dependent[words[row, word]], torch.ones(1)])
                    weight = (own @ projections.gate_dependents)[side]
                    weight = weight + (projections.arc_head[words[row, head]] @ projections.gate_heads)[side]
                    expected = (torch.log1p(between) * weight).sum()
                    assert part[row, word, 1 + head] == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("projective", [False, True])
def test_heads_with_one_root_lead_to_the_same_trees(projective):
    lengths = [1, 2, 3, 5, 8, 8, 8, 8] * 10
    arcs = torch.randn((len(lengths), 8, 9), generator=torch.Generator().manual_seed(0))
    arcs[:, :, 0] += torch.arange(len(lengths))[:, None] % 3  # in some of them many words want the root
    places = torch.arange(9)
    beyond = places[None, None, :] > torch.tensor(lengths)[:, None, None]
    arcs = arcs.masked_fill(beyond | (places[None, :] == places[1:, None])[None], float("-inf"))
    is_word = places[None, :8] < torch.tensor(lengths)[:, None]
    trees, asked = [], []
    for start in (_likeliest_heads, _heads_with_one_root):
        heads = start(arcs, is_word).numpy()
        asked.append(int((~are_trees(heads, lengths)).sum()))
        trees.append(best_trees(heads, lengths, lambda rows: arcs[rows].numpy(), projective=projective))
    assert (trees[0] == trees[1]).all() and are_trees(trees[1], lengths).all()
    assert 0 < asked[1] < asked[0]


@pytest.fixture(scope="module")
def with_encoder(encoders):
    torch.manual_seed(0)
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": encoders["bert"]}
    nlp.add_pipe("beto_transformer", name="transformer", config={"model": model})
    nlp.add_pipe("beto_senter", name="senter")
    nlp.add_pipe("beto_parser", name="parser")
    nlp.initialize(lambda: examples(nlp))
    before = train(nlp, examples(nlp), steps=1, rate=0.003)
    after = train(nlp, examples(nlp), steps=60, rate=0.003)
    assert after["parser"] < 0.3 * before["parser"] and after["senter"] < 0.3 * before["senter"]
    return nlp


def test_they_learn_with_the_shared_encoder(with_encoder):
    assert with_encoder.evaluate(examples(with_encoder))["sents_f"] > 0.9


def test_what_cannot_be_learned():
    nlp = build()
    with pytest.raises(CorpusError, match="B243"):
        nlp.initialize(lambda: [Example(doc_of(nlp, SENTENCES, False), doc_of(nlp, SENTENCES, False))])
