"""What a witness keeps: the head of each log, and evidence against a log.

The heads are in SQLite: a decision and its head are one transaction, which is on disk before
anything is signed. Evidence is in files, for people to read.
"""

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import structlog

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.transparency_log.add_checkpoint import (
    AddCheckpoint,
    CosignDecision,
    CosignedHead,
    Misbehaviour,
    decide,
)
from secrets_broker.ledger.transparency_log.note import Signature, SigningKey, VerifierKey

_log = structlog.get_logger(__name__)

HEADS: Final = "heads.sqlite"
EVIDENCE: Final = "evidence"
MAX_EVIDENCE: Final = 100  # files of each kind; the first ones are kept
_WAIT_SECONDS: Final = 5.0  # for other requests' transactions

_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS heads (
        origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL)
"""
_KEEP: Final = """
    INSERT INTO heads (origin, size, root, note) VALUES (?, ?, ?, ?)
    ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root,
        note = excluded.note
"""

Logs = Mapping[str, Sequence[VerifierKey]]


class WitnessStateError(LedgerError):
    """The witness's state cannot be used; nothing was cosigned."""


@dataclass(frozen=True, slots=True)
class KeptHead:
    """A head, and the note that was cosigned for it; empty if none was."""

    head: CosignedHead
    note: str = ""


class WitnessState:
    """The state of a witness, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def heads_path(self) -> Path:
        """The database of heads."""
        return self._folder / HEADS

    def create(self) -> None:
        """Create what is missing; raises WitnessStateError."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with closing(_open(self.heads_path, create=True)) as database:
                database.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise WitnessStateError(f"{self._folder}: {error}") from None

    def heads(self) -> dict[str, CosignedHead]:
        """Every head, by origin; raises WitnessStateError."""
        try:
            with closing(_open(self.heads_path)) as database:
                rows = database.execute("SELECT origin, size, root FROM heads").fetchall()
        except sqlite3.Error as error:
            raise WitnessStateError(f"{self.heads_path}: {error}") from None
        return {origin: CosignedHead(size, root) for origin, size, root in rows}

    def add(
        self, logs: Logs, request: AddCheckpoint, key: SigningKey, now: Callable[[], float]
    ) -> tuple[CosignDecision, Signature | None]:
        """Judge a request, keep the head, and only then cosign; raises WitnessStateError."""
        try:
            decision, kept = self._decide(logs, request)
        except sqlite3.Error as error:
            raise WitnessStateError(f"{self.heads_path}: {error}") from None
        if decision.finding is not None:
            self._keep_evidence(decision.finding, request, kept)
        if decision.status != 200:
            return decision, None
        return decision, key.cosign(request.signed.note.text, int(now()))

    def _decide(self, logs: Logs, request: AddCheckpoint) -> tuple[CosignDecision, KeptHead]:
        checkpoint = request.signed.checkpoint
        with closing(_open(self.heads_path)) as database:
            # Of two concurrent requests, in any process, the second waits here and is judged by
            # the head that the first one left.
            database.execute("BEGIN IMMEDIATE")
            kept = _kept(database, checkpoint.origin)
            decision = decide(logs, kept.head, request)
            if decision.head is not None and decision.status == 200:
                row = (checkpoint.origin, decision.head.size, decision.head.root)
                database.execute(_KEEP, (*row, str(request.signed)))
            # Died before this: the old head holds, and nothing was signed. Died after: the new
            # one holds, and nobody has its cosignature; the next request is told the size
            # (409), and gets it with an empty proof. Nothing smaller is cosigned any more.
            database.execute("COMMIT")
        return decision, kept

    def _keep_evidence(self, finding: Misbehaviour, request: AddCheckpoint, kept: KeptHead) -> None:
        """Write the request, and the note that it contradicts, once for each checkpoint."""
        folder = self._folder / EVIDENCE
        name = f"{finding.value}-{sha256(request.signed.note.text.encode()).hexdigest()[:32]}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if len(list(folder.glob(f"{finding.value}-*.request"))) >= MAX_EVIDENCE:
                return
            _write_once(folder / f"{name}.cosigned", kept.note.encode())
            _write_once(folder / f"{name}.request", request.encode())
        except OSError as error:
            # The answer is the same without it.
            _log.error("evidence_not_kept", why=error.strerror)


def _open(path: Path, *, create: bool = False) -> sqlite3.Connection:
    # A missing database of heads is never recreated: another history would be cosigned.
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    database = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
    # A commit is on disk when it returns, the removal of its journal too.
    database.execute("PRAGMA synchronous = EXTRA")
    return database


def _kept(database: sqlite3.Connection, origin: str) -> KeptHead:
    query = "SELECT size, root, note FROM heads WHERE origin = ?"
    row = database.execute(query, (origin,)).fetchone()
    return (
        KeptHead(CosignedHead()) if row is None else KeptHead(CosignedHead(row[0], row[1]), row[2])
    )


def _write_once(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    if path.exists():
        return
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:  # it has mode 0600
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
