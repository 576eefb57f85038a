"""Reads every range, has it examined, by other processes where there is much, and checks it all.

Ranges are handed out a few ahead of the one that is folded, so memory is bounded whatever the
ledger's size.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Final

from secrets_broker import logging_setup
from secrets_broker.ledger.event_macs.acceptance import Span
from secrets_broker.ledger.transparency_log.note import VerifierKey
from secrets_broker.tools.verify.checks.checker import Checker
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.tools.verify.checks.examine import examine
from secrets_broker.tools.verify.checks.ranges import Examined
from secrets_broker.tools.verify.checks.subtree import RANGE
from secrets_broker.tools.verify.sources.source_protocol import (
    Overview,
    RangeReader,
    Source,
    SourceAddress,
    SourceError,
)

# Starting processes takes longer than examining this many ranges.
ALONE: Final = 12

# A source that claims to be endless must not make this endless; what comes later tells no more.
ENOUGH: Final = 100_000

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class VerifyPlan:
    """What is to be held against the ledger besides itself."""

    keys: tuple[VerifierKey, ...] = ()
    kept: tuple[KeptCheckpoint, ...] = ()
    """Checkpoints that were kept elsewhere; their signatures were verified."""
    processes: int | None = None
    """How many examine; None: as many as there are processors."""


@dataclass(frozen=True, slots=True)
class _Task:
    first: int
    count: int
    kept: tuple[KeptCheckpoint, ...]
    disowned: tuple[Span, ...]


def check(source: Source, checker: Checker, wanted: VerifyPlan, tell: Tell) -> Overview:
    """Feed the whole source to the checker; its `finish` is left to the caller."""
    overview = source.overview()
    findings = checker.findings
    findings.add(*overview.problems)
    findings.not_checked += overview.not_checked
    findings.remarks += overview.remarks
    if not wanted.keys:
        findings.left_out("signatures: no verifier key was given")
    overview.beyond += [kept for kept in wanted.kept if kept.size > overview.size]
    tasks = _tasks(source, overview.size, wanted.kept, checker.disowned)
    for examined in _examined(source, tasks, overview.size, wanted):
        checker.take(examined)
        tell(checker.size, overview.size)
        if findings.problem_count >= ENOUGH:
            findings.left_out(f"all from position {checker.size} on: {ENOUGH} problems are enough")
            overview.complete = False
            break
    return overview


def _tasks(
    source: Source, size: int, also: Sequence[KeptCheckpoint], disowned: Sequence[Span]
) -> Iterator[_Task]:
    # An empty ledger is one range, with the checkpoints of size 0.
    for first in range(0, max(size, 1), RANGE):
        count = min(RANGE, size - first)
        low, high = first or -(2**63), first + count
        kept = [*source.checkpoints(low, high), *(k for k in also if low < k.size <= high)]
        within = tuple(span for span in disowned if span[0] < high and first <= span[1])
        yield _Task(first, count, tuple(sorted(kept, key=lambda one: one.size)), within)


def _examined(
    source: Source, tasks: Iterator[_Task], size: int, wanted: VerifyPlan
) -> Iterator[Examined]:
    processes = wanted.processes or os.cpu_count() or 1
    if processes < 2 or size <= ALONE * RANGE:
        for task in tasks:
            yield _examine_with(source, task, wanted.keys)
        return
    # Fresh processes: a copy of this one would share its connections.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(source.address, wanted.keys)
    ) as pool:
        ahead: deque[Future[Examined]] = deque()
        try:
            for task in tasks:
                ahead.append(pool.submit(_examine, task))
                if len(ahead) > 2 * processes:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool:
            raise SourceError("a process that examined the ledger ended: out of memory?") from None
        finally:
            for future in ahead:
                future.cancel()


class _Process:
    """What a process of the pool has open, from its start to its end."""

    address: SourceAddress
    keys: Collection[VerifierKey]
    reader: RangeReader | None = None


def _begin(address: SourceAddress, keys: tuple[VerifierKey, ...]) -> None:
    logging_setup.configure(
        readable=True
    )  # a process of its own: its standard output is the command's too
    _Process.address, _Process.keys = address, keys


def _examine(task: _Task) -> Examined:
    if _Process.reader is None:  # not in _begin, whose errors nobody is told
        _Process.reader = _Process.address.open()
    return _examine_with(_Process.reader, task, tuple(_Process.keys))


def _examine_with(reader: RangeReader, task: _Task, keys: Sequence[VerifierKey]) -> Examined:
    return examine(reader.load(task.first, task.count), task.kept, keys, task.disowned)
