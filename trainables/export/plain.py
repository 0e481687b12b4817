"""Express a trained classifier as one of transformers' own, where that is exact.

A family's `ForSequenceClassification` has a head of its own: BERT's is a dense tanh layer and a linear one, as pooling `pooled` is;
ELECTRA has GELU between two layers. The trained head is put into it if the result is the same function, and no family is treated by
name: every way that may fit is tried, and its probabilities on some texts are compared with the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.initialization import no_init_weights

from trainables.batches.tokenise import ONLY_IDS
from trainables.encoder.load import POOLER, depth_of, with_depth, with_dropout
from trainables.export.load import LoadedModel
from trainables.scores.evaluate import probabilities
from trainables.settings.stages import Finetune

TOLERANCE = 1e-5
"""Largest difference of a probability between transformers' model and ours."""
ACTIVATIONS = ("pooler_hidden_act", "summary_activation")
"""Fields of configurations, of DeBERTa and XLNet, that set the activation of the head's dense layer."""
HEAD_DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "summary_last_dropout", "cls_dropout")
"""Fields of configurations that set the dropout before the last linear layer."""
SAMPLE = (1, 4, 9, 16, 30)
"""Pieces of the texts that are compared."""


class Way(NamedTuple):
    """A way to write the head as a dense layer, an activation and a linear layer."""

    activation: str | None
    """Activation that the configuration must be able to set; None: that of the family."""
    dense: tuple[Tensor, Tensor] | None
    """Weight [H, H] and bias [H]; None: the family's head has only the linear layer."""
    out: tuple[Tensor, Tensor]
    """Weight [classes, H] and bias [classes]."""


def configuration(model: LoadedModel) -> Any:
    """The transformers configuration of an exported model: blocks that are used, dropout as trained, names of the labels."""
    stage, base = model.described.finetune, model.base
    encoder_dropout = 0.0 if stage.freeze == "encoder" else stage.dropout
    config = with_dropout(with_depth(base.config, depth_of(stage.layers, base.layers)), encoder_dropout)
    for name in (name for name in HEAD_DROPOUTS if hasattr(config, name)):
        setattr(config, name, stage.dropout if stage.head_dropout is None else stage.head_dropout)
    config.id2label = dict(enumerate(model.labels))
    config.label2id = {name: place for place, name in enumerate(model.labels)}
    config.problem_type = "multi_label_classification" if model.multi_label else "single_label_classification"
    config._name_or_path = ""
    return config


def encoder_of(model: LoadedModel) -> tuple[nn.Module, dict[str, Tensor]]:
    """(transformers' plain encoder with the trained weights, its tensors to save). A pooler is saved if it was trained."""
    with no_init_weights():
        encoder = AutoModel.from_config(configuration(model))
    _fill(encoder, model)
    dense = _linears(getattr(encoder, POOLER, None))
    if trained := (model.model.pooler is not None and len(dense) == 1):
        _put(dense[0], *_values(model.model.pooler))
    state = encoder.state_dict()
    return encoder, {name: value for name, value in state.items() if trained or not name.startswith(f"{POOLER}.")}


def expressed(model: LoadedModel, tokenizer: Any) -> tuple[nn.Module | None, str]:
    """(transformers' classifier that computes the same, empty text), or (None, the reason why there is none).

    `tokenizer` is the one of the exported folder. The comparison is made on the CPU in float32.
    """
    stage = model.described.finetune
    if why := _never(stage, model):
        return None, why
    config = configuration(model)
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        return None, f"transformers has no classifier for {config.model_type}"
    name = AutoModelForSequenceClassification._model_mapping[type(config)].__name__
    for way in _ways(model):
        theirs = _built(configuration(model), way, model)
        if theirs is not None and _same(theirs, model, tokenizer):
            return theirs, ""
    return None, f"the head of transformers' {name} is another function than pooling {stage.pooling} with a {stage.head} head"


def _never(stage: Finetune, model: LoadedModel) -> str | None:
    """What no head of transformers' has; None if nothing."""
    encoder = {name for name, _ in model.model.encoder.named_parameters()}
    cut = depth_of(stage.layers, model.base.layers) < model.base.layers
    others = {name for name, _ in model.base.model.named_parameters()} if cut else set()
    if stage.fractions is not None:
        return f"transformers reads no text in fractions, as truncation {stage.truncation} does"
    if stage.pooling in ("bilstm", "mean"):
        return f"transformers' classifiers read a single piece of a text, and no text vector of pooling {stage.pooling}"
    if len(stage.layers) > 1:
        return f"transformers' classifiers read the last layer, and not layers {', '.join(map(str, stage.layers))}"
    if cut and any(not any(part.isdigit() for part in name.split(".")) for name in others - encoder):
        return f"a norm behind the last layer is not applied to layer {stage.layers[0]}, and transformers always applies it"
    return None


