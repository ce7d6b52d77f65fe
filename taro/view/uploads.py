"""Files that were uploaded, and who still looks at them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

EVERY = 60.0  # seconds between two looks for files that nobody holds
AGE = 600.0  # seconds that such a file may get old: one that was sent without more, or by who left meanwhile


class Uploads:
    """The uploaded file of each session. Two who upload the same share one file: it goes with the last session that has it.

    Args:
        folder: of all files.
        kept: a folder in it whose files stay.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        self.folder, self.kept = folder.resolve(), kept.resolve()
        self.files: dict[str, Path] = {}
        self.gone: set[str] = set()  # sessions
        self.lock = threading.Lock()

    def hold(self, session: str, file: str) -> None:
        """In place of the one that the session had. One that has left holds nothing: nobody would release it."""
        path = Path(file).resolve()
        self._replace(session, None if path.is_relative_to(self.kept) else path)

    def release(self, session: str) -> None:
        """The session has none any more."""
        self._replace(session, None)

    def leave(self, session: str) -> None:
        """The session is over."""
        with self.lock:
            self.gone.add(session)
        self.release(session)

    def sweep(self, age: float = AGE) -> None:
        """Delete what nobody holds and was not written to for so many seconds."""
        oldest = time.time() - age
        with self.lock, suppress(FileNotFoundError):  # one that is just being renamed: the next time will do
            unheld = set(self.folder.rglob("*")) - set(self.files.values()) - set(self.kept.rglob("*"))
            for path in unheld:
                if path.is_file() and path.stat().st_mtime <= oldest:
                    path.unlink(missing_ok=True)

    @contextmanager
    def swept(self, every: float = EVERY, age: float = AGE) -> Iterator[None]:
        """Sweep now and then."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(every):
                self.sweep(age)

        thread = threading.Thread(target=run, daemon=True, name="uploads")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _replace(self, session: str, file: Path | None) -> None:
        with self.lock:
            former = self.files.pop(session, None)
            if session in self.gone:
                file = None
            if file is not None:
                self.files[session] = file
            if former is not None and former not in self.files.values():
                former.unlink(missing_ok=True)
