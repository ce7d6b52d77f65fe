import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import pytest

from taro.rollout.scheduler import collect_futures, run_jobs


class Worker:
    """Has jobs (number of the item, place in it), and finishes those first that came last, up to `a_time` together."""

    def __init__(self, sizes, a_time=1, fails=None):
        self.sizes, self.a_time, self.fails = sizes, a_time, fails
        self.taken, self.given_up = [], []

    def items(self):
        for number, _ in enumerate(self.sizes):
            self.taken.append(number)
            yield f"item {number}"

    def submit(self, number, item):
        assert item == f"item {number}"
        for job in ((number, place) for place in range(self.sizes[number])):
            if job == self.fails:
                raise OSError("full")
            yield job

    def collect(self, jobs):
        return [(job, f"result {job}") for job in list(jobs)[::-1][: self.a_time]]

    def run(self, at_once):
        return run_jobs(
            self.items(), at_once, submit=self.submit, collect=self.collect, give_up=lambda jobs: self.given_up.append(jobs)
        )


@pytest.mark.parametrize("a_time", [1, 2, 100])
def test_items_come_as_they_are_finished_with_the_results_in_order(a_time):
    worker = Worker([2, 1, 3, 1, 2], a_time)
    seen = []
    for number, item, results in worker.run(at_once=2):
        seen.append(number)
        assert item == f"item {number}"
        assert results == [f"result {(number, place)}" for place in range(worker.sizes[number])]
        assert len(worker.taken) <= len(seen) + 1 + min(a_time, 1)
    assert sorted(seen) == list(range(5)) and worker.given_up == []
    assert seen != sorted(seen) or a_time > 1


def test_a_step_may_finish_nothing():
    worker, steps = Worker([1, 1]), []
    collect = worker.collect
    worker.collect = lambda jobs: steps.append(len(jobs)) or ([] if len(steps) % 2 else collect(jobs))
    assert len(list(worker.run(at_once=1))) == 2 and steps == [1] * 4


def test_without_items_nothing_is_asked():
    worker = Worker([])
    worker.collect = None
    assert list(worker.run(at_once=2)) == []


def test_what_is_open_is_given_up_where_the_loop_is_left():
    worker = Worker([1, 2, 1, 1])
    with closing(worker.run(at_once=3)) as jobs:
        assert next(jobs)[0] == 2
    assert worker.given_up == [[(0, 0), (1, 0), (1, 1)]] and worker.taken == [0, 1, 2]


def test_an_item_that_is_refused_halfway_leaves_nothing_behind():
    worker = Worker([1, 3], fails=(1, 2))
    with pytest.raises(OSError, match="full"):
        list(worker.run(at_once=2))
    assert worker.given_up == [[(0, 0), (1, 0), (1, 1)]]


def test_an_error_of_the_source_comes_through():
    worker = Worker([1, 1])

    def items():
        yield "item 0"
        raise ImportError("no decoder")

    worker.items = items
    with pytest.raises(ImportError, match="no decoder"):
        list(worker.run(at_once=2))
    assert worker.given_up == [[(0, 0)]]


def test_a_failure_to_give_up_hides_no_error():
    worker = Worker([1])

    def die(jobs):
        raise OSError("dead")

    with pytest.raises(KeyError, match="first"):
        list(run_jobs(["item 0"], 1, submit=worker.submit, collect=lambda jobs: {}["first"], give_up=die))
    jobs = run_jobs(["item 0", "item 1"], 2, submit=Worker([1, 1]).submit, collect=worker.collect, give_up=die)
    next(jobs)
    with pytest.raises(OSError, match="dead"):  # nothing else says that jobs go on
        jobs.close()


def test_futures():
    with ThreadPoolExecutor(2) as pool:
        jobs = run_jobs([3, 4, 0], 2, submit=lambda _, item: [pool.submit(divmod, 12, item)], collect=collect_futures)
        found = {}
        with pytest.raises(ZeroDivisionError):
            for number, _, (result,) in jobs:
                found[number] = result
    assert found.items() <= {0: (4, 0), 1: (3, 0)}.items() and found


class Kitchen:
    """Prepares items when it is told to, and notes what happens."""

    def __init__(self):
        self.prepared, self.seen = [], []

    def prepare(self, number, item):
        self.prepared.append(Future())
        if number == 0:
            self.prepared[0].set_result("made of item 0")
        return self.prepared[-1]

    def submit(self, number, made):
        assert made == f"made of item {number}"
        self.seen.append(f"submit {number}")
        return [number]

    def run(self, count, at_once, collect, **settings):
        items = [f"item {number}" for number in range(count)]
        return run_jobs(items, at_once, submit=self.submit, collect=collect, prepare=self.prepare, **settings)


def test_what_is_not_prepared_keeps_nothing_waiting():
    """Jobs go on while the next item is prepared, which is submitted in its turn as soon as it can be."""
    kitchen = Kitchen()

    def collect(jobs):
        kitchen.seen.append(f"collect of {sorted(jobs)}")
        if len(kitchen.seen) == 2:
            kitchen.prepared[2].set_result("made of item 2")  # before its turn
        elif len(kitchen.seen) == 3:
            kitchen.prepared[1].set_result("made of item 1")
        else:
            return [(job, job) for job in jobs]
        return []

    done = list(kitchen.run(3, 3, collect))
    assert done == [(number, f"item {number}", [number]) for number in range(3)]
    assert kitchen.seen == ["submit 0", *["collect of [0]"] * 2, "submit 1", "submit 2", "collect of [0, 1, 2]"]


def test_without_open_jobs_the_next_item_is_waited_for_and_so_is_any_where_that_is_asked_for():
    for settings in ({}, {"ready": lambda prepared: True}):
        kitchen = Kitchen()
        with ThreadPoolExecutor(1) as pool:
            kitchen.prepare = lambda number, item, pool=pool: pool.submit(lambda: time.sleep(0.01) or f"made of {item}")
            seen = [number for number, *_ in kitchen.run(3, 3, lambda jobs: [(job, job) for job in list(jobs)[:1]], **settings)]
        assert seen == [0, 1, 2]
    assert kitchen.seen == ["submit 0", "submit 1", "submit 2"]


def test_an_item_that_can_not_be_prepared_ends_the_loop_and_what_waits_is_left():
    kitchen, given_up = Kitchen(), []

    def collect(jobs):
        kitchen.prepared[1].set_exception(OSError("unreadable"))
        return []

    with pytest.raises(OSError, match="unreadable"):
        list(kitchen.run(4, 3, collect, give_up=given_up.append))
    assert given_up == [[0]] and kitchen.seen == ["submit 0"] and kitchen.prepared[2].cancelled()
