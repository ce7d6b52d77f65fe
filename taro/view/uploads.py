"""Files that were uploaded, and who still looks at them."""

from __future__ import annotations

import threading
from pathlib import Path


class Uploads:
    """The uploaded file of each session. Two who upload the same share one file: it goes with the last session that has it."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        self.lock = threading.Lock()

    def hold(self, session: str, file: str) -> None:
        """In place of the one that the session had."""
        self._replace(session, Path(file))

    def release(self, session: str) -> None:
        """The session has none any more."""
        self._replace(session, None)

    def _replace(self, session: str, file: Path | None) -> None:
        with self.lock:
            former = self.files.pop(session, None)
            if file is not None:
                self.files[session] = file
            if former is not None and former not in self.files.values():
                former.unlink(missing_ok=True)
