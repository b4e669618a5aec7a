"""A model in memory that would be computed wrongly, or not at all, is refused in one sentence."""

import pytest
import torch
from torch import nn

from atlas.attribution import attribute
from atlas.compat import KnowledgeNeurons
from atlas.errors import ModelError, PromptError
from atlas.interventions import Edit, Erase
from atlas.neuron import Neuron
from atlas.surgery.subject import subject_of
from tests.tiny_models import tiny_model

NEURONS = (Neuron(0, 1), Neuron(1, 2))


class AdaptedLinear(nn.Module):
    """A layer as PEFT's LoRA leaves it: the old one inside, and a product of two narrow ones beside it."""

    def __init__(self, base_layer):
        super().__init__()
        wide, narrow = base_layer.weight.shape if hasattr(base_layer, "nx") else base_layer.weight.T.shape
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(wide, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, narrow, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


PLACES = [
    ("tiny_bert", "bert.encoder.layer.1.output.dense"),
    ("tiny_bert", "bert.encoder.layer.0.attention.self.query"),
    ("tiny_gpt2", "transformer.h.2.mlp.c_proj"),
    ("tiny_llama", "model.layers.0.mlp.down_proj"),
]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_model_with_an_adapter_in_any_layer_is_refused(name, place):
    model, tokenizer = tiny_model(name)
    model.set_submodule(place, AdaptedLinear(model.get_submodule(place)))
    kind = "bert" if name == "tiny_bert" else "gpt2"
    for bring in (
        lambda: subject_of(model, tokenizer, device="cpu"),
        lambda: KnowledgeNeurons(model, tokenizer, model_type=kind, device="cpu"),
    ):
        with pytest.raises(ModelError, match=r"has adapters \(PEFT\).*`merge_and_unload\(\)`"):
            bring()


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_an_adapter_that_the_drop_ins_model_gets_later_is_refused(name, place):
    model, tokenizer = tiny_model(name)
    kn = KnowledgeNeurons(model, tokenizer, device="cpu")
    model.set_submodule(place, AdaptedLinear(model.get_submodule(place)))
    prompt = "the capital of france is [MASK]"
    with pytest.raises(ModelError, match=r"has adapters \(PEFT\)"):
        kn.get_scores(prompt, "paris")
    with pytest.raises(ModelError, match=r"has adapters \(PEFT\)"):
        kn.erase_knowledge(prompt, [[0, 1]])


def test_a_wrapper_that_adds_to_the_prompt_is_refused():
    class PeftModel(nn.Module):
        """As PEFT's prompt tuning: no layer is another, but the input is."""

        def __init__(self, model):
            super().__init__()
            self.base_model, self.peft_config, self.config = model, {"default": None}, model.config

    model, tokenizer = tiny_model("tiny_gpt2")
    with pytest.raises(ModelError, match="PeftModel has adapters"):
        subject_of(PeftModel(model), tokenizer, device="cpu")


def test_a_layer_that_holds_integers_is_refused():
    model, tokenizer = tiny_model("tiny_llama")
    down = model.model.layers[0].mlp.down_proj
    down.weight = nn.Parameter(down.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="quantised"):
        subject_of(model, tokenizer, device="cpu")


def test_a_model_without_its_weights_in_memory_is_refused():
    model, tokenizer = tiny_model("tiny_bert")
    with pytest.raises(ModelError, match="not in memory"):
        subject_of(model.to("meta"), tokenizer, device="cpu")


@pytest.mark.parametrize(("option", "value"), [("chunk_size_feed_forward", 3), ("return_dict", False)])
def test_a_model_that_is_run_in_another_way_than_the_hooks_expect_is_refused(option, value):
    model, tokenizer = tiny_model("tiny_bert")
    setattr(model.config, option, value)
    with pytest.raises(ModelError, match=f"has {option}={value} in its config"):
        subject_of(model, tokenizer, device="cpu")


# --- tokens without an embedding ---


def with_added(name, *tokens):
    """A tiny model whose tokenizer has more tokens than the model has embeddings."""
    model, tokenizer = tiny_model(name)
    tokenizer.add_tokens(list(tokens))
    return subject_of(model, tokenizer, name=name, device="cpu")


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt2", "tiny_llama", "tiny_albert"])
@pytest.mark.parametrize(
    ("text", "answer"), [("the blorb of france is", "paris"), ("the capital of france is", "blorb")]
)
def test_a_token_without_an_embedding_is_named_in_prompts_and_answers(name, text, answer):
    subject = with_added(name, "blorb")
    prompt = subject.prompt(f"{text} [Y]", answer)
    for ask in (
        subject.encode,
        lambda each: subject.predict([each]),
        lambda each: subject.activations([each]),
    ):
        with pytest.raises(PromptError, match="The token 'blorb' has the number"):
            ask(prompt)
    known = subject.prompt("the capital of france is [Y]", "paris")
    assert subject.predict([known])[0].probability > 0
    assert not subject.can_be_asked(prompt)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt2"])
@pytest.mark.parametrize(("old", "new"), [("paris", "blorb"), ("blorb", "paris")])
def test_a_token_without_an_embedding_is_named_in_edits(name, old, new):
    subject = with_added(name, "blorb")
    prompt = subject.prompt("the capital of france is [Y]", "paris")
    with (
        subject.applied(Edit(NEURONS, old=old, new=new)) as changed,
        pytest.raises(PromptError, match="The token 'blorb'"),
    ):
        changed.predict([prompt])


def test_an_unknown_token_without_an_embedding_is_named_when_it_is_to_erase():
    model, tokenizer = tiny_model("tiny_gpt2")
    tokenizer.add_special_tokens({"unk_token": "<nothing>"})
    subject = subject_of(model, tokenizer, name="tiny_gpt2", device="cpu")
    prompt = subject.prompt("the capital of france is [Y]", "paris")
    with (
        subject.applied(Erase(NEURONS, value="unk")) as changed,
        pytest.raises(PromptError, match="The token '<nothing>'"),
    ):
        changed.predict([prompt])


def test_an_end_of_text_without_an_embedding_is_named_by_the_method_that_reads_it():
    model, tokenizer = tiny_model("tiny_gpt2")
    tokenizer.add_special_tokens({"eos_token": "<over>"})
    subject = subject_of(model, tokenizer, name="tiny_gpt2", device="cpu")
    with pytest.raises(PromptError, match="The token '<over>'"):
        attribute(
            subject,
            [subject.prompt("the capital of france is", "paris")],
            method="sequential_integrated_gradients",
        )


def test_embeddings_that_were_resized_take_the_added_token():
    model, tokenizer = tiny_model("tiny_bert")
    tokenizer.add_tokens(["blorb"])
    model.resize_token_embeddings(len(tokenizer))
    subject = subject_of(model, tokenizer, name="tiny_bert", device="cpu")
    assert subject.predict([subject.prompt("the blorb of france is [Y]", "blorb")])[0].probability > 0
