"""Publishing a model: the hub's real client against a server on this machine, which speaks as much of the protocol as it calls."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants as settings
import pytest

from study.review import hub
from tests.study.conftest import Run
from tests.study.tiny import answer, inside, refused
from trainables.settings.errors import ConfigError


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: int = 1

    @property
    def sha(self) -> str:
        return f"{self.commits:040x}"


@dataclass
class State:
    """What the server has, and how it behaves."""

    repos: dict[str, Repo] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    role: str = "write"
    breaks: str = ""
    """A part of an address: requests for it get no answer."""
    asked: list[str] = field(default_factory=list)
    """Requests that would change something."""


class Hub(BaseHTTPRequestHandler):
    state: State

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/":
            return self.say(200, b"")
        if self.headers.get("Authorization") != "Bearer hf_of_ada":
            return self.say(401, b'{"error": "Invalid credentials"}')
        if path == "/api/whoami-v2":
            token = {"accessToken": {"role": self.state.role}}
            return self.say(200, {"name": "ada", "orgs": [{"name": "some-lab"}], "auth": token})
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if (repo := self.state.repos.get(name)) is None:
            return self.say(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        if "/resolve/" in path:
            data = repo.files[path.rpartition("/")[2]]
            return self.say(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": repo.sha})
        siblings = [{"rfilename": file} for file in repo.files]
        return self.say(200, {"id": name, "sha": repo.sha, "private": repo.private, "siblings": siblings})

    def do_POST(self) -> None:
        state, path, name = self.state, self.path.split("?")[0], "/".join(self.path.split("/")[3:5])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if state.breaks and state.breaks in path:
            self.close_connection = True
            return None
        if path == "/api/validate-yaml":
            return self.say(200, {})
        state.asked.append(path)
        if path == "/api/repos/create":
            asked = json.loads(body)
            private = asked.get("private", asked.get("visibility") == "private")
            state.repos[f"{asked['organization']}/{asked['name']}"] = Repo(private)
            return self.say(200, {"url": f"{settings.ENDPOINT}/{asked['organization']}/{asked['name']}"})
        if "/preupload/" in path:
            modes = {True: "lfs", False: "regular"}
            files = [(file["path"], modes[file["path"].endswith(".safetensors")]) for file in json.loads(body)["files"]]
            return self.say(200, {"files": [{"path": at, "uploadMode": mode, "shouldIgnore": False} for at, mode in files]})
        if path.endswith("/info/lfs/objects/batch"):
            wanted = [
                entry | {"actions": {"upload": {"href": f"{settings.ENDPOINT}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self.say(200, {"transfer": "basic", "objects": wanted})
        assert path.endswith("/commit/main"), path
        header, *operations = [json.loads(line) for line in body.splitlines()]
        repo = state.repos[name]
        if header["value"].get("parentCommit", repo.sha) != repo.sha:
            return self.say(412, b'{"error": "A commit has happened since."}')
        for operation in operations:
            value, kind = operation["value"], operation["key"]
            if kind == "deletedFile":
                del repo.files[value["path"]]
            else:
                content = state.lfs[value["oid"]] if kind == "lfsFile" else base64.b64decode(value["content"])
                repo.files[value["path"]] = content
        repo.commits += 1
        return self.say(200, {"commitUrl": f"{settings.ENDPOINT}/{name}/commit/{repo.sha}", "commitOid": repo.sha})

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.state.lfs[hashlib.sha256(data).hexdigest()] = data
        self.say(200, b"")

    def say(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data)), "Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[State]:
    """The hub of this process is a server on this machine; the user is ada."""
    kind = type("Own", (Hub,), {"state": State()})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {"HF_TOKEN": "hf_of_ada", "NO_PROXY": "*", "no_proxy": "*"}.items():
            monkeypatch.setenv(name, value)
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(settings, "ENDPOINT", address)
        monkeypatch.setattr(settings, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(settings, "HF_HUB_DISABLE_XET", True)  # its storage is a service of its own; LFS is the hub's older way
        monkeypatch.setattr(settings, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        yield kind.state
        server.shutdown()


def made(folder: Path, **files: str) -> Path:
    """A folder that is as an export names it."""
    folder.mkdir()
    described = {"files": {f"{name}.safetensors": {} for name in files}}
    for name, text in {**{f"{name}.safetensors": text for name, text in files.items()}, "README.md": "---\n---\n"}.items():
        (folder / name).write_text(text)
    (folder / "study_model.json").write_text(json.dumps(described))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_model_of_a_run_is_published_in_private_and_tried_again_after_a_break(
    finished: Run, state: State, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    to, name = tmp_path / "model", "some-lab/reviews"
    asked = ("export", finished.folder, "--store", finished.store, "--to", to, "--push", name)
    state.breaks = "/commit/"
    code, out, err = inside(capsys, *asked)
    assert code == 1
    assert "published" not in out
    assert "not published: " in err
    assert "the hub has confirmed no commit" in err
    assert state.repos[name].commits == 1
    state.breaks = ""
    said = answer(capsys, *asked, "--force")
    assert f"published, private: {settings.ENDPOINT}/{name}\n" in said
    repo = state.repos[name]
    assert repo.private
    assert {key: value for key, value in repo.files.items() if key != ".gitattributes"} == content(to)
    assert hashlib.sha256((to / "model.safetensors").read_bytes()).hexdigest() in state.lfs
    card = (to / "README.md").read_text()
    assert f'pipeline("text-classification", "{name}")' in card
    assert f'trainables.load(snapshot_download("{name}"))' in card


def test_a_new_export_replaces_the_files_of_an_earlier_one_and_no_others(state: State, tmp_path: Path) -> None:
    first, second = made(tmp_path / "first", model="1", old="1"), made(tmp_path / "second", model="2")
    assert hub.publish(first, hub.checked("reviews", True)) == f"{settings.ENDPOINT}/ada/reviews"
    repo = state.repos["ada/reviews"]
    assert not repo.private
    repo.files["plot.png"] = b"mine"
    with pytest.raises(ConfigError, match=r"that repository is public, .*: --public if that is meant"):
        hub.checked("reviews", False)
    hub.publish(second, hub.checked("ada/reviews", True))
    assert repo.files == content(second) | {".gitattributes": b"", "plot.png": b"mine"}
    known = hub.checked("reviews", True)
    repo.commits += 1
    with pytest.raises(hub.NotPublished, match="somebody has changed the repository meanwhile"):
        hub.publish(first, known)
    assert repo.files["model.safetensors"] == b"2"


def test_what_cannot_be_published_is_refused_before_any_work(
    finished: Run, state: State, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.repos |= {"ada/other": Repo(True, {"model.bin": b""}), "ada/secret": Repo(True)}

    def to(name: str, *options: str) -> str:
        return refused(capsys, "export", finished.folder, "--store", tmp_path, "--to", tmp_path / "no", "--push", name, *options)

    assert "you are ada, who cannot write for 'some-lap'; did you mean 'some-lab'" in to("some-lap/reviews")
    assert "Repo id must use alphanumeric chars" in to("ada/my reviews")
    assert "holds what no export wrote: model.bin; give another name" in to("other")
    assert "that repository is private: leave out --public" in to("secret", "--public")
    state.role = "read"
    assert "the token may only read" in to("reviews")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "the hub does not know the token" in to("reviews")
    monkeypatch.delenv("HF_TOKEN")
    assert "no token for the hub: log in by `hf auth login`, or HF_TOKEN" in to("reviews")
    monkeypatch.setenv("HF_TOKEN", "hf_of_ada")
    monkeypatch.setattr(settings, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in to("reviews")
    assert "give --push OWNER/NAME" in refused(capsys, "export", finished.folder, "--public")
    assert state.asked == []
    assert not (tmp_path / "no").exists()
