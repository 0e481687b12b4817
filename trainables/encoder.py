"""Encoders and their heads: loaded once per process, proved packable or not, copied for each trial.

Any transformers encoder will do: nothing here knows a family by name. Weights are float32 whatever the checkpoint holds, come from
safetensors alone, and no code comes from a checkpoint.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from trainables import attention, checkpoint, memory, probe
from trainables.config import ConfigError, Encoder, near
from trainables.dropout import Dropout, in_parts, replaced_dropout
from trainables.optim import layer_names
from trainables.pack import Batch
from trainables.tokenise import Special, special_tokens, train_wordpiece
from trainables.vocabulary import OccurringEmbedding

POOLER = "pooler"
"""Name under which transformers' base models keep their dense layer over the first token."""
NEW_POOLER = "no pooler in the checkpoint; a new dense tanh layer stands in its place"
NEW_HEAD = "no masked-language-modelling head in the checkpoint; a new one, tied to the embeddings"
OTHER_HEADS = ("classif", "qa", "summary")
"""Dropout rates of heads that are not ours."""


@dataclass(frozen=True, eq=False)
class Base:
    """An encoder as loaded: what trials start from."""

    folder: Path | None
    """Where its files are; None for one made from a configuration."""
    config: Any
    """Its transformers configuration."""
    tokenizer: Any
    special: Special
    """The special tokens round a text."""
    model: nn.Module
    """The encoder itself in float32, without a pooler. Trials copy it and never change it."""
    pooler: Mapping[str, Tensor] | None
    """Weight and bias of the checkpoint's own pooler, if it has one."""
    packable: bool
    """Whether texts may be packed into one row; else they are padded."""
    position_start: int
    """Position id of a text's first token: 0, or the padding id plus one for RoBERTa-like encoders."""
    takes_types: bool
    """Whether the encoder takes token type ids."""
    longest: int | None
    """Most tokens of a text: the number of its learned positions; None without such."""
    hidden_size: int
    layers: int
    notices: tuple[str, ...] = ()


