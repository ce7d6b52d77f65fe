"""The one loop of all that ask a model for many things: so many items are open, and the next is taken when one is done. Items
may be prepared elsewhere while others are worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


def run_jobs(
    items: Iterable[Item],
    at_once: int,
    *,
    submit: Callable[[int, Any], Iterable[Job]],
    collect: Callable[[Mapping[Job, Any]], Iterable[tuple[Job, Result]]],
    give_up: Callable[[list[Job]], object] = lambda jobs: None,
    prepare: Callable[[int, Item], Future] | None = None,
    ready: Callable[[Future], bool] = Future.done,
) -> Iterator[tuple[int, Item, list[Result]]]:
    """Items as they are finished: the item's number, itself, and the results of its jobs in the order of submission.

    What any of the functions raises ends the loop; what concerns one item alone has to be its result.

    Args:
        items: taken when there is room.
        at_once: items that are open together, at most.
        submit: begins an item, or what was prepared of it, given with its number; makes the jobs one after the other.
        collect: waits until some of the open jobs are done.
        give_up: called with the open jobs where the loop is left early. Its errors do not hide the one that ended the loop.
        prepare: begins to make of an item, given with its number, what is submitted; items are submitted in their order.
        ready: whether the next item is waited for, in place of the open jobs. Where there are none, it is.
    """
    source = enumerate(items)
    open_items: dict[int, tuple[Item, list[Job]]] = {}
    open_jobs: dict[Job, int] = {}  # the numbers of their items
    results: dict[Job, Result] = {}  # of items that are not finished
    waiting: deque[tuple[int, Future]] = deque()  # open items that are prepared

    def submit_ready() -> None:
        while waiting and (not open_jobs or ready(waiting[0][1])):
            number, prepared = waiting.popleft()
            for job in submit(number, prepared.result()):
                open_jobs[job] = number
                open_items[number][1].append(job)

    try:
        while True:
            for number, item in islice(source, at_once - len(open_items)):
                open_items[number] = item, []
                waiting.append((number, _as_it_is(item) if prepare is None else prepare(number, item)))
                submit_ready()
            submit_ready()
            if not open_items:
                return
            for job, result in collect(open_jobs):
                results[job] = result
                number = open_jobs.pop(job)
                item, jobs = open_items[number]
                if all(job in results for job in jobs):
                    del open_items[number]
                    yield number, item, [results.pop(job) for job in jobs]
    except Exception:
        with suppress(Exception):
            give_up(list(open_jobs))
        raise
    except BaseException:  # closed, or Ctrl-C
        give_up(list(open_jobs))
        raise
    finally:
        for _, prepared in waiting:
            prepared.cancel()


def _as_it_is(item: Item) -> Future[Item]:
    """An item that needs no preparation."""
    done: Future[Item] = Future()
    done.set_result(item)
    return done


def collect_futures(futures: Iterable[Future[Result]]) -> Iterator[tuple[Future[Result], Result]]:
    """Futures that are done, at least one, and what they return. Raises what one of them raised."""
    for future in wait(futures, return_when=FIRST_COMPLETED).done:
        yield future, future.result()