def _ways(model: LoadedModel) -> Iterator[Way]:
    """Ways to write the head, those first that add no arithmetic."""
    head, width = model.model.classifier, model.base.hidden_size
    inner = head[0] if isinstance(head, nn.Sequential) else None
    if model.model.pooler is not None:
        if isinstance(head, nn.Linear):
            yield Way("tanh", _values(model.model.pooler), _values(head))
            yield Way(None, _values(model.model.pooler), _values(head))
    elif isinstance(head, nn.Linear):
        yield Way(None, None, _values(head))
        yield Way("linear", (torch.eye(width), torch.zeros(width)), _values(head))
        if 2 * head.out_features <= width:
            yield _doubled(head, width)
    elif isinstance(head, nn.Sequential) and isinstance(inner, nn.Linear) and inner.out_features <= width:
        weight, bias = _values(head[-1])
        dense, out = _widened(*_values(inner), width), (nn.functional.pad(weight, (0, width - weight.shape[1])), bias)
        yield Way("relu", dense, out)
        yield Way(None, dense, out)


def _doubled(head: nn.Linear, width: int) -> Way:
    """A linear layer as two with an activation between for which f(z) - f(-z) = z: ReLU, GELU, SiLU."""
    weight, bias = _values(head)
    one = torch.eye(head.out_features)
    out = nn.functional.pad(torch.cat((one, -one), dim=1), (0, width - 2 * head.out_features))
    return Way(None, _widened(torch.cat((weight, -weight)), torch.cat((bias, -bias)), width), (out, torch.zeros_like(bias)))


def _widened(weight: Tensor, bias: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """A dense layer with outputs of zero up to `width`."""
    more = width - len(weight)
    return nn.functional.pad(weight, (0, 0, 0, more)), nn.functional.pad(bias, (0, more))


def _built(config: Any, way: Way, model: LoadedModel) -> nn.Module | None:
    """transformers' classifier with the head written in this way; None if its head has no place for it."""
    fields = [name for name in ACTIVATIONS if hasattr(config, name)]
    if way.activation is not None and not fields:
        return None
    for name in fields if way.activation is not None else ():
        setattr(config, name, way.activation)
    with no_init_weights():
        theirs = AutoModelForSequenceClassification.from_config(config)
    encoder = theirs.base_model
    _fill(encoder, model)
    inside = {id(module) for module in encoder.modules()}
    linears = [*_linears(getattr(encoder, POOLER, None)), *(layer for layer in _linears(theirs) if id(layer) not in inside)]
    wanted = [way.out] if way.dense is None else [way.dense, way.out]
    if [layer.weight.shape for layer in linears] != [weight.shape for weight, _ in wanted]:
        return None
    fits = [_put(layer, *values) for layer, values in zip(linears, wanted, strict=True)]
    return theirs.eval() if all(fits) else None


def _fill(encoder: nn.Module, model: LoadedModel) -> None:
    """Give an encoder of transformers' the trained weights; a norm that was left out keeps those of before the training."""
    trained = model.model.encoder
    weights, before = dict(trained.named_parameters()), dict(model.base.model.named_parameters())
    buffers = dict(trained.named_buffers())
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if not name.startswith(f"{POOLER}."):
                parameter.copy_(weights[name] if name in weights else before[name])
        for name, buffer in encoder.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])


def _linears(module: nn.Module | None) -> list[nn.Linear]:
    return [] if module is None else [part for part in module.modules() if isinstance(part, nn.Linear)]


def _values(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.weight.detach().cpu(), layer.bias.detach().cpu()


def _put(layer: nn.Linear, weight: Tensor, bias: Tensor) -> bool:
    """Set weight and bias of a layer; False if it has no bias and needs one."""
    biased: Any = layer.bias  # torch's type leaves out that it may be None
    with torch.no_grad():
        layer.weight.copy_(weight)
        if biased is not None:
            biased.copy_(bias)
    return biased is not None or not bool(bias.any())


# Comparison ----------------------------------------------------------------------------------------------------------------------


def sample(model: LoadedModel) -> list[Any]:
    """Texts, or pairs of texts, of random pieces of the vocabulary that are read whole; the same at every call."""
    rng, base, stage = np.random.default_rng(0), model.base, model.described.finetune
    room = stage.max_length - (base.special.pair.count if model.pairs else base.special.count)

    def text(length: int) -> str:
        return str(base.tokenizer.decode(rng.choice(base.special.ordinary, length)))

    found: list[Any] = [(text(length), text(max(1, length // 2))) if model.pairs else text(length) for length in SAMPLE]
    sizes = [sum(map(len, base.tokenizer(list(texts), **ONLY_IDS)["input_ids"])) for texts in map(sides, found)]
    return [entry for entry, size in zip(found, sizes, strict=True) if size <= room]


def sides(entry: Any) -> tuple[str, ...]:
    """The texts of an example: one, or a pair."""
    return entry if isinstance(entry, tuple) else (entry,)


def _same(theirs: nn.Module, model: LoadedModel, tokenizer: Any) -> bool:
    """Whether transformers' classifier gives the model's probabilities, by way of its own tokenizer, text by text."""
    texts = sample(model)
    ours = probabilities(model.in_float32().logits(texts), model.multi_label)
    try:
        with torch.inference_mode():
            logits = [theirs(**tokenizer(*sides(entry), return_tensors="pt")).logits for entry in texts]
    except (IndexError, RuntimeError, TypeError, ValueError):  # it takes other inputs than its tokenizer gives
        return False
    return bool(np.abs(probabilities(torch.cat(logits).numpy(), model.multi_label) - ours).max() < TOLERANCE)
