"""Word embeddings of which the occurring rows alone are trained, against a plain table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainables.encoders import tiny_base
from trainables.encoder.load import fresh_encoder, model_state
from trainables.encoder.occurring_embedding import OccurringEmbedding, train_occurring
from trainables.training import optimizer as optim

KINDS = ("bert", "roberta", "xlnet", "modernbert", "deberta-v2", "albert")


def trained(table: nn.Module, steps: int = 5) -> nn.Module:
    """Some steps of AdamW with a decay that shows, on pieces 5 to 12."""
    group = {"params": list(table.parameters()), "lr": 1e-2, "weight_decay": 0.5}
    optimizer = optim.adamw([group], beta1=0.9, beta2=0.999, epsilon=1e-6)
    optimizer.param_groups[0]["lr"] = 1e-2
    target = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    table.train()
    for step in range(steps):
        optimizer.zero_grad()
        ids = torch.arange(5, 13)[step % 3 :]  # not every occurring piece is in every batch
        (table(ids) - target[: len(ids)]).square().sum().backward()
        optimizer.step()
    return table.eval()


def table(**settings: Any) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(40, 4, **settings)


@pytest.mark.parametrize("padding", [None, 0, 7])
def test_occurring_rows_and_all_others_end_where_plain_training_leaves_them(padding: int | None) -> None:
    plain = trained(table(padding_idx=padding))
    apart = trained(OccurringEmbedding(table(padding_idx=padding), torch.tensor([0, *range(5, 13)])))
    assert isinstance(apart, OccurringEmbedding)
    assert len(apart.weight) == 10
    everything = torch.arange(40)
    torch.testing.assert_close(apart.table(), plain.weight.detach(), rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]
    torch.testing.assert_close(apart(everything), plain(everything), rtol=1e-6, atol=1e-6)
    start = table(padding_idx=padding).weight.detach()
    assert not torch.allclose(apart.table()[20:], start[20:], rtol=1e-3), "decay does not show"


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_answers_as_before(kind: str) -> None:
    base = tiny_base(kind)
    encoder = fresh_encoder(base, 0.0).eval()
    before, state = dict(encoder.named_parameters()), model_state(encoder)
    whole = {name: parameter.detach().clone() for name, parameter in before.items()}
    ids = torch.tensor([[9, 8, 7, 30, 31]])
    mask = torch.ones_like(ids)
    encoder.set_attn_implementation("eager")
    expected = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    train_occurring(encoder, np.array([7, 8, 9]))
    assert isinstance(encoder.get_input_embeddings(), OccurringEmbedding)
    torch.testing.assert_close(encoder(input_ids=ids, attention_mask=mask).last_hidden_state, expected)
    assert {name: tensor.shape for name, tensor in model_state(encoder).items()} == {name: t.shape for name, t in state.items()}
    for name, tensor in model_state(encoder).items():
        assert torch.equal(tensor, whole[name]), name
    assert list(dict(encoder.named_parameters())) == list(before), "names decide over learning rates"


def test_a_vocabulary_that_occurs_for_the_most_part_stays_whole() -> None:
    encoder = fresh_encoder(tiny_base("bert"), 0.0)
    train_occurring(encoder, np.arange(encoder.get_input_embeddings().num_embeddings))
    assert type(encoder.get_input_embeddings()) is nn.Embedding


@pytest.mark.parametrize("settings", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_a_table_with_rules_of_its_own_stays_whole(settings: dict[str, Any]) -> None:
    encoder = fresh_encoder(tiny_base("bert"), 0.0)
    own = nn.Embedding(400, 32, **settings)
    encoder.set_input_embeddings(own)
    train_occurring(encoder, np.array([1, 2, 3]))
    assert encoder.get_input_embeddings() is own