@lru_cache(maxsize=4)
def load_base(encoder: Encoder, texts: tuple[str, ...] = ()) -> Base:
    """The encoder that `encoder` names, read once per process. `texts` train the vocabulary of one that has no tokenizer yet.

    Raises ConfigError when its files are missing or refused (`checkpoint.locate`).
    """
    memory.keep_freed()
    if encoder.config is not None:
        if encoder.tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(encoder.tokenizer, trust_remote_code=False)
        else:
            tokenizer = train_wordpiece(texts, encoder.vocabulary)
        return base_of(from_config(encoder.config, tokenizer), special_tokens(tokenizer), tokenizer)
    folder = checkpoint.locate(encoder)
    model, missing = read_model(AutoModel, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return base_of(model, special_tokens(tokenizer), tokenizer, folder, missing)


def read_model(kind: Any, folder: Path) -> tuple[Any, set[str]]:
    """A model of one of transformers' auto classes from a folder, in float32, and the parameters that its checkpoint lacks."""
    with _quiet(), torch.random.fork_rng(devices=[]):  # what is missing is drawn at random, and replaced by us
        model, report = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    return model, set(report["missing_keys"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and its report on what a checkpoint lacks: our notices say what matters."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def from_config(fields: Mapping[str, Any], tokenizer: Any, seed: int = 0) -> nn.Module:
    """A small encoder with random weights that depend on its configuration alone.

    Raises ConfigError for a configuration that its family does not take.
    """
    names = ("pad", "bos", "eos", "cls", "sep")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    known = {"vocab_size": len(tokenizer)} | {name: value for name, value in ids.items() if value is not None}
    if (size := fields.get("vocab_size", len(tokenizer))) < len(tokenizer):
        raise ConfigError([f"encoder.config.vocab_size: {size} given, but the tokenizer has {len(tokenizer)} pieces"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _made_of(fields, known)


def check_config(fields: Mapping[str, Any]) -> None:
    """Raises ConfigError for a transformers configuration of which no encoder can be made. Computes nothing."""
    with torch.device("meta"):
        _made_of(fields)


def _made_of(fields: Mapping[str, Any], known: Mapping[str, Any] = MappingProxyType({})) -> nn.Module:
    """A model of these fields over those that are `known`, which not every family has."""
    others = dict(fields)
    kind = str(others.pop("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ConfigError([f"encoder.config.model_type: {kind!r} is no kind of encoder{near(kind, CONFIG_MAPPING)}"])
    default = CONFIG_MAPPING[kind]()
    faults = [
        f"encoder.config.{name}: {kind} has no such field{near(name, default.to_dict())}"
        for name in others
        if not hasattr(default, name)
    ]
    if faults:
        raise ConfigError(faults)
    try:
        model: nn.Module = AutoModel.from_config(AutoConfig.for_model(kind, **{**known, **others}))
    except Exception as error:  # each family has its own ways to refuse a configuration
        raise ConfigError([f"encoder.config: {kind} refuses it: {' '.join(str(error).split())[:300]}"]) from error
    return model


def base_of(
    model: Any, special: Special, tokenizer: Any = None, folder: Path | None = None, missing: set[str] | None = None
) -> Base:
    """What trials need to know of a loaded model; `missing` are the parameters that its checkpoint lacks, None if it is all new."""
    model = model.float().eval()
    config = model.config
    pooler = _take_pooler(model, missing)
    found = probe.packable(model, type_ids=(types := takes(model, "token_type_ids")))
    notices = () if found.reason is None else (f"{config.model_type} takes padded batches, which are slower: {found.reason}",)
    return Base(
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        special=special,
        model=model,
        pooler=pooler,
        packable=found.reason is None,
        position_start=found.position_start,
        takes_types=types,
        longest=_longest(model),
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        notices=notices,
    )


def _longest(model: Any) -> int | None:
    """Number of learned positions, less those that RoBERTa-like encoders leave unused at the beginning."""
    rows = getattr(model.config, "max_position_embeddings", None)
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.num_embeddings == rows]
    if not tables or tables[-1] is model.get_input_embeddings():
        return None
    unused = tables[-1].padding_idx
    return tables[-1].num_embeddings - (0 if unused is None else unused + 1)


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward has this argument."""
    return argument in inspect.signature(model.forward).parameters


def _take_pooler(model: Any, missing: set[str] | None) -> dict[str, Tensor] | None:
    """Weight and bias of the model's pooler, which leaves the model: it belongs to the head. None where the checkpoint has none."""
    pooler = getattr(model, POOLER, None)
    if pooler is None:
        return None
    setattr(model, POOLER, nn.Identity())
    dense = next(module for module in pooler.modules() if isinstance(module, nn.Linear))
    if missing is None or any(name.startswith(f"{POOLER}.") for name in missing):
        return None
    return {name: value.detach() for name, value in dense.named_parameters()}


def fresh_encoder(base: Base, dropout: float, depth: int | None = None) -> Any:
    """A copy of the base's encoder for one trial, or of its `depth` lowest blocks alone, with its dropout rates set."""
    config = with_dropout(base.config, dropout)
    if depth is None or depth == base.layers:
        with no_init_weights():
            return _prepared(AutoModel.from_config(config), base)
    with no_init_weights():
        model = AutoModel.from_config(with_depth(config, depth))
    behind = False
    for name, child in model.named_children():  # a final norm belongs to the last block of all
        if behind and any(True for _ in child.parameters()):
            setattr(model, name, nn.Identity())
        behind |= any(isinstance(module, nn.ModuleList) for module in child.modules())
    return _prepared(model, base)


def with_depth(config: Any, depth: int) -> Any:
    """A copy of a transformers configuration with the `depth` lowest blocks; lists with an entry for each block are cut too."""
    fields, blocks = config.to_dict(), config.num_hidden_layers
    cut = {name: value[:depth] for name, value in fields.items() if isinstance(value, list) and len(value) == blocks}
    return type(config).from_dict(fields | cut | {config.attribute_map.get("num_hidden_layers", "num_hidden_layers"): depth})


def _prepared(model: Any, base: Base) -> Any:
    """A newly made encoder with the base's weights, attention of our kind and dropout of our kind."""
    if getattr(model, POOLER, None) is not None:
        setattr(model, POOLER, nn.Identity())
    state, buffers = base.model.state_dict(), dict(base.model.named_buffers())
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    for name, target in model.named_buffers():
        target.copy_(buffers[name])
    # Eager attention, when padded, so that its dropout can be seen.
    model.set_attn_implementation(attention.NAME if base.packable else "eager")
    if base.packable:
        replace_dropout(model)
    return model


def replace_dropout(model: nn.Module) -> None:
    """Put our dropout in the place of torch's."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))


def with_dropout(config: Any, dropout: float) -> Any:
    """A copy of a transformers configuration with every dropout rate of the encoder set."""
    config = type(config).from_dict(config.to_dict())
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, (int, float)) and not any(other in name for other in OTHER_HEADS):
            setattr(config, name, dropout)
    return config


def hidden_states(encoder: nn.Module, batch: Batch) -> Tensor:
    """Last hidden states [T, H] of all tokens, text after text, whichever way the encoder takes them."""
    return layer_states(encoder, batch, (-1,))[0]


def layer_states(encoder: nn.Module, batch: Batch, layers: Sequence[int]) -> list[Tensor]:
    """Hidden states [T, H] of all tokens after each of these layers; -1 is what the encoder itself gives out."""
    inner = any(layer != -1 for layer in layers)

    def states(part: Any) -> list[Tensor]:
        found = encoder(**_inputs(part), **({"output_hidden_states": True} if inner else {}))
        return [found.last_hidden_state if layer == -1 else found.hidden_states[layer + 1] for layer in layers]

    if batch.order is None:
        with attention.packed(batch.lengths, batch.pool_index.device):
            return [state[0] for state in states(batch.parts[0])]
    with replaced_dropout() as begin:
        flat = []
        for part in batch.parts:
            begin(part)
            flat.append([state.flatten(0, 1) for state in states(part)])
    return [torch.cat(each).index_select(0, batch.order) for each in zip(*flat, strict=True)]


def _inputs(part: Any) -> dict[str, Tensor]:
    names = ("input_ids", "position_ids", "token_type_ids", "attention_mask")
    return {name: value for name in names if (value := getattr(part, name)) is not None}


class Classifier(nn.Module):
    """An encoder with a linear layer over the vector of each text."""

    notices: tuple[str, ...] = ()
    """What the user should know about the head."""

    def __init__(
        self,
        encoder: nn.Module,
        hidden_size: int,
        classes: int,
        pooling: str,
        dropout: float,
        layers: Sequence[int],
        combine: str,
        fractions: str | None,
        hidden: int | None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling, self.layers, self.combine = pooling, tuple(layers), combine
        width = hidden_size * (len(self.layers) if combine == "concat" else 1)
        self.pooler = nn.Linear(hidden_size, hidden_size) if pooling == "pooled" else None
        self.join = JOINED[fractions](width) if fractions is not None else None
        self.dropout = Dropout(dropout, per_text=True)
        self.classifier: nn.Module = nn.Linear(width, classes)
        if hidden is not None:
            inner, out = nn.Linear(width, hidden), nn.Linear(hidden, classes)
            self.classifier = nn.Sequential(inner, nn.ReLU(), Dropout(dropout, per_text=True), out)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [b, classes] in float32."""
        if self.join is None:
            vectors = self.vectors(batch)
        else:
            vectors = self.join(torch.cat(in_parts(self.vectors, batch.chunks)), batch.counts)
        logits: Tensor = self.classifier(self.dropout(vectors))
        return logits.float()

    def vectors(self, batch: Batch) -> Tensor:
        """The vector of each text or fraction, [b, H], or [b, layers * H] for several layers side by side."""
        states = layer_states(self.encoder, batch, self.layers)  # each [T, H]
        if self.pooling == "mean":
            found = [mean_over_texts(state, batch.lengths) for state in states]
        else:
            found = [state.index_select(0, batch.pool_index) for state in states]
        vectors = COMBINED[self.combine](found)
        return vectors if self.pooler is None else torch.tanh(self.pooler(vectors))


COMBINED: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "concat": lambda found: torch.cat(found, dim=-1),
    "mean": lambda found: torch.stack(found).mean(0),
    "max": lambda found: torch.stack(found).amax(0),
}
"""How the vectors of several layers are joined (Sun et al. 2019, section 5.3.2)."""


class JoinedBy(nn.Module):
    """The vectors of each text's fractions, [fractions, H], as one by a function of their first dimension: [b, H]."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, vectors: Tensor, counts: Sequence[int]) -> Tensor:
        return torch.stack([self.function(text) for text in vectors.split(list(counts))])


class SelfAttention(nn.Module):
    """Sum of each text's fractions, weighted by softmax over u' tanh(W x) (Lin et al. 2017, with one head)."""

    def __init__(self, width: int, inner: int = 128) -> None:
        super().__init__()
        self.inner, self.score = nn.Linear(width, inner), nn.Linear(inner, 1)

    def forward(self, vectors: Tensor, counts: Sequence[int]) -> Tensor:
        scores = self.score(torch.tanh(self.inner(vectors))).float()  # [fractions, 1]
        texts = zip(vectors.split(list(counts)), scores.split(list(counts)), strict=True)
        return torch.stack([(weight.softmax(0) * text).sum(0) for text, weight in texts])


JOINED: dict[str, Callable[[int], nn.Module]] = {
    "mean": lambda width: JoinedBy(lambda text: text.mean(0)),
    "max": lambda width: JoinedBy(lambda text: text.amax(0)),
    "attention": SelfAttention,
}
"""How the vectors of a text's fractions are joined (Sun et al. 2019, section 5.3.1), for vectors of a width."""


def mean_over_texts(hidden: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Mean of [T, H] over the tokens of each text: [b, H]."""
    return torch.stack([text.mean(0, dtype=torch.float32) for text in hidden.split(list(lengths))])


def classifier(
    base: Base,
    classes: int,
    pooling: str,
    dropout: float,
    seed: int,
    layers: Sequence[int] = (-1,),
    combine: str = "concat",
    fractions: str | None = None,
    frozen: bool = False,
    hidden: int | None = None,
    head_dropout: float | None = None,
) -> Classifier:
    """A classifier on a copy of the base's encoder; its new parameters are drawn from `seed` alone.

    Blocks above the highest of `layers` are left out. In a `frozen` encoder nothing drops out: its vectors are features. With
    `hidden` units the head has two layers.
    """
    depth = depth_of(layers, base.layers)
    # What the encoder itself gives out is its last layer's output, with its final norm where it has one.
    wanted = [-1 if layer % base.layers == base.layers - 1 else layer % base.layers for layer in layers]
    encoder = fresh_encoder(base, 0.0 if frozen else dropout, depth)
    dropped = dropout if head_dropout is None else head_dropout
    model = Classifier(encoder, base.hidden_size, classes, pooling, dropped, wanted, combine, fractions, hidden)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder."):
                draw_initial(name, parameter, base.config, generator)
        if model.pooler is not None and base.pooler is not None:
            model.pooler.load_state_dict(base.pooler)
        elif model.pooler is not None and base.folder is not None:
            model.notices = (f"{base.config.model_type}: {NEW_POOLER}",)
    return model


def depth_of(layers: Sequence[int], blocks: int) -> int:
    """How many of an encoder's blocks it takes to reach the highest of `layers`."""
    return max(layer % blocks for layer in layers) + 1


def reinitialise(model: Classifier, base: Base, blocks: int, count: int, seed: int) -> None:
    """New random weights for the topmost `count` of the encoder's `blocks` (Zhang et al. 2021, section 5)."""
    names, generator = layer_names(model.encoder, blocks), torch.Generator().manual_seed(seed)
    chosen = {f"layer {i}" for i in range(blocks - count, blocks)}
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if names[name] in chosen:
                draw_initial(name, parameter, base.config, generator)


def draw_initial(name: str, parameter: Tensor, config: Any, generator: torch.Generator) -> None:
    """Initial value as transformers gives it: weights normal, norms one, biases zero."""
    if name.endswith("bias"):
        parameter.zero_()
    elif parameter.ndim < 2:
        parameter.fill_(1.0)
    else:
        parameter.normal_(0.0, getattr(config, "initializer_range", 0.02), generator=generator)


class _Given(nn.Module):
    """Stands for the encoder inside a transformers head: answers with hidden states that are already known."""

    hidden: Tensor | None = None

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._encoder = [encoder]  # in a list: no child of this module

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.hidden)

    @property
    def embeddings(self) -> Any:
        """Some heads ask the encoder for the weights that they are tied to."""
        return self._encoder[0].embeddings


class MaskedLM(nn.Module):
    """An encoder with the masked-language-modelling head of its family, computed at the predicted positions only."""

    notices: tuple[str, ...] = ()
    """What the user should know about the head."""

    def __init__(self, encoder: nn.Module, head: nn.Module, given: _Given) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self._given = [given]  # in a list: no child of this module, it is the head's

    def forward(self, batch: Batch) -> Tensor:
        """Logits [m, vocabulary] at the masked positions."""
        return self.logits(hidden_states(self.encoder, batch), batch)

    def logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Logits [m, vocabulary] at the masked positions from hidden states [T, H]."""
        assert batch.masked_index is not None, "a batch without masked pieces"
        assert batch.masked_targets is not None
        given = self._given[0]
        given.hidden = hidden.index_select(0, batch.masked_index)[None]  # [1, m, H]
        try:
            logits: Tensor = self.head(input_ids=batch.masked_targets[None]).logits[0]
        finally:
            given.hidden = None
        return logits


def masked_lm(base: Base, dropout: float, seed: int) -> MaskedLM:
    """A masked language model on a copy of the base's encoder, with the checkpoint's own head, or a new one drawn from `seed`.

    Raises ConfigError for a family without such a head.
    """
    if type(base.config) not in AutoModelForMaskedLM._model_mapping:
        raise ConfigError([f"further pre-training: {base.config.model_type} encoders have no masked-language-modelling head"])
    with no_init_weights():
        whole: Any = AutoModelForMaskedLM.from_config(with_dropout(base.config, dropout))
    whole.tie_weights()
    name = whole.base_model_prefix
    encoder = _prepared(getattr(whole, name), base)
    own, generator = _own_head(base.folder), torch.Generator().manual_seed(seed)
    tied = {id(parameter) for parameter in encoder.parameters()}
    with torch.no_grad():
        for key, parameter in whole.named_parameters():
            if id(parameter) in tied:
                continue
            if key in own:
                parameter.copy_(own[key])
            else:
                draw_initial(key, parameter, base.config, generator)
    given = _Given(encoder)
    setattr(whole, name, given)
    model = MaskedLM(encoder, whole, given)
    if not own and base.folder is not None:
        model.notices = (f"{base.config.model_type}: {NEW_HEAD}",)
    return model


@lru_cache(maxsize=4)
def _own_head(folder: Path | None) -> dict[str, Tensor]:
    """The parameters of a checkpoint's own masked-language-modelling head; none if it lacks any."""
    if folder is None:
        return {}
    whole, missing = read_model(AutoModelForMaskedLM, folder)
    prefix = f"{whole.base_model_prefix}."
    head = {name: value.detach() for name, value in whole.named_parameters() if not name.startswith(prefix)}
    return {} if missing & head.keys() else head


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by name, tied ones once, and whole tables of embeddings: what an artifact keeps."""
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tables = [(name, module) for name, module in model.named_modules() if isinstance(module, OccurringEmbedding)]
    return state | {f"{name}.weight": module.table() for name, module in tables}


def load_encoder_weights(model: nn.Module, path: Path, head: str | None = None) -> None:
    """Take the encoder (all of it) and whatever else matches from the artifact of an earlier stage.

    Of several tasks' heads a classifier takes the one whose key is `head`, if it is there and fits, and never another task's.
    Raises KeyError naming what an artifact of another encoder lacks.
    """
    stored = load_file(path)
    if head is not None:
        prefix = f"classifier.heads.{head}."
        stored |= {f"classifier.{name.removeprefix(prefix)}": stored[name] for name in list(stored) if name.startswith(prefix)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in stored and stored[name].shape == parameter.shape:
                parameter.copy_(stored[name])
            elif name.startswith("encoder."):
                raise KeyError(f"{path} has no {name} of shape {tuple(parameter.shape)}")
