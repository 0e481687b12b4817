"""Texts of a corpus that resemble the target task's: automatically selected TAPT (Gururangan et al. 2020, section 5.2).

Each training text of the task selects its k (`neighbours`) nearest candidates, and the union is read: kNN-TAPT. The same number of
random candidates is RAND-TAPT, its control. Candidates are the texts of the corpus that are not the task's own, without copies, as
in the paper. The selection is computed once, when a stage needs it, and kept in the store. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from trainables.data import similarity
from trainables.data.corpus import Corpus
from trainables.data.normal_forms import bare
from trainables.data.similarity import Indices, Rows
from trainables.data.splits import TaskData, digest_of
from trainables.settings.errors import ConfigError
from trainables.settings.pretraining import Pretrain
from trainables.store.store import Store, stage_id

CHOSEN = "chosen.json"
Embed = Callable[[Sequence[str], str], Rows]
"""Vectors of texts with a digest."""


@dataclass(frozen=True, eq=False)
class Pool:
    """A corpus, split into candidates and the target task's own texts."""

    corpus: Corpus
    own: Indices
    """Indices of the texts that are always read: the task's own, if the corpus names them."""
    places: Indices
    """Indices of the candidates."""
    queries: tuple[str, ...]
    """The task's training texts, without copies, sorted."""
    _shared: dict[int, similarity.SharedWords] = field(default_factory=dict, init=False)
    """{number of neighbours: shared words}, computed on first use."""

    @cached_property
    def candidates(self) -> tuple[str, ...]:
        """Texts to select from."""
        return _texts(self.corpus, self.places)

    @cached_property
    def digests(self) -> tuple[str, str, str]:
        """sha256 of own texts, candidates and queries."""
        return digest_of(_texts(self.corpus, self.own)), digest_of(self.candidates), digest_of(self.queries)

    def notices(self, neighbours: int, embeddings: str) -> tuple[str, ...]:
        """Notices before the selection. Raises ConfigError if it would be empty and no own text is read."""
        total, queries = len(self.places), len(self.queries)
        shared = self._shares(neighbours) if embeddings == "tfidf" else None
        notices = []
        if shared and shared.alone == queries and not len(self.own):
            why = f"none of {queries} training texts shares a word with any of {total} texts"
            raise ConfigError([f"corpus: nothing to select: {why}; name another corpus, or compare with `embeddings: encoder`"])
        if neighbours >= total:
            those = " that share a word with a training text" if shared and shared.scarce else ""
            notices.append(f"neighbours: {neighbours} given, but there are {total} texts to select from: all are selected{those}")
        if shared and shared.alone:
            who = f"{shared.alone} of {queries} training texts share no word with any of {total} texts"
            notices.append(f"embeddings: tfidf: {who}: none is selected for them")
        return tuple(notices)

    def rule(self, neighbours: int, embeddings: str) -> tuple[str, ...]:
        """What the stage's id hashes besides the digests; nothing for selections that earlier versions made in the same way.

        Earlier versions filled up the neighbours with texts without shared words, and split scripts without spaces differently.
        Such selections have new ids, since stores may hold the old ones.
        """
        shared = self._shares(neighbours) if embeddings == "tfidf" else None
        return ("by shared words",) if shared and (shared.scarce or not shared.same_words) else ()

    def _shares(self, neighbours: int) -> similarity.SharedWords:
        if neighbours not in self._shared:
            self._shared[neighbours] = similarity.shared_words(self.candidates, self.queries, neighbours)
        return self._shared[neighbours]


def _texts(corpus: Corpus, places: Indices) -> tuple[str, ...]:
    return tuple(corpus.texts[place] for place in places.tolist())


def pool(corpus: Corpus, target: TaskData, keeps_own: bool) -> Pool:
    """The candidates and own texts of a corpus. Near copies of the target's training texts count as its own texts.

    Raises ConfigError if there is no candidate.
    """
    mine = {bare(text) for text in target.train.texts}
    own: list[int] = []
    others: dict[str, int] = {}
    for place, text in enumerate(corpus.texts):
        if bare(corpus.whole.get(text, text)) in mine:
            own.append(place)
        else:
            others.setdefault(bare(text), place)
    if not others:
        count, name = len(corpus.texts), target.name
        raise ConfigError(
            [f"corpus: nothing to select from: all {count} texts are those of {name!r}; name another task or a text file too"]
        )
    queries = tuple(sorted(set(target.train.texts)))
    return Pool(corpus, np.array(own if keeps_own else [], dtype=np.int64), np.array([*others.values()], dtype=np.int64), queries)


def selected(stage: Pretrain, pool: Pool, store: Store, encoder: str, embed: Embed) -> Corpus:
    """The texts that a stage reads, with a selection from the store if it is there.

    `encoder` is the id of the encoder of `embed`, which is called only if the stage compares vectors of an encoder.
    """
    chosen = _nearest(stage, pool, store, encoder, embed)
    count, total = len(chosen), len(pool.places)
    if stage.select == "random":
        chosen = np.random.default_rng(stage.seed).permutation(total)[:count]
    texts = _texts(pool.corpus, pool.own) + _texts(pool.corpus, pool.places[np.sort(chosen)])
    how = f"the {stage.neighbours} nearest of each of {len(pool.queries)} training texts, by {stage.embeddings}"
    how = how if stage.select == "nearest" else f"drawn at random, as many as are {how}"
    beside = f"; {len(pool.own)} of the target's own are read beside them" if len(pool.own) else ""
    notice = f"{count} of {total} texts selected: {how}{beside}"
    notices = (*pool.corpus.notices, *pool.notices(stage.neighbours, stage.embeddings), notice)
    return Corpus(texts, digest_of(texts), pool.corpus.removed, notices, pool.corpus.files)


def _nearest(stage: Pretrain, pool: Pool, store: Store, encoder: str, embed: Embed) -> Indices:
    """Indices of the nearest candidates, ascending. One process computes them, the others wait."""
    from trainables.training.derived import once  # both import torch
    from trainables.training.world import World

    _, candidates, queries = pool.digests
    determines = {"candidates": candidates, "queries": queries, "neighbours": stage.neighbours, "embeddings": stage.embeddings}
    rule = {"rule": rule} if (rule := pool.rule(stage.neighbours, stage.embeddings)) else {}
    name = stage_id("selection", determines | rule | ({"encoder": encoder} if stage.embeddings == "encoder" else {}))

    def make(folder: Path) -> dict[str, Path]:
        if stage.embeddings == "tfidf":
            vectors = similarity.tfidf(pool.candidates, pool.queries)
        else:
            vectors = embed(pool.candidates, candidates), embed(pool.queries, queries)
        chosen = similarity.nearest(vectors[1], vectors[0], stage.neighbours)
        (folder / CHOSEN).write_text(json.dumps(chosen.tolist()), encoding="utf-8")
        return {CHOSEN: folder / CHOSEN}

    # Every rank claims for itself: waiting for a claim may take hours, longer than the timeout of a collective operation.
    path = once(store, World(), name, {"kind": "selection", "rows": [], **determines}, CHOSEN, make)
    return np.array(json.loads(path.read_bytes()), dtype=np.int64)
