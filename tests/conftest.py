"""What is asked of pytest; the fixtures of all tests are in `shared_fixtures.py`, whose imports take seconds."""

from itertools import chain

import pytest


def pytest_configure(config):
    """Not for pytest-xdist's main process, which runs no test, and whose workers start when this is done."""
    if not config.getoption("numprocesses", None) or config.option.collectonly:
        config.pluginmanager.import_plugin("shared_fixtures")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What trains, or opens a browser, is slow. Each worker gets an equal part of the list to begin with, its share of the slow
    tests first: at the end there are short ones to share. Those of a file, which may share things, stay together."""
    slow, others = {}, []
    for item in items:
        if not {"fit", "browse"}.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        marked = item.get_closest_marker("slow") or item.get_closest_marker("distributed")
        (slow.setdefault(item.path, []) if marked else others).append(item)
    count = getattr(config, "workerinput", {}).get("workercount", 1)
    if count > 1:
        size, ordered = -(-len(items) // count), []
        for number in range(count):
            part = list(chain(*list(slow.values())[number::count]))
            room = size - len(part)
            ordered += part + others[:room]
            others = others[room:]
        items[:] = ordered
