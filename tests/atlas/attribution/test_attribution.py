"""Attribution equals a plain loop, and its certificate holds, in every family."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from atlas.attribution import bisection, integration
from atlas.attribution.attribution import METHODS, LinearReadout, attribute, relative_difference
from atlas.attribution.staircase import answer_tokens, base_pass, rows_are_cheap
from atlas.errors import AtlasError, ModelError, PromptError
from atlas.neuron import Prompt
from atlas.surgery.subject import load_subject
from build.bench.plain_loop import PlainRule, down_projections, endpoints, plain_activations, plain_scores
from tests.conftest import TINY_MODELS
from tests.plain_paths import gauss_legendre, left, plain_path, right
from tests.tiny_models import (
    N_LAYERS,
    N_NEURONS,
    SENTENCES,
    byte_pair_tokenizer,
    randomize,
    save_broken_bert,
    tiny_model,
    word_piece_tokenizer,
)

EXACT = 1e-5
ONE_TOKEN = Prompt("f1", "t1", "the capital of france is [Y] .", "paris")
SEVERAL_TOKENS = Prompt("f2", "t2", "the largest city of america is [Y] .", "new york")
PROMPTS = (
    ONE_TOKEN,
    SEVERAL_TOKENS,
    Prompt("f3", "t3", "the capital of italy , not of france , is [Y] .", "rome"),
    Prompt("f4", "t1", "the capital of japan is [Y] .", "tokyo"),
    Prompt("f5", "t4", "people in rome speak [Y]", "japanese"),
    Prompt("f6", "t5", "cities : [Y]", "san francisco"),
)


@pytest.fixture(params=[True, False], ids=["ahead", "in turn"])
def cheap(request, monkeypatch):
    """Points are evaluated ahead, as of small models, or each in its turn."""
    monkeypatch.setattr(integration, "rows_are_cheap", lambda *_: request.param)


@dataclass(frozen=True)
class Plain:
    """A model read by transformers alone, and prompts encoded here: nothing is shared with `Subject`."""

    model: torch.nn.Module
    tokenizer: object

    @classmethod
    def load(cls, folder) -> Plain:
        auto = AutoModelForMaskedLM if "bert" in folder.name else AutoModelForCausalLM
        model = auto.from_pretrained(folder, dtype=torch.float32).eval()
        return cls(model, AutoTokenizer.from_pretrained(folder))

    def double(self) -> Plain:
        return Plain(self.model.double(), self.tokenizer)

    def tokens(self, prompt: Prompt) -> list[tuple[torch.Tensor, int, int]]:
        """(input_ids, position, target) of each token of the answer."""
        tokenizer = self.tokenizer
        before, after = prompt.text.split("[Y]")
        if tokenizer.mask_token is not None:
            targets = tokenizer(prompt.answer, add_special_tokens=False)["input_ids"]
            ids = tokenizer(before + "[MASK]" * len(targets) + after, return_tensors="pt")["input_ids"][0]
            positions = (ids == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
            return [(ids, position, target) for position, target in zip(positions, targets, strict=True)]
        stem = tokenizer(before.rstrip())["input_ids"]
        targets = tokenizer(" " + prompt.answer, add_special_tokens=False)["input_ids"]
        return [
            (torch.tensor(stem + targets[:j]), len(stem) + j - 1, target) for j, target in enumerate(targets)
        ]

    def scores(self, prompt: Prompt, rule: PlainRule) -> np.ndarray:
        """Mean over the answer's tokens, (n_layers, n_neurons)."""
        rows = 20 if len(rule.alphas) == 20 else 1024
        each = [plain_scores(self.model, *token, rule=rule, rows=rows) for token in self.tokens(prompt)]
        return torch.stack(each).mean(0).numpy()

    def ends(self, prompt: Prompt) -> np.ndarray:
        """P(0) and P(1) of each path, (n_answer_tokens, n_layers, 2)."""
        return np.stack(
            [
                [
                    plain_path(self.model, *token, layer=layer, alphas=[0.0, 1.0]).numpy()
                    for layer in range(len(down_projections(self.model)))
                ]
                for token in self.tokens(prompt)
            ]
        )


