"""Batches: up to 500 commands of one caller in a request, each with an event of its own.

The body is `{"items": [the body of a single request, …]}`. The answer is `{"items": [the answer to
that request and its "status", …]}` in the same order, once all events are committed together. An
item that breaks a rule or is refused does not affect the others.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple

import falcon
import falcon.asgi
import msgspec
from msgspec import Meta

from secrets_broker.http import answers, problems, strict_json
from secrets_broker.http.auth.admission import Admission, RefusedError, Result
from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.http.problems import Problem
from secrets_broker.http.request_body import read_typed
from secrets_broker.http.routes import MAX_BODY_BYTES
from secrets_broker.http.strict_json import MoreMembersError
from secrets_broker.ledger.commands import Lookup, Upsert, parse, parse_at
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.ledger.scheduling.time_slice import TimeSlice
from secrets_broker.ledger.writer import MAX_BATCH

MAX_ITEMS: Final = 500
assert MAX_ITEMS <= MAX_BATCH  # noqa: S101 - they are committed together

Item = Lookup | Upsert


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request; its items are parsed one by one."""

    items: Annotated[list[Any], Meta(min_length=1, max_length=MAX_ITEMS)]

    def __repr__(self) -> str:
        """Show nothing: a repr ends in logs and tracebacks."""
        return "Batch(…)"


class ItemOutcome(NamedTuple):
    """The outcome of an item, for the metrics; `rule` is that of a refusal."""

    status: int
    reason: str
    rule: str | None = None
    counted: bool = False
    """Whether the refusal was only counted, without an event."""


class _Batch:
    kind: type[Item]

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Record every item that can be recorded, and answer with the outcome of each."""
        time_slice = TimeSlice()
        wanted = await self._wanted(await read_typed(req), time_slice)
        commands = [item for item in wanted if not isinstance(item, InvalidCommandError)]
        # Died before the commit: nothing of the batch is recorded, and nothing was given out.
        # Died after it: all of it is recorded, and nothing was given out.
        results = iter(await self._admission.submit_all(commands, req.context.caller))
        outcomes = [
            each if isinstance(each, InvalidCommandError) else next(results) for each in wanted
        ]
        counts, encoded = Counter[ItemOutcome](), []
        for command, outcome in zip(wanted, outcomes, strict=True):
            item = _item(command, outcome)
            counts[_counted_as(item, outcome)] += 1
            encoded.append(msgspec.json.encode(item))
            await time_slice.yield_if_over()
        resp.context.outcomes = counts
        resp.content_type = falcon.MEDIA_JSON
        resp.data = b'{"items":[%b]}' % b",".join(encoded)

    async def _wanted(self, data: bytes, time_slice: TimeSlice) -> list[Item | InvalidCommandError]:
        """The command of each item, or the rule that it breaks."""
        found = strict_json.items(data, "items", MAX_ITEMS)
        if found is None:
            raise _not_a_batch(data)
        wanted = []
        try:
            for item in found:
                wanted.append(_parsed(self.kind, item))
                await time_slice.yield_if_over()
        except MoreMembersError:
            raise _not_a_batch(data) from None
        return wanted


class LookupBatch(_Batch):
    """POST /internal/secrets/credential-lookup-batch."""

    kind = Lookup


class UpsertBatch(_Batch):
    """POST /internal/secrets/credential-upsert-batch."""

    kind = Upsert


def _not_a_batch(data: bytes) -> InvalidCommandError | InvalidRequestError:
    """Why a body is refused that is not `{"items": [item, …]}` and nothing else."""
    if len(data) > MAX_BODY_BYTES:  # too large to be parsed just for a better message
        return InvalidRequestError(FieldError("", "must be an object with items, and no more"))
    try:
        parse(Batch, strict_json.decode(data))
    except (InvalidCommandError, InvalidRequestError) as error:
        return error
    return InvalidRequestError(FieldError("items", "must be an array with an item or more"))


def _parsed(kind: type[Item], item: Any) -> Item | InvalidCommandError:
    try:
        return parse_at(kind, item, datetime.now(UTC))
    except InvalidCommandError as error:
        return error


def _item(command: Item | InvalidCommandError, result: Result) -> dict[str, Any]:
    if isinstance(result, InvalidCommandError):
        return _problem(problems.of_rules(result.errors))
    if isinstance(result, RefusedError):
        position = result.position if result.refusal.authn else None
        return _problem(problems.of_refusal(result.refusal), position)
    if result.error is not None:
        return _problem(problems.OF_OUTCOMES[result.error], result.position)
    assert not isinstance(command, InvalidCommandError)  # noqa: S101 - that is its own result
    return {"status": 200, "position": result.position, **answers.body(command, result)}


def _problem(problem: Problem, position: int | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"status": problem.status, **problem.body}
    if position is not None:
        item["position"] = position
    if problem.retry_after is not None:
        item["retry_after"] = problem.retry_after
    return item


def _counted_as(item: dict[str, Any], result: Result) -> ItemOutcome:
    reason = item.get("reason", "ok")
    if isinstance(result, RefusedError):
        return ItemOutcome(item["status"], reason, result.refusal.rule, result.position is None)
    return ItemOutcome(item["status"], reason)
