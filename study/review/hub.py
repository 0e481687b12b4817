"""Publish an exported model in a repository of the Hugging Face hub, private unless it is wanted otherwise.

`checked` finds every reason against it before any work; `publish` sends all files as one commit, by the hub's own client.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.export.description import CARD, FILE
from trainables.settings.errors import ConfigError, near

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OF_THE_HUB = (".gitattributes", CARD)
"""Files that the hub puts into a new repository, or proposes."""


class NotPublished(Exception):
    """The upload has failed; the message says what is known."""


@dataclass(frozen=True)
class Repository:
    """A repository that a model may be published in."""

    name: str
    """OWNER/NAME."""
    public: bool
    commit: str | None = None
    """Its newest commit; None: it does not exist yet."""
    earlier: frozenset[str] = frozenset()
    """Files that an earlier export wrote there."""

    @property
    def visibility(self) -> str:
        """Who can read it, in a word."""
        return "public" if self.public else "private"


def checked(name: str, public: bool) -> Repository:
    """The repository that a name means, `NAME` alone in the user's own account. Raises ConfigError if it may not be written.

    Asks the hub, and changes nothing there: who the user is, whether they may write for this owner, whether the repository exists,
    is as public as wanted, and holds nothing but an earlier export.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, and not in its list of names

    from trainables.data.sources import hub_reachable

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError([f"--push {name}: {' '.join(str(error).split())}"]) from None
    if get_token() is None:
        way = "`hf auth login`, or HF_TOKEN with a token that may write (https://huggingface.co/settings/tokens)"
        raise ConfigError([f"--push {name}: no token for the hub: log in by {way}"])
    api = HfApi()
    if not hub_reachable():
        raise ConfigError([f"--push {name}: {api.endpoint} cannot be reached, or HF_HUB_OFFLINE is set; without --push it works"])
    try:
        repository, faults = _looked_up(api, name, public)
    except Exception as error:  # of the client, and of what it is built on
        raise ConfigError([f"--push {name}: {_reason(error)}"]) from None
    if faults:
        raise ConfigError(f"--push {name}: {fault}" for fault in faults)
    return repository


def _looked_up(api: HfApi, name: str, public: bool) -> tuple[Repository, list[str]]:
    """(the repository, what speaks against writing it)."""
    from huggingface_hub.errors import RepositoryNotFoundError

    user = api.whoami()
    name = name if "/" in name else f"{user['name']}/{name}"
    owner = name.partition("/")[0]
    owners = [user["name"], *(entry["name"] for entry in user.get("orgs", ()))]
    if owner not in owners:
        return Repository(name, public), [f"you are {owners[0]}, who cannot write for {owner!r}{near(owner, owners)}"]
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        return Repository(name, public), [
            "the token may only read: take one that may write, https://huggingface.co/settings/tokens"
        ]
    try:
        info = api.model_info(name)
    except RepositoryNotFoundError:
        return Repository(name, public), []
    files = {entry.rfilename for entry in info.siblings or ()}
    faults = []
    if not info.private and not public:
        faults.append("that repository is public, where anyone can load the model: --public if that is meant, or another name")
    if info.private and public:
        faults.append(f"that repository is private: leave out --public, or change it at {api.endpoint}/{name}/settings")
    if FILE not in files and (foreign := sorted(files - {*OF_THE_HUB})):
        faults.append(f"that repository holds what no export wrote: {', '.join(foreign[:5])}; give another name")
    earlier = _written(api, name, info.sha) if FILE in files and not faults else frozenset()
    return Repository(name, public, info.sha, earlier & files), faults


def _written(api: HfApi, name: str, commit: str | None) -> frozenset[str]:
    """Names of what an earlier export wrote, by its description in the repository."""
    with tempfile.TemporaryDirectory(prefix="study-hub-") as scratch:
        path = api.hf_hub_download(name, FILE, revision=commit, local_dir=scratch)
        with suppress(ValueError, TypeError, KeyError):
            return frozenset(json.loads(Path(path).read_bytes())["files"])
    return frozenset()


def publish(folder: Path, repository: Repository) -> str:
    """Send all files of an exported folder as one commit; the repository is made if it is missing. Returns its address.

    Files of an earlier export that this one has not are removed by the same commit. Raises NotPublished unless the hub has
    confirmed the commit.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    files = {path.name: path for path in sorted(folder.iterdir())}
    gone = [CommitOperationDelete(name) for name in sorted(repository.earlier - files.keys())]
    sent = [CommitOperationAdd(name, path) for name, path in files.items()]
    url = f"{api.endpoint}/{repository.name}"
    try:
        if repository.commit is None:
            api.create_repo(repository.name, private=not repository.public)
        said = "Model exported by study export"
        api.create_commit(repository.name, [*gone, *sent], commit_message=said, parent_commit=repository.commit)
    except Exception as error:  # of the client, and of what it is built on
        raise NotPublished(f"{url}: not published: {_reason(error)}; the hub has confirmed no commit") from error
    return url


def _reason(error: BaseException) -> str:
    """What went wrong, in one line without the token."""
    from huggingface_hub.errors import HfHubHTTPError

    from analysis.trackers.send import reason

    answer = getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None
    if answer is not None and answer.status_code == 401:
        return "the hub does not know the token: log in anew by `hf auth login`, or mend HF_TOKEN, which goes before it"
    if answer is not None and answer.status_code == 412:
        return "somebody has changed the repository meanwhile; look at it, and run the command again with --force"
    root = error
    while isinstance(root.__cause__, BaseException) and not isinstance(root, HfHubHTTPError):
        root = root.__cause__
    return reason(root)