def difference(scores: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference as a fraction of the reference's largest |score|."""
    assert scores.shape == reference.shape
    return float(np.abs(scores - reference).max() / np.abs(reference).max())


@pytest.fixture(scope="module", params=TINY_MODELS)
def folder(request, tiny):
    return tiny(request.param)


@pytest.fixture(scope="module")
def subject(folder):
    return load_subject(str(folder), device="cpu")


@pytest.fixture(scope="module")
def plain(folder):
    return Plain.load(folder)


# --- exactness ---


@pytest.mark.parametrize("prompt", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several tokens"])
@pytest.mark.parametrize(
    ("rule", "reference"),
    [("endpoints", endpoints), ("left", left), ("right", right)],
    ids=["endpoints", "left", "right"],
)
def test_a_fixed_rule_equals_the_plain_loop(subject, plain, prompt, rule, reference):
    (result,) = attribute(subject, [prompt], rule=rule, steps=20)
    assert result.scores.shape == (N_LAYERS, N_NEURONS)
    assert result.scores.dtype == np.float32
    assert difference(result.scores, plain.scores(prompt, reference(20))) < EXACT


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_any_number_of_points_equals_the_plain_loop(subject, plain, steps):
    for rule, reference in (("endpoints", endpoints), ("left", left), ("right", right)):
        (result,) = attribute(subject, [ONE_TOKEN], rule=rule, steps=steps)
        assert difference(result.scores, plain.scores(ONE_TOKEN, reference(steps))) < EXACT


@pytest.mark.parametrize("batch_rows", [1, 3, 64, None])
def test_prompts_of_different_lengths_together_equal_each_alone(subject, batch_rows):
    together = attribute(subject, PROMPTS, rule="endpoints", batch_rows=batch_rows)
    for prompt, result in zip(PROMPTS, together, strict=True):
        (alone,) = attribute(subject, [prompt], rule="endpoints")
        assert result.prompt == prompt
        assert difference(result.scores, alone.scores) < EXACT
        assert np.allclose(result.p_zero, alone.p_zero, rtol=1e-4)


def test_one_word_and_thirty_in_a_batch_each_equal_the_plain_loop(subject, plain):
    """Padding of shorter prompts has no effect."""
    long = Prompt("f", "t", f"{' '.join(SENTENCES[-4:])} the city is [Y] .", "new york")
    short = Prompt("f", "t", "the [Y]", "paris")
    for prompt, result in zip(
        (short, long), attribute(subject, [short, long], rule="endpoints"), strict=True
    ):
        assert difference(result.scores, plain.scores(prompt, endpoints(20))) < EXACT


def test_certified_prompts_together_agree_with_each_alone(subject):
    together = attribute(subject, PROMPTS)
    for prompt, result in zip(PROMPTS, together, strict=True):
        (alone,) = attribute(subject, [prompt])
        assert difference(result.scores, alone.scores) < EXACT
        assert np.array_equal(result.n_points, alone.n_points)


def test_little_memory_changes_nothing(subject, monkeypatch):
    """A sweep cut into single rows equals one sweep."""
    whole = attribute(subject, PROMPTS[:2])
    monkeypatch.setattr(subject, "sweep_bytes", 1.0)
    for one, other in zip(attribute(subject, PROMPTS[:2]), whole, strict=True):
        assert difference(one.scores, other.scores) < EXACT


def test_scores_repeat_without_dropout(subject):
    first, second = (attribute(subject, [ONE_TOKEN])[0] for _ in range(2))
    assert np.array_equal(first.scores, second.scores)


def test_no_hook_or_gradient_remains(subject):
    attribute(subject, PROMPTS[:2])
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in subject.model.modules())
    assert all(parameter.grad is None for parameter in subject.model.parameters())


# --- the certificate ---


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("prompt", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several tokens"])
def test_scores_sum_to_the_probability_change(subject, plain, prompt, tolerance):
    (result,) = attribute(subject, [prompt], tolerance=tolerance)
    ends = plain.ends(prompt)  # (n_answer_tokens, n_layers, 2)
    assert result.converged.all()
    assert np.allclose(result.p_zero, ends[..., 0], rtol=1e-4)
    assert np.allclose(result.p_one, ends[..., 1], rtol=1e-4)
    change = (ends[..., 1] - ends[..., 0]).mean(0)
    allowed = tolerance * result.token_max.mean() + 1e-7
    assert (np.abs(result.scores.sum(1) - change) <= allowed).all()


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 0.001])
def test_scores_lie_within_the_tolerance_of_the_integral(subject, folder, tolerance):
    dense = Plain.load(folder).double()
    for prompt in PROMPTS[:3]:
        (result,) = attribute(subject, [prompt], tolerance=tolerance)
        assert result.converged.all()
        assert difference(result.scores, dense.scores(prompt, gauss_legendre(64))) < tolerance


def test_the_gap_is_the_completeness_error(subject):
    for rule in ("certified", "endpoints"):
        (result,) = attribute(subject, [ONE_TOKEN], rule=rule, tolerance=0.1)
        expected = np.abs(result.scores.sum(1) - (result.p_one[0] - result.p_zero[0]))
        assert np.allclose(result.gap[0], expected, atol=1e-7)
        assert result.max_gap == pytest.approx((result.gap[0] / np.abs(result.scores).max()).max(), rel=1e-5)


