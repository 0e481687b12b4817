"""Weights in a checkpoint against config.json: nothing missing is made up, and what wrappers do to names is seen through."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForSequenceClassification

from tests.trainables.families import FAMILIES, checkpoint
from trainables.encoder import checkpoint as files
from trainables.encoder.load import check_config, load_base
from trainables.encoder.weights import check_values, check_weights, read_model
from trainables.heads.masked_lm import masked_lm
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError

State = dict[str, Tensor]
LAYERS = "bert.encoder.layer."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT with its head for masked pieces, to be changed."""
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "encoder"))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was loaded once is read again: tests change files in place."""
    load_base.cache_clear()
    yield
    load_base.cache_clear()


def rewrite(folder: Path, change: Callable[[State], State], **config: Any) -> Path:
    """Change the weights and fields of config.json."""
    path = folder / "model.safetensors"
    state = change(load_file(path))
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))
    return folder


def fault(folder: Path) -> str:
    """The one line that a checkpoint is refused with, which loading refuses with too."""
    with pytest.raises(ConfigError) as caught:
        check_weights(folder)
    (line,) = caught.value.faults
    with pytest.raises(ConfigError) as loading:
        load_base(Encoder(folder=str(folder)))
    assert line in str(loading.value)
    assert "\n" not in line
    return line


def state_of(folder: Path) -> State:
    return dict(read_model(AutoModel, folder)[0].state_dict())


def renamed(change: Callable[[str], str]) -> Callable[[State], State]:
    return lambda state: {change(name): value for name, value in state.items()}


def without(*parts: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_loads_as_transformers_loads_it(kind: str, tmp_path: Path) -> None:
    folder = checkpoint(kind)
    assert check_weights(folder) == []
    reference = AutoModel.from_pretrained(folder).state_dict()
    model, missing = read_model(AutoModel, folder)
    assert all(name.startswith("pooler.") for name in missing)
    assert all(torch.equal(value, reference[name]) for name, value in model.state_dict().items() if name not in missing)
    model.save_pretrained(tmp_path)  # names without the family's prefix
    assert check_weights(tmp_path) == []
    AutoModelForSequenceClassification.from_config(model.config).save_pretrained(tmp_path)
    (notice,) = check_weights(tmp_path)
    assert notice.startswith("the checkpoint holds more than the encoder, which is left out: ")


@pytest.mark.parametrize("kind", ["bert", "albert", "electra", "big_bird"])
def test_checkpoints_of_pre_training_load(kind: str, tmp_path: Path) -> None:
    whole = AutoModelForPreTraining.from_config(read_model(AutoModel, checkpoint(kind))[0].config)
    whole.save_pretrained(tmp_path)
    assert check_weights(tmp_path) == []
    assert "pooler.dense.weight" not in read_model(AutoModel, tmp_path)[1]


def test_old_names_of_norms_load(folder: Path) -> None:
    before = state_of(folder)
    rewrite(folder, renamed(lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")))
    assert any("gamma" in name for name in load_file(folder / "model.safetensors"))
    assert check_weights(folder) == []
    after, missing = state_of(folder), read_model(AutoModel, folder)[1]
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name not in missing)
    assert read_model(AutoModelForMaskedLM, folder)[1] == set()


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "base_model.model.", "0.auto_model.", "encoder.", "module._orig_mod.", "model.module."],
)
@pytest.mark.parametrize("kind", ["bert", "modernbert", "distilbert"])
def test_what_wrappers_put_before_all_names_is_taken_off_and_told(prefix: str, kind: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(kind), tmp_path / "encoder"))
    before, plain = state_of(folder), files.digest(Encoder(folder=str(folder)))
    rewrite(folder, renamed(lambda name: prefix + name))
    assert check_weights(folder) == [
        f"the names of all weights begin with {prefix!r}, which a program put before them: read without it"
    ]
    after, missing = state_of(folder), read_model(AutoModel, folder)[1]
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name not in missing)
    assert read_model(AutoModelForMaskedLM, folder)[1] == set()
    assert files.digest(Encoder(folder=str(folder))) != plain


def test_the_notice_on_a_wrapper_comes_with_the_encoder_and_its_own_head(folder: Path) -> None:
    rewrite(folder, renamed(lambda name: f"module.{name}"))
    base = load_base(Encoder(folder=str(folder)))
    assert any("begin with 'module.'" in notice for notice in base.notices)
    model = masked_lm(base, 0.1, seed=0)
    assert model.notices == ()
    bias = dict(model.named_parameters())["head.cls.predictions.transform.dense.bias"]
    assert torch.equal(bias, load_file(folder / "model.safetensors")["module.cls.predictions.transform.dense.bias"])


def test_a_wrapper_is_part_of_what_an_encoder_is(folder: Path) -> None:
    """Such files had names of stages before they were read as they are."""
    state = renamed(lambda name: f"module.{name}")(load_file(folder / "model.safetensors"))
    assert files.wrapper(folder) == ""
    save_file(state, folder / "model.safetensors")
    assert files.wrapper(folder) == "module."


CASES: dict[str, tuple[Callable[[State], State], dict[str, Any], str]] = {
    "one name under a wrapper, the rest under another": (
        lambda state: {("net." if "layer.1" in name else "core.") + name: value for name, value in state.items()},
        {},
        "names in the file begin with core.bert, core.cls, net.bert, which fit no bert",
    ),
    "all under an unknown wrapper": (renamed(lambda name: f"net.{name}"), {}, "begin with net.bert, net.cls, which fit no bert"),
    "a head beside a wrapped encoder": (
        lambda state: renamed(lambda name: f"encoder.{name}")(state) | {"out.weight": torch.ones(2, 32)},
        {},
        "begin with encoder.bert, encoder.cls, out.weight, which fit no bert",
    ),
    "another family's": (renamed(lambda name: name.replace("bert.", "roberta.")), {}, "begin with cls.predictions, roberta."),
    "two encoders": (
        lambda state: state | {name.removeprefix("bert."): value + 1 for name, value in state.items() if name.startswith("bert.")},
        {},
        "the file holds two encoders, or parts of two: 53 of its weights are there twice with different values, such as bert.emb",
    ),
    "one weight under an old name too": (
        lambda state: state | {f"{LAYERS}0.output.LayerNorm.gamma": torch.zeros(32)},
        {},
        "1 of its weights are there twice with different values, such as bert.encoder.layer.0.output.LayerNorm.gamma and bert.",
    ),
    "a layer under a wrapper": (
        lambda state: {("module." if "layer.2" in name else "") + name: value for name, value in state.items()},
        {},
        "encoder.layer.2.attention.output.dense.bias and 13 more; the file also holds 16 under `module.bert.`: give all names",
    ),
    "an activation that is none": (
        dict,
        {"hidden_act": "glu"},
        "config.json: hidden_act: 'glu' is not known to bert; did you mean",
    ),
    "more layers asked for": (
        dict,
        {"num_hidden_layers": 5},
        "config.json asks for 5 layers, but the file has weights for 3: the checkpoint is not whole: copy it again, or save it",
    ),
    "the last layer lost": (
        without(f"{LAYERS}2."),
        {},
        "for 2: the checkpoint is not whole: copy it again, or save it again with save_pretrained, or correct config.json",
    ),
    "fewer layers asked for": (
        dict,
        {"num_hidden_layers": 2},
        "config.json asks for 2 layers, but the file has weights for 3: encoder.layer.2.attention",
    ),
    "one layer lost": (without(f"{LAYERS}1."), {}, "16 of the 55 weights that config.json describes are not in the file"),
    "one tensor lost": (without(f"{LAYERS}2.output.dense.bias"), {}, "are not in the file: encoder.layer.2.output.dense.bias; the"),
    "no embeddings": (without("embeddings"), {}, "embeddings.LayerNorm.bias, embeddings.LayerNorm.weight, embeddings.position"),
    "blocks alone": (
        lambda state: {name.removeprefix("bert."): value for name, value in state.items() if LAYERS in name},
        {},
        "not in the file: embeddings.LayerNorm.bias",
    ),
    "embeddings under the tied head's name": (
        renamed(lambda name: name.replace("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")),
        {},
        "embeddings.word_embeddings.weight; cls.predictions.decoder.weight has its shape, of a head that shares it: load it with",
    ),
    "quantised": (
        lambda state: {n: v.to(torch.int8) if v.ndim == 2 and "layer" in n else v for n, v in state.items()},
        {},
        "is I8 and 17 more; give the checkpoint in float32, float16 or bfloat16",
    ),
    "eight bits of floats": (
        lambda state: {n: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for n, v in state.items()},
        {},
        "others than whole weights: bert.embeddings.position_embeddings.weight is F8_E4M3",
    ),
    "adapters beside the weights": (
        lambda state: (
            {f"base_model.model.{n.replace('query.', 'query.base_layer.')}": v for n, v in state.items()}
            | {"base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.default.weight": torch.ones(2, 32)}
        ),
        {},
        "adapters that are not merged: merge them with peft's merge_and_unload()",
    ),
    "another vocabulary": (
        dict,
        {"vocab_size": 500},
        "embeddings.word_embeddings.weight is [400, 32] in the file, but [500, 32] by config.json (vocab_size 500); correct",
    ),
    "another width": (dict, {"hidden_size": 64}, "is [32] in the file, but [64] by config.json (hidden_size 64 or"),
    "other positions": (
        dict,
        {"max_position_embeddings": 512},
        "position_embeddings.weight is [200, 32] in the file, but [512, 32] by config.json (max_position_embeddings 512)",
    ),
    "other types": (
        dict,
        {"type_vocab_size": 1},
        "embeddings.token_type_embeddings.weight is [2, 32] in the file, but [1, 32] by config.json (type_vocab_size 1); correct",
    ),
    "another inner width": (
        dict,
        {"intermediate_size": 128},
        "[64] in the file, but [128] by config.json (intermediate_size 128); so are 8 more: encoder.layer.0.intermediate.",
    ),
    "heads that do not divide": (
        dict,
        {"num_attention_heads": 5},
        "config.json: bert refuses it: The hidden size (32) is not",
    ),
    "a field of another type": (dict, {"vocab_size": "many"}, "config.json: bert refuses it: "),
    "an unknown kind": (dict, {"model_type": "brt"}, "model_type 'brt' is not known to transformers; did you mean 'bert'?"),
    "a decoder's mask": (dict, {"is_decoder": True}, "config.json says is_decoder: pieces would not attend to later ones"),
    "a decoder": (
        dict,
        {"model_type": "gpt2"},
        "gpt2 is a decoder, in which no piece attends to later ones: give an encoder such as",
    ),
    "an encoder with a decoder": (dict, {"model_type": "t5"}, "t5 is an encoder-decoder for generation: give an encoder"),
    "bart": (dict, {"model_type": "bart"}, "bart is an encoder-decoder"),
    "pictures": (dict, {"model_type": "vit"}, "vit is no encoder of texts"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused(case: str, folder: Path) -> None:
    change, config, expected = CASES[case]
    assert expected in fault(rewrite(folder, change, **config))


def test_types_come_first_where_weights_are_none(folder: Path) -> None:
    assert fault(rewrite(folder, CASES["quantised"][0])).startswith("the file holds others than whole weights: bert.encoder")


def test_weights_that_are_there_twice_and_the_same_are_read(folder: Path) -> None:
    rewrite(folder, lambda state: state | {name.removeprefix("bert."): value.clone() for name, value in state.items()})
    assert check_weights(folder) == []


@pytest.mark.parametrize("kind", ["bert", "distilbert", "albert"])
def test_a_pooler_that_is_missing_is_told_where_it_is_asked_for(kind: str, tmp_path: Path) -> None:
    expected = ["no pooler in the checkpoint; a new dense tanh layer is used, for pooling pooled"]
    assert check_weights(checkpoint(kind), pooled=True) == expected
    assert check_weights(checkpoint(kind)) == []
    if kind != "distilbert":
        AutoModel.from_config(read_model(AutoModel, checkpoint(kind))[0].config).save_pretrained(tmp_path)
        assert check_weights(tmp_path, pooled=True) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    check_values(folder)

    def spoilt(state: State) -> State:
        state[f"{LAYERS}1.output.dense.weight"][3, 4] = value
        return state

    rewrite(folder, spoilt)
    with pytest.raises(ConfigError, match=r"1 of its tensors hold NaN or infinite numbers: bert.encoder.layer.1.output.dense"):
        load_base(Encoder(folder=str(folder)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_float32_whatever_the_checkpoint_holds(folder: Path, dtype: torch.dtype) -> None:
    before = state_of(folder)
    rewrite(folder, lambda state: {name: value.to(dtype) for name, value in state.items()}, dtype=str(dtype).partition(".")[2])
    assert check_weights(folder) == []
    base = load_base(Encoder(folder=str(folder)))
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float32}
    assert all(torch.equal(value, before[name].to(dtype).float()) for name, value in base.model.state_dict().items())


def test_loading_draws_nothing_from_the_global_generator(folder: Path) -> None:
    """Neither for a pooler that is missing nor for anything else."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        load_base.cache_clear()
        base = load_base(Encoder(folder=str(folder)))
        assert base.pooler is None
        head = masked_lm(base, 0.1, seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        found.append({name: value.clone() for name, value in head.named_parameters()})
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_shard_that_an_index_does_not_know_is_read_all_the_same(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    halves = {f"model-0000{i}-of-00002.safetensors": dict([*state.items()][i - 1 :: 2]) for i in (1, 2)}
    for name, half in halves.items():
        save_file(half, folder / name)
    places = {tensor: name for name, half in halves.items() for tensor in half}
    before = state_of(folder)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert check_weights(folder) == []
    assert all(torch.equal(v, before[n]) for n, v in state_of(folder).items() if not n.startswith("pooler."))
    index.write_text(json.dumps({"weight_map": {tensor: name for tensor, name in places.items() if "-00001-" in name}}))
    assert "names" not in fault(folder)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "llama", "vit"])
def test_an_encoder_from_scratch_is_one(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"encoder.config: .*give an encoder such as BERT"):
        check_config({"model_type": kind})


def test_the_way_out_for_a_tied_embedding(folder: Path, tmp_path: Path) -> None:
    before = state_of(folder)
    rewrite(folder, CASES["embeddings under the tied head's name"][0])
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert check_weights(tmp_path / "saved") == []
    after = state_of(tmp_path / "saved")
    assert torch.equal(after["embeddings.word_embeddings.weight"], before["embeddings.word_embeddings.weight"])
