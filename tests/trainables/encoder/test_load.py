"""Encoders of many families: packed equals padded, what cannot be packed is caught, heads, loading."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, BertModel

from tests.helpers import reviews, tiny_encoder
from tests.trainables.encoders import examples_of, special_of, tiny_base, tiny_config
from trainables.batches.pack import collate
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.load import (
    base_of,
    check_config,
    fresh_encoder,
    hidden_states,
    load_base,
    load_encoder_weights,
    model_state,
    read_model,
)
from trainables.heads.classifier import classifier
from trainables.heads.masked_lm import masked_lm
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError

WORDS = "embeddings.word_embeddings.weight"
LENGTHS = (9, 3, 22, 8, 5, 30, 9, 60)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "xlnet", "deberta-v2"])
def test_a_text_does_not_depend_on_its_neighbours(kind: str) -> None:
    base = tiny_base(kind)
    model = fresh_encoder(base, 0.1).eval()
    examples = examples_of(base, LENGTHS)
    with torch.inference_mode():
        together = hidden_states(model, collate(examples, base)).split(list(LENGTHS))
        for example, text in zip(examples, together, strict=True):
            torch.testing.assert_close(hidden_states(model, collate([example], base)), text, rtol=1e-5, atol=1e-5)


class Mixing(nn.Module):
    """A BERT whose attention may be replaced, and which then mixes neighbours all the same."""

    def __init__(self, model: Any, how: str) -> None:
        super().__init__()
        self.model, self.config, self.how = model, model.config, how

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_attn_implementation(self, name: str) -> None:
        self.model.set_attn_implementation(name)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **inputs: Any) -> Any:
        if self.how == "refuses" and position_ids is not None:
            raise NotImplementedError("no positions here")
        out = self.model(input_ids=input_ids, position_ids=position_ids, **inputs)
        if self.how == "mixes" and position_ids is not None:
            out.last_hidden_state = out.last_hidden_state + 1e-5 * out.last_hidden_state.roll(1, dims=1)
        return out


@pytest.mark.parametrize(("how", "reason"), [("mixes", "depends on its neighbours"), ("refuses", "no positions here")])
def test_leaks_are_caught(how: str, reason: str) -> None:
    model = Mixing(BertModel(tiny_config("bert"), add_pooling_layer=False), how)
    base = base_of(model, special_of("bert", 0))
    assert not base.packable
    assert reason in base.notices[0]


def test_positions_of_roberta_begin_behind_the_padding_id() -> None:
    assert [tiny_base(kind).position_start for kind in ("bert", "roberta", "xlm-roberta")] == [0, 2, 2]


def test_autocast_is_close_and_repeatable() -> None:
    base = tiny_base("bert")
    model = classifier(base, 3, "pooled", 0.1, seed=0).train()
    batch = collate(examples_of(base, LENGTHS), base)

    def run(enabled: bool) -> tuple[Tensor, Tensor]:
        model.zero_grad()
        with dropout_bits(0, 0, batch), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logits = model(batch)
        logits.square().sum().backward()
        return logits.detach(), model.encoder.get_input_embeddings().weight.grad.clone()

    exact, half, again = run(False), run(True), run(True)
    assert half[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(half, again, strict=True))
    torch.testing.assert_close(half[0], exact[0], rtol=0.1, atol=0.05)
    assert nn.functional.cosine_similarity(half[1].flatten(), exact[1].flatten(), dim=0) > 0.99


# Heads


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "xlnet", "albert"])
@pytest.mark.parametrize("pooling", ["pooled", "cls", "mean"])
def test_new_parameters_follow_the_seed_alone(kind: str, pooling: str) -> None:
    base = tiny_base(kind)
    first = classifier(base, 4, pooling, 0.1, seed=3)
    torch.randn(17)
    again, other = classifier(base, 4, pooling, 0.1, seed=3), classifier(base, 4, pooling, 0.1, seed=4)
    assert all(torch.equal(value, model_state(again)[name]) for name, value in model_state(first).items())
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.classifier.bias, torch.zeros(4))
    encoder = dict(base.model.named_parameters())
    assert {name for name in model_state(first) if name.startswith("encoder.")} == {f"encoder.{name}" for name in encoder}
    assert all(torch.equal(value, getattr_of(first.encoder, name)) for name, value in encoder.items())
    with torch.inference_mode():
        assert first(collate(examples_of(base, LENGTHS), base)).shape == (8, 4)


def getattr_of(module: nn.Module, name: str) -> Tensor:
    return module.get_parameter(name)


def test_trials_do_not_touch_the_base() -> None:
    base = tiny_base("bert")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    model = classifier(base, 2, "pooled", 0.1, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


def test_poolings() -> None:
    base = tiny_base("bert")
    batch = collate(examples_of(base, LENGTHS), base)
    with torch.inference_mode():
        for pooling in ("cls", "mean"):
            model = classifier(base, 2, pooling, 0.0, seed=0).eval()
            texts = hidden_states(model.encoder, batch).split(list(LENGTHS))
            vectors = torch.stack([text[0] if pooling == "cls" else text.mean(0) for text in texts])
            torch.testing.assert_close(model(batch), model.classifier(vectors))


def test_new_masked_lm_head_is_tied_and_told(tmp_path: Path) -> None:
    assert masked_lm(tiny_base("bert"), 0.1, seed=1).notices == (), "an encoder from scratch has no checkpoint to lack anything"
    tiny_base("bert").model.save_pretrained(tmp_path)
    base = dataclasses.replace(tiny_base("bert"), folder=tmp_path)
    first, again, other = (masked_lm(base, 0.1, seed=seed) for seed in (1, 1, 2))
    assert "no masked-language-modelling head" in first.notices[0]
    states = [model_state(model) for model in (first, again, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items() if name.startswith("head."))
    words = first.encoder.get_input_embeddings().weight
    assert [name for name, value in states[0].items() if value.shape == words.shape] == [f"encoder.{WORDS}"]
    batch = collate(examples_of(base, LENGTHS), base)
    nn.functional.cross_entropy(first(batch), batch.masked_targets).backward()
    assert int((words.grad.abs().sum(1) > 0).sum()) == 100  # the decoder reaches every piece


def test_further_pretrained_weights_reach_the_classifier(tmp_path: Path) -> None:
    base = tiny_base("bert")
    pretrained = masked_lm(base, 0.1, seed=0)
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.mul_(1.5)
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in model_state(pretrained).items()}, path)
    model, again = classifier(base, 2, "pooled", 0.1, seed=0), masked_lm(base, 0.1, seed=9)
    head = model.classifier.weight.clone()
    load_encoder_weights(model, path)
    load_encoder_weights(again, path)
    for name, value in model_state(pretrained).items():
        assert torch.equal(again.get_parameter(name), value)
        if name.startswith("encoder."):
            assert torch.equal(model.get_parameter(name), value)
    assert torch.equal(model.classifier.weight, head)
    with pytest.raises(KeyError, match=r"has no encoder\."):
        load_encoder_weights(classifier(tiny_base("distilbert"), 2, "cls", 0.1, seed=0), path)


# Loading


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved BERT with pooler, stored in half precision, with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = train_wordpiece([text for text, _ in reviews(limit=100)], 300)
    tokenizer.save_pretrained(folder)
    BertModel(tiny_config("bert", vocab_size=len(tokenizer))).half().save_pretrained(folder)
    return folder


def test_a_checkpoint_is_read_once_in_float32_with_its_pooler(checkpoint: Path) -> None:
    encoder = Encoder(folder=str(checkpoint))
    base = load_base(encoder)
    assert load_base(Encoder(folder=str(checkpoint))) is base
    assert (base.packable, base.layers, base.hidden_size, base.special.count) == (True, 3, 32, 2)
    model = classifier(base, 2, "pooled", 0.1, seed=0).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.notices == ()
    whole = BertModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    batch = collate(examples_of(base, LENGTHS), base)
    with torch.inference_mode():
        vectors = torch.stack([whole(input_ids=row[None]).pooler_output[0] for row in batch.parts[0].input_ids[0].split(LENGTHS)])
        torch.testing.assert_close(model(batch), model.classifier(vectors), rtol=1e-5, atol=1e-5)


def test_a_missing_pooler_is_told(tmp_path: Path) -> None:
    AutoModelForMaskedLM.from_config(tiny_config("bert")).save_pretrained(tmp_path)  # saved without a pooler
    model, missing = read_model(AutoModel, tmp_path)
    base = base_of(model, special_of("bert", 0), folder=tmp_path, missing=missing)
    assert "no pooler" in classifier(base, 2, "pooled", 0.1, seed=0).notices[0]
    assert classifier(base, 2, "cls", 0.1, seed=0).notices == ()


def test_an_encoder_from_scratch_follows_its_configuration_alone() -> None:
    texts = tuple(text for text, _ in reviews(limit=100))
    first = load_base(tiny_encoder(), texts)
    torch.randn(5)
    load_base.cache_clear()
    again = load_base(tiny_encoder(), texts)
    assert again is not first
    state = again.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.model.state_dict().items())
    assert first.packable
    assert first.config.vocab_size == len(first.tokenizer)
    assert first.config.pad_token_id == first.tokenizer.pad_token_id


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert", "xlnet", "albert"])
def test_every_dropout_rate_is_set(kind: str) -> None:
    model = fresh_encoder(tiny_base(kind), 0.37)
    rates = {float(module.p) for module in model.modules() if hasattr(module, "p")}
    assert rates == {0.37}
    assert not [name for name, value in model.config.to_dict().items() if "attention" in name and "drop" in name and value != 0.37]


def test_texts_beyond_the_last_position_are_refused() -> None:
    assert [tiny_base(kind).longest for kind in ("bert", "roberta", "mpnet", "xlnet", "modernbert")] == [300, 298, 298, None, None]
    base = tiny_base("roberta")
    with torch.inference_mode():
        assert hidden_states(fresh_encoder(base, 0.1).eval(), collate(examples_of(base, [298]), base)).shape == (298, 32)
    with pytest.raises(ConfigError, match="a text of 299 pieces, but the encoder takes at most 298"):
        collate(examples_of(base, [5, 299]), base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "brt"}, "'brt' is no kind of encoder; did you mean 'bert'"),
        ({"num_attention_heads": 5}, "bert refuses it: .*not a multiple"),
        ({"hidden_size": "wide"}, "bert refuses it: .*expected int"),
        ({"hiden_size": 32}, "encoder.config.hiden_size: bert has no such field; did you mean 'hidden_size'"),
    ],
)
def test_a_faulty_configuration_is_found_without_making_the_encoder(changes: dict[str, Any], message: str) -> None:
    faulty = tiny_encoder(**changes)
    assert faulty.config is not None
    with pytest.raises(ConfigError, match=message):
        check_config(faulty.config)
    with pytest.raises(ConfigError, match=message):
        load_base(faulty, tuple(text for text, _ in reviews(limit=100)))


def test_fewer_embeddings_than_pieces() -> None:
    with pytest.raises(ConfigError, match=r"encoder.config.vocab_size: 10 given, but the tokenizer has \d+ pieces"):
        load_base(tiny_encoder(vocab_size=10), tuple(text for text, _ in reviews(limit=100)))


def test_no_masked_lm_for_this_family() -> None:
    with pytest.raises(ConfigError, match="gpt2 encoders have no masked-language-modelling head"):
        masked_lm(dataclasses.replace(tiny_base("bert"), config=AutoConfig.for_model("gpt2")), 0.1, seed=0)