def test_a_smaller_tolerance_takes_more_points_and_never_fewer_than_three(subject):
    coarse, fine = (attribute(subject, [ONE_TOKEN], tolerance=t)[0].n_points for t in (0.2, 1e-4))
    assert coarse.min() >= 3
    assert (coarse <= fine).all()
    assert coarse.sum() < fine.sum()


def test_probability_and_rank_equal_the_models(subject, plain):
    for result in attribute(subject, PROMPTS):
        tokens = plain.tokens(result.prompt)
        product, pick_worst = 1.0, 1
        for input_ids, position, target in tokens:
            with torch.no_grad():
                p = torch.softmax(plain.model(input_ids=input_ids[None]).logits[0, position], -1)
            product *= p[target].item()
            pick_worst = max(pick_worst, int((p > p[target]).sum()) + 1)
        assert result.prediction.probability == pytest.approx(product, rel=1e-4)
        assert result.prediction.rank == pick_worst
        assert result.p_one[:, 0].prod() == pytest.approx(product, rel=1e-4)


def test_paths_are_the_probabilities_along_alpha(subject, plain):
    (result,) = attribute(subject, [SEVERAL_TOKENS], keep_paths=True)
    for paths, token in zip(result.paths, plain.tokens(SEVERAL_TOKENS), strict=True):
        for layer, (alphas, probabilities) in enumerate(paths):
            assert (alphas[0], alphas[-1]) == (0, 1)
            assert (np.diff(alphas) > 0).all()
            expected = plain_path(plain.model, *token, layer=layer, alphas=alphas.tolist())
            assert np.allclose(probabilities, expected.numpy(), rtol=1e-4)


@pytest.fixture(scope="module", params=["tiny_bert", "tiny_gpt2", "tiny_llama", "tiny_qwen2"])
def steep(request, tmp_path_factory):
    """Folders of models whose weights are so large that probabilities jump somewhere along a path."""
    folders = []
    for std, seed in ((0.3, 1), (0.4, 0), (0.5, 1), (0.5, 2)):
        folder = tmp_path_factory.mktemp(f"steep_{std}_{seed}") / request.param
        model, tokenizer = tiny_model(request.param)
        randomize(model, std=std, seed=seed)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(folder)
    return folders


STEEP_PROMPTS = (
    ONE_TOKEN,
    Prompt("f", "t", "the capital of italy , not of france , is [Y] .", "rome"),
    Prompt("f", "t", "people in tokyo speak [Y] .", "japanese"),
    Prompt("f", "t", "the iphone is made by [Y] .", "apple"),
    Prompt("f", "t", "the official language of peru is [Y] .", "german"),
    Prompt("f", "t", "cities in america : [Y] .", "sydney"),
)


def composite(n_pieces: int, n_each: int) -> PlainRule:
    """Gauss–Legendre on each of many pieces: sharp jumps need nodes everywhere, not a high degree."""
    piece = gauss_legendre(n_each)
    return PlainRule(
        tuple((k + alpha) / n_pieces for k in range(n_pieces) for alpha in piece.alphas),
        tuple(weight / n_pieces for _ in range(n_pieces) for weight in piece.weights),
    )


@pytest.mark.usefixtures("cheap")
def test_a_certificate_holds_where_paths_jump(steep):
    """Compared where the reference itself has converged: jumps can be narrower than its nodes."""
    n_judged = n_hard = 0
    false = []
    for folder in steep:
        subject, plain = load_subject(str(folder), device="cpu"), Plain.load(folder).double()
        for prompt, result in zip(STEEP_PROMPTS, attribute(subject, STEEP_PROMPTS), strict=True):
            coarse, reference = (plain.scores(prompt, composite(n, 8)) for n in (12, 48))
            settled = np.abs(coarse - reference).max(1) < 1e-3 * result.token_max[0]
            errors = np.abs(result.scores - reference).max(1) / result.token_max[0]
            judged = settled & result.converged[0]
            n_judged += judged.sum()
            n_hard += (judged & (result.n_points[0] > 17)).sum()
            false += [
                (folder.name, prompt.answer, float(error)) for error in errors[judged & (errors > 0.01)]
            ]
    assert n_judged > 60
    assert n_hard > 10
    assert not false


