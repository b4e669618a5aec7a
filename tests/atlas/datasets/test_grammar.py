"""Minimal pairs differ in one word; synonyms are of starter facts and give no answer away."""

from collections import Counter

from atlas.datasets.grammar import load_grammar
from atlas.datasets.starter import gives_away, load_starter
from atlas.datasets.synonyms import load_synonyms


def test_there_are_eight_phenomena_or_more_of_25_pairs_or_more():
    counts = Counter(pair.phenomenon for pair in load_grammar())
    assert len(counts) >= 8
    assert min(counts.values()) >= 25
    assert len({pair.pair_id for pair in load_grammar()}) == sum(counts.values())


def test_a_pair_of_sentences_differs_in_exactly_one_word():
    for pair in load_grammar():
        for causal in (False, True):
            for prompt in pair.prompts(causal=causal):
                good, bad = (prompt.text.replace("[Y]", word).split() for word in (pair.good, pair.bad))
                assert len(good) == len(bad)
                assert sum(one != other for one, other in zip(good, bad, strict=True)) == 1, pair


def test_no_pair_is_there_twice_and_each_word_is_right_and_wrong_somewhere():
    pairs = load_grammar()
    assert len({(pair.stem, pair.good) for pair in pairs}) == len(pairs)
    for phenomenon in ("agreement-simple", "agreement-phrase", "agreement-clause", "anaphor-gender"):
        mine = [pair for pair in pairs if pair.phenomenon == phenomenon]
        assert {"is", "herself"} & {pair.good for pair in mine} & {pair.bad for pair in mine}


def test_causal_models_are_asked_for_the_last_word_and_half_of_the_wordings_are_held_out():
    for pair in load_grammar():
        prompts = pair.prompts(causal=True)
        assert all(prompt.ends_with_answer for prompt in prompts)
        assert sum(map(pair.holds_out, prompts)) * 2 == len(prompts) == 8
        assert len({prompt.text for prompt in prompts}) == 8


def test_synonyms_are_other_names_of_starter_facts_subjects():
    facts, synonyms = load_starter().facts, load_synonyms()
    subjects = {fact.subject for fact in facts}
    assert set(synonyms) <= subjects
    names = [name for of_subject in synonyms.values() for name in of_subject]
    assert len(names) == len(set(names)) >= 40
    assert not {name.casefold() for name in names} & {subject.casefold() for subject in subjects}
    asked = [(fact, name) for fact in facts for name in synonyms.get(fact.subject, ())]
    assert sum(not gives_away(name, fact.object) for fact, name in asked) >= 200
