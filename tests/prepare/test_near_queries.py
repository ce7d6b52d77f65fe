import random

import pytest

from taro.prepare.near_queries import ARTICLES, NEAR, find_near_queries, plain_query


def test_words_in_lower_case():
    assert plain_query("A cat, jumps!") == "a cat jumps"


@pytest.mark.parametrize(
    ("train", "test", "near"),
    [
        ("a person opens the red door", "the person opens a red door", True),  # articles
        ("person opens red door slowly", "person opens red door", True),  # 4 of 5
        ("person opens red door", "person closes red door", False),  # 3 of 5
        ("person opens red door", "person opens red door", False),  # the same
        ("dog runs", "dog sits", False),
        ("the", "a", False),  # no words
    ],
)
def test_near_or_not(train, test, near):
    assert find_near_queries([train], [test]) == ({test: train} if near else {})


def test_it_is_what_comparing_all_of_them_finds():
    rng = random.Random(0)
    words = [*"abcdefghijkl", "the"]
    train, test = ([" ".join(rng.choices(words, k=rng.randint(1, 11))) for _ in range(count)] for count in (600, 150))

    def likeness(one, other):
        one, other = set(one.split()) - ARTICLES, set(other.split()) - ARTICLES
        return len(one & other) / max(len(one | other), 1)

    best = {query: max(likeness(query, other) for other in train if other != query) for query in test}
    found = find_near_queries(train, test)
    assert found.keys() == {query for query, value in best.items() if value >= NEAR} and 10 < len(found) < 140
    assert all(likeness(query, other) == best[query] for query, other in found.items())