@pytest.mark.usefixtures("cheap")
def test_every_point_that_is_counted_was_evaluated(steep):
    """Also in a layer that resumes because another layer's scores shrank."""
    for folder in steep:
        for result in attribute(load_subject(str(folder), device="cpu"), PROMPTS, keep_paths=True):
            for paths, counts in zip(result.paths, result.n_points, strict=True):
                evaluated = [len(np.unique(alphas.round(9))) for alphas, _ in paths]
                assert evaluated == counts.tolist()


def test_no_path_stops_while_points_are_left(steep):
    for folder in steep:
        for result in attribute(load_subject(str(folder), device="cpu"), PROMPTS):
            assert (result.n_points[~result.converged] > 513 - 2 * 7).all()


@pytest.mark.parametrize("tolerance", [0.2, 1e-4])
def test_points_evaluated_ahead_change_nothing_but_the_number_of_sweeps(subject, tolerance, monkeypatch):
    sweeps: list[int] = []
    for module in (integration, bisection):

        def counted(subject, base, rows, own=module.sweep, **options):
            sweeps.append(len(rows))
            return own(subject, base, rows, **options)

        monkeypatch.setattr(module, "sweep", counted)
    results, counts = [], []
    for is_cheap in (True, False):
        monkeypatch.setattr(integration, "rows_are_cheap", lambda *_, is_cheap=is_cheap: is_cheap)
        sweeps.clear()
        results += attribute(subject, [ONE_TOKEN], tolerance=tolerance, keep_paths=True)
        counts.append(len(sweeps))
    ahead, in_turn = results
    assert counts[0] < counts[1] or counts == [1, 1]
    assert np.array_equal(ahead.n_points, in_turn.n_points)
    assert relative_difference(ahead.scores, in_turn.scores) < EXACT
    for one, other in zip(ahead.paths[0], in_turn.paths[0], strict=True):
        assert np.allclose(one, other, atol=EXACT)


def test_rows_are_cheap_where_they_are_few_and_the_model_is_small(subject):
    base = base_pass(subject, answer_tokens(subject.encode(ONE_TOKEN), subject.family.kind))
    assert rows_are_cheap(subject, base, 27)
    assert not rows_are_cheap(subject, base, 10**8)


def test_unsettled_paths_are_flagged_within_the_point_limit(subject):
    (result,) = attribute(subject, [ONE_TOKEN], tolerance=1e-12, max_points=100)
    assert not result.converged.any()
    assert (result.n_points <= 100).all()
    assert (result.n_points >= 65).all()


# --- other methods ---


def test_gradient_times_activation_is_the_integrand_at_alpha_one(subject, plain):
    for prompt in (ONE_TOKEN, SEVERAL_TOKENS):
        (result,) = attribute(subject, [prompt], method="gradient_x_activation")
        assert difference(result.scores, plain.scores(prompt, PlainRule((1.0,), (1.0,)))) < EXACT


def test_the_activation_baseline_is_the_activation(subject, plain):
    for prompt in (ONE_TOKEN, SEVERAL_TOKENS):
        (result,) = attribute(subject, [prompt], method="activation")
        expected = [
            plain_activations(plain.model, ids, position) for ids, position, _ in plain.tokens(prompt)
        ]
        assert difference(result.scores, torch.stack(expected).mean(0).numpy()) < EXACT


def test_log_probability_increase_reads_each_neuron_alone_through_the_head(subject):
    """By hand for the last layer: one neuron's part replaces the down-projection's output."""
    (result,) = attribute(subject, [ONE_TOKEN], method="log_prob_increase")
    encoded = subject.encode(ONE_TOKEN)
    position, target = encoded.positions[0], encoded.targets[0]
    last = N_LAYERS - 1
    down = subject.family.down(subject.model, last)
    activation = plain_activations(subject.model, torch.tensor(encoded.input_ids), position)[last]

    def log_probability(write: torch.Tensor) -> float:
        def replace(module, inputs, output):
            changed = output.clone()
            changed[0, position] = write
            return changed

        handle = down.register_forward_hook(replace)
        try:
            with torch.no_grad():
                logits = subject.model(input_ids=torch.tensor([encoded.input_ids])).logits
        finally:
            handle.remove()
        return logits[0, position].log_softmax(-1)[target].item()

    before = log_probability(torch.zeros(subject.d_model))
    values = subject.family.value_vectors(subject.model, last)
    for neuron in (0, 7, N_NEURONS - 1):
        increase = log_probability(activation[neuron] * values[neuron]) - before
        assert result.scores[last, neuron] == pytest.approx(increase, rel=1e-3, abs=1e-5)


