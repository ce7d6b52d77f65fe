"""Queries that say nearly the same: sets of words, without articles, that are mostly the same.

Two sets whose Jaccard index is at least NEAR share one of the rarest words of each, as many as may be missing and one more
(Chaudhuri et al., ICDE 2006): only sets that do are compared.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

NEAR = 0.8  # Jaccard index: shared words of all words of the two
ARTICLES = frozenset({"a", "an", "the"})


def plain_query(query: str) -> str:
    """Its words, in lower case."""
    return " ".join(re.findall(r"\w+", query.lower()))


def find_near_queries(train: Iterable[str], test: Iterable[str]) -> dict[str, str]:
    """For each test query that has one, the nearest training query that is not the same; both as `plain_query` gives them."""
    known = {query: _words(query) for query in sorted(set(train))}
    counts = Counter(word for words in known.values() for word in words)

    def rarest(words: frozenset[str]) -> list[str]:
        may_miss = int(len(words) * (1 - NEAR) + 1e-9)
        return sorted(words, key=lambda word: (counts[word], word))[: may_miss + 1]

    holders: defaultdict[str, list[str]] = defaultdict(list)  # training queries by each of their rarest words
    for query, words in known.items():
        for word in rarest(words):
            holders[word].append(query)
    found = {}
    for query in dict.fromkeys(test):
        words = _words(query)
        candidates = dict.fromkeys(other for word in rarest(words) for other in holders.get(word, ()) if other != query)
        nearest = max(candidates, key=lambda other: _jaccard(words, known[other]), default=None)
        if nearest is not None and _jaccard(words, known[nearest]) >= NEAR:
            found[query] = nearest
    return found


def _words(query: str) -> frozenset[str]:
    return frozenset(query.split()) - ARTICLES


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
