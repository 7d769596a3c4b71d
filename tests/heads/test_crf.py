"""The conditional random field, against counting all tag sequences one by one."""

import itertools

import pytest
import torch

from beto_spacy.heads.ner import crf

_GOES_BY_STEPS = crf._goes_by_steps


@pytest.fixture(params=["tree", "steps"], autouse=True)
def way(request, monkeypatch):
    """Everything holds both ways."""
    monkeypatch.setattr(crf, "_goes_by_steps", lambda potentials: request.param == "steps")


def random_potentials(n_sequences=3, length=4, n_labels=2, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    size = crf.n_tags(n_labels)

    def draw(*shape):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([length, *range(1, n_sequences)])[:n_sequences]
    return crf.Potentials(draw(n_sequences, length, size), draw(size), draw(size, size), lengths)


def is_legal(tags):
    for i, tag in enumerate(tags):
        if tag and tag % 2 == 0 and (i == 0 or tags[i - 1] not in (tag - 1, tag)):
            return False
    return True


def sequences(potentials, row):
    """All legal tag sequences of one row, with their scores."""
    length, size = int(potentials.lengths[row]), potentials.emissions.shape[2]
    for tags in itertools.product(range(size), repeat=length):
        if is_legal(tags):
            score = potentials.starts[tags[0]] + sum(potentials.emissions[row, i, t] for i, t in enumerate(tags))
            score = score + sum(potentials.transitions[a, b] for a, b in zip(tags, tags[1:]))
            yield tags, float(score)


def spans_of(tags):
    found, start = [], None
    for i, tag in enumerate([*tags, 0]):
        if start is not None and not (tag and tag % 2 == 0):
            found.append((start[0], i - 1, start[1]))
            start = None
        if tag % 2 == 1:
            start = (i, (tag - 1) // 2)
    return found


@pytest.mark.parametrize("length, n_labels", [(1, 1), (2, 2), (3, 2), (4, 2), (5, 1), (7, 1)])
@pytest.mark.parametrize("scale", [0.5, 30.0])
def test_it_equals_counting_all_sequences(length, n_labels, scale):
    potentials = random_potentials(length=length, n_labels=n_labels, scale=scale, n_sequences=min(3, length))
    total = crf.log_partition(potentials)
    best = crf.viterbi(potentials)
    sums = crf.forward_backward(potentials)
    marginals = crf.tag_marginals(sums)
    assert torch.allclose(sums.total, total)
    for row in range(len(total)):
        n = int(potentials.lengths[row])
        scored = list(sequences(potentials, row))
        scores = torch.tensor([score for _, score in scored], dtype=torch.float64)
        assert total[row].item() == pytest.approx(torch.logsumexp(scores, 0).item(), rel=1e-9)
        assert best[row, :n].tolist() == list(scored[int(scores.argmax())][0])
        assert best[row, n:].tolist() == [0] * (length - n)
        probabilities = (scores - torch.logsumexp(scores, 0)).exp()
        expected = torch.zeros_like(marginals[row])
        by_span = {}
        for (tags, _), p in zip(scored, probabilities):
            for i, tag in enumerate(tags):
                expected[i, tag] += p
            for span in spans_of(tags):
                by_span[span] = by_span.get(span, 0.0) + float(p)
        assert torch.allclose(marginals[row, :n], expected[:n], atol=1e-9)
        queries = torch.tensor([(row, *span) for span in by_span])
        found = crf.span_probabilities(potentials, sums, queries)
        assert found.tolist() == pytest.approx(list(by_span.values()), abs=1e-9)


def test_marginals_sum_to_one_and_are_the_gradient_of_the_total():
    potentials = random_potentials(length=37, n_labels=4)
    marginals = crf.tag_marginals(crf.forward_backward(potentials))
    emissions = potentials.emissions.clone().requires_grad_()
    crf.log_partition(potentials._replace(emissions=emissions)).sum().backward()
    inside = torch.arange(37) < potentials.lengths[:, None]
    assert torch.allclose(marginals.sum(dim=2)[inside], torch.ones(int(inside.sum()), dtype=torch.float64))
    assert torch.allclose(emissions.grad[inside], marginals[inside], atol=1e-9)
    assert (emissions.grad[~inside] == 0).all()


def test_gradients():
    emissions, starts, transitions, lengths = random_potentials(length=5)
    possible = torch.ones(emissions.shape, dtype=torch.bool)
    possible[0, 1] = torch.tensor([False, True, False, False, False])
    possible[0, 2] = torch.tensor([False, False, True, False, False])
    inputs = [t.clone().requires_grad_() for t in (emissions, starts, transitions)]

    def loss(*tensors):
        return crf.negative_log_likelihood(crf.Potentials(*tensors, lengths), possible)

    assert torch.autograd.gradcheck(loss, inputs)


def test_the_likelihood_of_full_partial_and_missing_annotation():
    potentials = random_potentials(n_sequences=1, length=4)
    scored = list(sequences(potentials, 0))
    scores = torch.tensor([score for _, score in scored], dtype=torch.float64)
    log_probabilities = scores - torch.logsumexp(scores, 0)

    def likelihood(known):
        possible = torch.ones(potentials.emissions.shape, dtype=torch.bool)
        for i, tag in known.items():
            possible[0, i] = False
            possible[0, i, tag] = True
        agreeing = [i for i, (tags, _) in enumerate(scored) if all(tags[t] == tag for t, tag in known.items())]
        expected = -torch.logsumexp(log_probabilities[agreeing], 0)
        return crf.negative_log_likelihood(potentials, possible).item(), expected.item()

    for known in ({0: 0, 1: 1, 2: 2, 3: 0}, {1: 3}, {2: 2}, {0: 1, 3: 4}):
        ours, expected = likelihood(known)
        assert ours == pytest.approx(expected, abs=1e-9)
    assert likelihood({})[0] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 2000])