def test_the_linear_readout_equals_reading_each_neuron(subject, monkeypatch):
    prompts = [ONE_TOKEN, SEVERAL_TOKENS]
    assert (LinearReadout.of(subject) is None) == (subject.family.kind == "masked")
    fast = attribute(subject, prompts, method="log_prob_increase")
    monkeypatch.setattr(LinearReadout, "of", lambda subject: None)
    for found, expected in zip(fast, attribute(subject, prompts, method="log_prob_increase"), strict=True):
        assert difference(found.scores, expected.scores) < EXACT


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_batches_as_single_prompts(subject, method):
    together = attribute(subject, PROMPTS, method=method)
    for prompt, result in zip(PROMPTS, together, strict=True):
        (alone,) = attribute(subject, [prompt], method=method)
        assert difference(result.scores, alone.scores) < 1e-4


def test_methods_without_a_path_have_no_certificate(subject):
    for method in set(METHODS) - {"integrated_gradients", "sequential_integrated_gradients"}:
        (result,) = attribute(subject, [ONE_TOKEN], method=method)
        assert not result.converged.any()
        assert np.isnan(result.gap).all()


# --- progress and bad input ---


def test_progress_ends_with_all_prompts_done(subject):
    seen = []
    attribute(subject, PROMPTS, rule="left", steps=2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(PROMPTS), len(PROMPTS))
    assert seen == sorted(seen)


def test_no_prompts_give_no_results(subject):
    assert attribute(subject, []) == []


def test_a_model_with_a_nan_is_refused(tmp_path):
    broken = load_subject(str(save_broken_bert(tmp_path)), device="cpu")
    for options in ({}, {"rule": "endpoints"}, {"method": "activation"}):
        with pytest.raises(ModelError, match=r"NaN.*\. .*\.$"):
            attribute(broken, [ONE_TOKEN], **options)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"method": "astrology"}, "astrology"),
        ({"rule": "simpson"}, "simpson"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"max_points": 3}, "max_points"),
        ({"rule": "left", "steps": 0}, "steps must be a whole number of 1 or more, got 0"),
        ({"rule": "endpoints", "steps": 2.5}, "steps must be a whole number of 1 or more, got 2.5"),
        ({"rule": "right", "steps": "20"}, "steps must be a whole number of 1 or more, got '20'"),
    ],
)
def test_options_out_of_range_are_refused(tiny_bert, options, word):
    with pytest.raises(AtlasError, match=word):
        attribute(load_subject(str(tiny_bert), device="cpu"), [ONE_TOKEN], **options)


def test_a_causal_model_refuses_text_after_the_answer(tiny_gpt2):
    going_on = Prompt("f", "t", "[Y] is the capital of france .", "paris")
    with pytest.raises(PromptError, match="continues after the answer"):
        attribute(load_subject(str(tiny_gpt2), device="cpu"), [going_on])


# --- the sizes people use ---


def test_a_model_with_more_tokens_than_its_tokenizer_is_read(tmp_path):
    """Vocabularies are padded to round numbers (Qwen2: 151,936 for 151,665); padding can rank high."""
    model, tokenizer = tiny_model("tiny_gpt2")
    model.resize_token_embeddings(10 * len(tokenizer))
    randomize(model)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (result,) = attribute(load_subject(str(tmp_path), device="cpu"), [ONE_TOKEN], rule="left", steps=2)
    assert len(result.prediction.top) == 10
    assert all(token for token, _ in result.prediction.top)


@pytest.fixture(scope="module", params=["bert-base", "gpt2"])
def full_size(request, tmp_path_factory):
    """BERT-base's and GPT-2's shapes with transformers' own random weights."""
    folder = tmp_path_factory.mktemp("shapes") / request.param
    torch.manual_seed(0)
    if request.param == "bert-base":
        model, tokenizer = BertForMaskedLM(BertConfig()), word_piece_tokenizer()
    else:
        model, tokenizer = GPT2LMHeadModel(GPT2Config()), byte_pair_tokenizer(end="<|endoftext|>")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_full_sized_models_equal_the_plain_loop(full_size):
    subject, plain = load_subject(str(full_size), device="cpu"), Plain.load(full_size)
    assert (subject.n_layers, subject.n_neurons) == (12, 3072)
    (result,) = attribute(subject, [ONE_TOKEN], rule="endpoints", steps=20)
    assert difference(result.scores, plain.scores(ONE_TOKEN, endpoints(20))) < EXACT
    (certified,) = attribute(subject, [ONE_TOKEN])
    assert certified.converged.all()
    ends = plain.ends(ONE_TOKEN)[0]
    change = ends[:, 1] - ends[:, 0]
    assert (np.abs(certified.scores.sum(1) - change) <= 0.01 * certified.token_max[0] + 1e-9).all()