def test_all_lengths_work_and_nothing_overflows(length):
    potentials = random_potentials(n_sequences=1, length=length, n_labels=4, scale=20.0)
    tags = crf.viterbi(potentials)
    assert is_legal(tags[0].tolist())
    sums = crf.forward_backward(potentials)
    assert torch.isfinite(sums.total).all()
    spans = crf.tags_to_spans(tags, potentials.lengths)
    probabilities = crf.span_probabilities(potentials, sums, spans)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert [tuple(span[1:]) for span in spans.tolist()] == spans_of(tags[0].tolist())


def test_the_best_sequence_is_legal_where_the_emissions_are_not():
    emissions = torch.zeros(1, 3, 5)
    emissions[0, :, 2] = 50.0  # inside the first label, all the way
    potentials = crf.Potentials(emissions, torch.zeros(5), torch.zeros(5, 5), torch.tensor([3]))
    assert crf.viterbi(potentials).tolist() == [[1, 2, 2]]


def test_a_temperature_flattens():
    potentials = random_potentials(n_sequences=1, length=6)
    sharp, flat = (crf.tag_marginals(crf.forward_backward(potentials.scaled(t))).amax(dim=2).mean() for t in (0.5, 5.0))
    assert flat < sharp


def test_spans_of_neighbours_and_of_padding():
    tags = torch.tensor([[1, 1, 2, 0, 3], [3, 4, 0, 1, 2]])
    spans = crf.tags_to_spans(tags, torch.tensor([5, 3]))
    assert spans.tolist() == [[0, 0, 0, 0], [0, 1, 2, 0], [0, 4, 4, 1], [1, 0, 1, 1]]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_is_that_of_all_sequences(temperature):
    one, other = random_potentials(seed=1), random_potentials(seed=2)
    expected = 0.0
    for row in range(3):
        wanted, found = (
            torch.tensor([s for _, s in sequences(p, row)], dtype=torch.float64) / temperature for p in (other, one)
        )
        wanted, found = wanted.log_softmax(0), found.log_softmax(0)
        expected += float((wanted.exp() * (wanted - found)).sum()) * temperature**2
    assert float(crf.divergence(one, other, temperature)) == pytest.approx(expected, abs=1e-9) and expected > 1
    leaves = [tensor.clone().requires_grad_() for tensor in other[:3]]
    same = crf.divergence(crf.Potentials(*leaves, other.lengths), other, temperature)
    assert float(same.detach()) == pytest.approx(0.0, abs=1e-9)
    assert all(gradient.abs().max() < 1e-9 for gradient in torch.autograd.grad(same, leaves))


@pytest.mark.parametrize(
    "n_sequences, length, expected", [(1, 100, True), (20, 20, True), (2, 500, False), (16, 500, True)]
)
def test_steps_are_for_short_sequences_and_for_many(n_sequences, length, expected):
    assert _GOES_BY_STEPS(random_potentials(n_sequences=n_sequences, length=length)) is expected
