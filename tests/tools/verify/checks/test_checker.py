"""The checker, without any I/O: one byte anywhere is found, and its position is right."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.events import BodyReference, Event, encode_entry
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import Frontier, leaf_hash
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, SigningKey
from secrets_broker.tools.verify.checks.checker import Checker
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.tools.verify.checks.disk_mapping import Spill
from secrets_broker.tools.verify.checks.examine import examine
from secrets_broker.tools.verify.checks.findings import Findings
from secrets_broker.tools.verify.checks.ranges import BodyDigest, Loaded
from secrets_broker.tools.verify.checks.subtree import RANGE, Spine, Subtree
from tests.ledger.helpers import naive_nodes, naive_root, times

KEY = SigningKey("log.example", bytes(range(32)))
NEW = SigningKey("new.example", bytes(32))
WITNESS = SigningKey("witness.example", bytes(range(1, 33)), COSIGNATURE)
AT = "2026-01-02T03:04:05.000006Z"
CIPHERTEXT = b"a ciphertext"


@dataclass(frozen=True)
class Ledger:
    """All that a source can give, in memory."""

    entries: tuple[bytes | None, ...]
    leaves: tuple[bytes | None, ...]
    nodes: dict[tuple[int, int], bytes]
    kept: tuple[KeptCheckpoint, ...] = ()
    bodies: dict[int, BodyDigest] = field(default_factory=dict)
    published: tuple[str, int] | None = None
    canonical: bool = True

    @classmethod
    def of(
        cls, events: Sequence[Event], sizes: Sequence[int] = (), key: SigningKey = KEY
    ) -> "Ledger":
        """What the service would have written."""
        entries = tuple(map(encode_entry, events))
        leaves = tuple(map(leaf_hash, entries))
        _, nodes = Frontier().extend(leaves)
        stored = {(node.level, node.index): node.hash for node in nodes}
        kept = tuple(kept_of(leaves, size, key) for size in sizes)
        bodies = {
            position: BodyDigest(event.body.key, sha256(CIPHERTEXT).digest())
            for position, event in enumerate(events)
            if event.body
        }
        published = (key.name, sizes[-1]) if sizes else None
        return cls(entries, leaves, stored, kept, bodies, published)

    def load(self, first: int) -> Loaded:
        """A range."""
        count = min(RANGE, len(self.entries) - first)
        tiles = range(first // 256, (first + count) // 256)
        return Loaded(
            first=first,
            entries=list(self.entries[first : first + count]),
            leaves=list(self.leaves[first : first + count]),
            nodes=[self.nodes.get((1, index)) for index in tiles],
            bodies={at: body for at, body in self.bodies.items() if first <= at < first + count},
            canonical=self.canonical,
        )

    def check(self, *keys: SigningKey) -> Findings:
        """Check all of it."""
        findings = Findings()
        checker = Checker(lambda level, index: self.nodes.get((level, index)), findings)
        verifiers = [key.verifier for key in keys or (KEY,)]
        for first in range(0, max(len(self.entries), 1), RANGE):
            loaded = self.load(first)
            low, high = first or -1, first + len(loaded.entries)
            checker.take(examine(loaded, [k for k in self.kept if low < k.size <= high], verifiers))
        beyond = [kept for kept in self.kept if kept.size > len(self.entries)]
        checker.finish(self.published, beyond)
        checker.close()
        return findings


def kept_of(leaves: Sequence[bytes], size: int, key: SigningKey = KEY) -> KeptCheckpoint:
    """The signed checkpoint of the first so many."""
    root = Frontier().extend(leaves[:size])[0].root()
    note = SignedCheckpoint.sign(Checkpoint(key.name, size, root), key)
    return KeptCheckpoint(key.name, size, str(note), root)


def event(kind: str = "read", host: str | None = "h", **fields: Any) -> Event:
    """An event of a credential."""
    named: dict[str, Any] = {"type": f"credential.{kind}", "at": AT, "authn": "cli"}
    return Event(**{**named, "host": host, "purpose": "p", **fields})


def body(key: str) -> BodyReference:
    """A reference to the only ciphertext there is."""
    return BodyReference(key, b64encode(sha256(CIPHERTEXT).digest()).decode())


def created(position: int, host: str = "h", key: str | None = None) -> Event:
    """A new credential."""
    name = key or f"key-of-{position}"
    return event("created", host, credential_id=position + 1, version=1, body=body(name))


def reads(count: int) -> list[Event]:
    """One credential, and lookups of it, each a microsecond later."""
    return [created(0), *(event(credential_id=1, version=1) for _ in range(count - 1))]


SOUND = Ledger.of(reads(700), (0, 1, 255, 256, 400, 600, 700))


def test_a_sound_ledger() -> None:
    """Nothing is found; all of it was looked at."""
    findings = SOUND.check()
    assert (findings.problems, findings.remarks, findings.not_checked) == ([], [], [])
    counted = {"events": 700, "leaves": 700, "nodes": 2, "bodies": 1, "checkpoints": 7}
    assert {what: count for what, count in findings.checked.items() if count} == {
        **counted,
        "signatures": 7,
    }


def flipped(raw: bytes, at: int) -> bytes:
    """One bit changed."""
    changed = bytearray(raw)
    changed[at % len(raw)] ^= 1
    return bytes(changed)


@given(st.integers(0, 699), st.integers(0, 500))
def test_any_byte_of_any_entry(position: int, at: int) -> None:
    """Its own position is named, whatever became of it."""
    entries = list(SOUND.entries)
    entries[position] = flipped(entries[position] or b"", at)
    assert replace(SOUND, entries=tuple(entries)).check().first_bad == position


def test_the_first_of_very_many() -> None:
    """More problems than are kept, and the first position is found last: it is the one named."""
    events = [created(0), *(created(at, f"h{at}") for at in range(1, 1_500))]
    sound = Ledger.of(events)
    bodies = {at: BodyDigest(body.key, bytes(32)) for at, body in sound.bodies.items() if at > 3}
    bodies |= {at: sound.bodies[at] for at in range(4)}
    leaves = (*sound.leaves[:2], bytes(32), *sound.leaves[3:])
    findings = replace(sound, bodies=bodies, leaves=leaves).check()
    assert (findings.first_bad, len(findings.problems)) == (2, 1_000)
    assert findings.problem_count > 1_490
    assert 2 in {problem.position for problem in findings.problems}


@given(st.integers(0, 699), st.integers(0, 31))
def test_any_byte_of_any_leaf_hash(position: int, at: int) -> None:
    """Its own position is named."""
    leaves = list(SOUND.leaves)
    leaves[position] = flipped(leaves[position] or b"", at)
    assert replace(SOUND, leaves=tuple(leaves)).check().first_bad == position


@given(st.sampled_from(sorted(SOUND.nodes)), st.integers(0, 31))
def test_any_byte_of_any_node(place: tuple[int, int], at: int) -> None:
    """Its first position is named, and the entries are not suspected: checkpoints cover them."""
    nodes = {**SOUND.nodes, place: flipped(SOUND.nodes[place], at)}
    findings = replace(SOUND, nodes=nodes).check()
    assert findings.first_bad == place[1] * 256
    assert {problem.check for problem in findings.problems} == {"node"}


@given(st.sampled_from(range(len(SOUND.kept))), st.integers(0, 400))
def test_any_byte_of_any_checkpoint(index: int, at: int) -> None:
    """It is not taken for one, and what it covers is named; nothing else is suspected."""
    one = SOUND.kept[index]
    raw = bytearray(one.note.encode())
    raw[at % len(raw)] ^= 1
    kept = list(SOUND.kept)
    kept[index] = replace(one, note=raw.decode("utf-8", "replace"))
    findings = replace(SOUND, kept=tuple(kept)).check()
    # A bit of the name of a line's key makes it a stranger's line, which is no signature either.
    assert {problem.position for problem in findings.problems} == {max(one.size - 1, 0)}


@given(st.integers(1, 699), st.sets(st.integers(1, 700), max_size=5))
@hypothesis_settings(max_examples=40)
def test_a_leaf_changed_with_its_entry(position: int, sizes: set[int]) -> None:
    """The first that can be wrong: the last good checkpoint's size, or the node's first."""
    sound = Ledger.of(reads(700), sorted(sizes))
    entries, leaves = list(sound.entries), list(sound.leaves)
    entries[position] = encode_entry(event(credential_id=1, version=1, reason="none"))
    leaves[position] = leaf_hash(entries[position] or b"")
    findings = replace(sound, entries=tuple(entries), leaves=tuple(leaves)).check()
    good = max((size for size in sizes if size <= position), default=0)
    bad = min((size for size in sizes if size > position), default=None)
    node = position // 256 * 256 if position < 512 else None
    if node is None and bad is None:
        assert findings.ok  # nothing was ever said of it
        return
    assert findings.first_bad is not None
    assert findings.first_bad <= position
    assert findings.first_bad == max(good, 0 if node is None else node)


@given(st.integers(0, 699))
def test_a_missing_entry(position: int) -> None:
    """Its position is named; stored nodes stand in, so that what follows is still compared."""
    entries, leaves = list(SOUND.entries), list(SOUND.leaves)
    entries[position] = leaves[position] = None
    findings = replace(SOUND, entries=tuple(entries), leaves=tuple(leaves)).check()
    assert findings.first_bad == position
    assert {problem.check for problem in findings.problems} == {"missing"}


def test_time_runs_forward() -> None:
    """Within a range, and from one range to the next."""
    events = reads(5)
    events[2] = event(credential_id=1, version=1, at=rfc3339_of(1))
    assert Ledger.of(events).check().first_bad == 3
    events = reads(RANGE + 2)
    late = rfc3339_of(1)
    events[RANGE - 1] = event(credential_id=1, version=1, at=late)
    assert Ledger.of(events).check().first_bad == RANGE
    events[RANGE] = events[RANGE + 1] = events[RANGE - 1]
    assert Ledger.of(events).check().ok


def rfc3339_of(seconds: int) -> str:
    """Some seconds later."""
    return AT.replace("05.", f"{5 + seconds:02}.")


@pytest.mark.parametrize(
    "wrong",
    [
        event("created", credential_id=9, version=1, body=body("new")),
        event("created", "other", credential_id=3, version=2, body=body("new")),
        event("created", "other", credential_id=3, version=1),
        event("created", "other", credential_id=3, version=1, body=body("key-of-0")),
        event("updated", credential_id=1, version=3, body=body("key-of-0")),
        event("updated", credential_id=1, version=2, body=body("another")),
        event("updated", "other", credential_id=1, version=2, body=body("key-of-0")),
        event("updated", credential_id=1, version=2),
        event(credential_id=1, version=2),
        event(credential_id=2, version=1),
        event("read", "other", credential_id=1, version=1),
        event(credential_id=1, version=1, body=body("key-of-0")),
        event(ok=False, error="not_found"),
        event(ok=False, error="expired"),
        event("deleted", credential_id=1, version=2),
        event("deleted", "other", credential_id=1, version=1),
        event("rekeyed", credential_id=1, version=1, body=body("new"), details={"content": 1}),
        event("rekeyed", credential_id=1, version=1, body=body("key-of-0"), details={"content": 0}),
        event("rekeyed", credential_id=1, version=2, body=body("new"), details={"content": 0}),
        event("imported", credential_id=3, version=1, body=body("new")),
        event("erased", credential_id=1, version=1, details={"data_keys": "key-of-0"}),
        event(
            "erased", credential_id=2, version=1, details={"data_keys": [], "credential_ids": []}
        ),
        event(
            "erased",
            credential_id=1,
            version=1,
            details={"data_keys": ["key-of-0"], "credential_ids": [7], "bodies": 1},
        ),
        *(
            event(
                "erased",
                credential_id=1,
                version=1,
                details={"data_keys": ["key-of-0"], "credential_ids": [1], **bodies},
            )
            for bodies in ({}, {"bodies": 2}, {"bodies": -1}, {"bodies": True}, {"bodies": "1"})
        ),
    ],
)
def test_an_event_that_cannot_stand_there(wrong: Event) -> None:
    """Hashes, nodes and signatures fit; the rules of ids, versions and keys do not."""
    ledger = Ledger.of([created(0), event(credential_id=1, version=1), wrong], (3,))
    findings = ledger.check()
    assert findings.first_bad == 2, findings.problems


def replayed(at: int, **fields: Any) -> Event:
    """What `replay --reveal` records: the credential as it was after the event there."""
    return event(details={"replay": {"at": at}}, **fields)


BEFORE = [
    created(0),
    event("updated", credential_id=1, version=2, body=body("key-of-0")),
    event("deleted", credential_id=1, version=2),
    created(3),
]


def test_a_version_read_out_of_the_history() -> None:
    """Not live any more, but it was: no problem, also where it did not open."""
    reads = [
        replayed(0, credential_id=1, version=1),
        replayed(1, credential_id=1, version=2),
        replayed(3, credential_id=4, version=1),
        replayed(0, credential_id=1, version=1, ok=False, error="decrypt_failed"),
    ]
    assert Ledger.of([*BEFORE, *reads]).check().problems == []


@pytest.mark.parametrize(
    "wrong",
    [
        event(credential_id=1, version=1),
        replayed(5, credential_id=1, version=1),
        replayed(0, credential_id=4, version=1),
        replayed(3, credential_id=4, version=2),
        replayed(3, credential_id=2**40, version=1),
        replayed(3, credential_id=1, version=0),
        replayed(-1, credential_id=1, version=1),
        replayed(0, version=1),
        replayed(0, ok=False, error="not_found"),
        event(credential_id=4, version=1, details={"replay": {}}),
        event(credential_id=1, version=1, details={"replay": {"at": "0"}}),
    ],
)
def test_a_version_that_never_was(wrong: Event) -> None:
    """Neither the live one, nor one of before that is said to be read out of the history."""
    read = replayed(0, credential_id=1, version=1)
    assert Ledger.of([*BEFORE, read, wrong]).check().first_bad == 5


def test_a_version_that_is_not_live_any_more() -> None:
    """Of disclosures in a row one tells all, but not beyond a change of the credential."""
    read = event(credential_id=1, version=1)
    update = event("updated", credential_id=1, version=2, body=body("key-of-0"))
    assert Ledger.of([created(0), read, update, read]).check().first_bad == 3
    gone = event("deleted", credential_id=1, version=1)
    assert Ledger.of([created(0), read, gone, read]).check().first_bad == 3


def test_a_life_as_it_should_be() -> None:
    """Every kind of event where it may stand."""
    details = {"data_keys": ["key-of-0", "second"], "credential_ids": [1], "bodies": 3}
    ledger = Ledger.of(
        [
            created(0),
            event("updated", credential_id=1, version=2, body=body("key-of-0")),
            event(
                "rekeyed", credential_id=1, version=2, body=body("second"), details={"content": 1}
            ),
            event(credential_id=1, version=2),
            event(credential_id=1, version=2, ok=False, error="expired"),
            event("rekeyed", credential_id=1, version=2, ok=False, error="decrypt_failed"),
            event("imported", credential_id=1, ok=False, error="already_there"),
            event("deleted", credential_id=1, version=2),
            event("deleted", ok=False, error="not_found"),
            event(ok=False, error="not_found"),
            created(10),
            event("erased", credential_id=11, version=1, details=details),
            event("seen", credential_id=77, version=7, host=None, purpose=None),
            event("imported", credential_id=14, version=1, body=body("third")),
        ],
        (14,),
    )
    # What was erased is gone; the key of position 10 was not among it.
    bodies = {at: one for at, one in ledger.bodies.items() if at not in (0, 1, 2)}
    findings = replace(ledger, bodies=bodies).check()
    assert (findings.problems, findings.not_checked) == ([], [])
    outlived = replace(ledger, bodies={**bodies, 2: ledger.bodies[2]}).check()
    assert (outlived.first_bad, outlived.problems[0].check) == (11, "erasure")
    lost = replace(ledger, bodies={at: bodies[at] for at in bodies if at != 13}).check()
    assert (lost.first_bad, lost.problems[0].check) == (13, "body")


def restored(size: int, origin: str = KEY.name) -> Event:
    """What `secrets-broker restored` records."""
    details = {"origin": origin, "size": size, "root": "", "new_origin": NEW.name}
    return Event(type="ledger.restored", at=AT, authn="cli", details=details)


def test_a_restored_ledger_goes_on_under_another_origin() -> None:
    """Checkpoints of the old one fit up to there; those of what was lost are remarked upon."""
    events = [*reads(5), restored(9), *(event(credential_id=1, version=1) for _ in range(4))]
    ledger = Ledger.of(events, (6, 10), NEW)
    leaves = [leaf for leaf in ledger.leaves if leaf]
    lost = SignedCheckpoint.sign(Checkpoint(KEY.name, 8, bytes(32)), KEY)
    gone = SignedCheckpoint.sign(Checkpoint(KEY.name, 9, bytes(32)), KEY)
    olds = [
        kept_of(leaves, 5),
        KeptCheckpoint(KEY.name, 8, str(lost)),
        KeptCheckpoint(KEY.name, 9, str(gone)),
    ]
    kept = sorted([*olds, *ledger.kept], key=lambda one: one.size)
    findings = replace(ledger, kept=tuple(kept)).check(KEY, NEW)
    assert (findings.problems, len(findings.remarks)) == ([], 1)
    assert "above position 5" in findings.remarks[0]
    since = replace(olds[1], source="kept")
    findings = replace(ledger, kept=(*ledger.kept[:1], since, ledger.kept[1])).check(KEY, NEW)
    assert (findings.first_bad, findings.problems[0].check) == (5, "since")
    assert "ledger.restored at 5 says what was lost" in findings.problems[0].detail
    more = SignedCheckpoint.sign(Checkpoint(KEY.name, 10, bytes(32)), KEY)
    excess = replace(ledger, kept=(*ledger.kept, KeptCheckpoint(KEY.name, 10, str(more))))
    assert not excess.check(KEY, NEW).ok


def test_another_origin_without_a_restore_is_a_problem() -> None:
    """Also where its key is known and its root is right."""
    sound = Ledger.of(reads(9), (3, 9))
    leaves = [leaf for leaf in sound.leaves if leaf]
    kept = (sound.kept[0], kept_of(leaves, 5, NEW), sound.kept[1])
    findings = replace(sound, kept=kept).check(KEY, NEW)
    assert (findings.first_bad, findings.problems[0].check) == (4, "checkpoint")
    assert "its origin is not this ledger's" in findings.problems[0].detail


def test_checkpoints_that_none_is_published_of() -> None:
    """The published one is the largest of its origin, and there is one."""
    sound = Ledger.of(reads(9), (3, 9))
    assert replace(sound, published=None).check().first_bad == 2
    assert replace(sound, published=(KEY.name, 3)).check().first_bad == 2


def test_what_no_checkpoint_covers_is_remarked_upon() -> None:
    """The newest events can only be held against the rules."""
    findings = Ledger.of(reads(9), (3,)).check()
    assert findings.ok
    assert findings.remarks == ["the newest 6 events are under no signed checkpoint"]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 300, RANGE, RANGE + 1, RANGE * 17 + 300])
def test_roots_at_any_size(size: int) -> None:
    """The same roots and nodes as RFC 9162's words give, range by range."""
    leaves = [sha256(b"%d" % number).digest() for number in range(size)]
    spine, completed = Spine(), list[tuple[int, int, bytes]]()
    for first in range(0, size, RANGE):
        subtree = Subtree(leaves[first : first + RANGE])
        subtree.settle(subtree.tiles)
        for inner in {1, 2, 255, 257, subtree.size} if size < RANGE * 2 else set[int]():
            if inner <= subtree.size:
                assert spine.root(subtree.edge(inner)) == naive_root(leaves[: first + inner])
        completed += spine.append(subtree.edge(subtree.size), lambda *_: None)
    assert spine.root() == (naive_root(leaves) if leaves else sha256().digest())
    nodes = {(node.level, node.index, node.hash) for node in naive_nodes(leaves) if node.level > 1}
    assert set(completed) == nodes


def test_a_node_of_level_two() -> None:
    """A wrong one is named by its first position; a missing leaf below it takes it as stored."""
    count = 65_536 + 10
    one = event(credential_id=1, version=1)
    entry = encode_entry(one)
    first = encode_entry(created(0))
    entries = (first, *(entry for _ in range(count - 1)))
    leaves = (leaf_hash(first), *([leaf_hash(entry)] * (count - 1)))
    frontier, nodes = Frontier().extend(leaves)
    stored = {(node.level, node.index): node.hash for node in nodes}
    note = SignedCheckpoint.sign(Checkpoint(KEY.name, count, frontier.root()), KEY)
    kept = (KeptCheckpoint(KEY.name, count, str(note)),)
    place = (KEY.name, count)
    sound = Ledger(entries, leaves, stored, kept, {0: Ledger.of([created(0)]).bodies[0]}, place)
    assert sound.check().problems == []
    findings = replace(sound, nodes={**stored, (2, 0): bytes(32)}).check()
    assert [(p.position, p.check) for p in findings.problems] == [(0, "node")]
    assert "the stored node (2, 0) is wrong" in findings.problems[0].detail


@given(st.lists(st.tuples(st.integers(0, 30).map(str), st.integers()), max_size=200))
def test_what_spills_is_kept(steps: list[tuple[str, int]]) -> None:
    """A mapping with a limit of three gives what a dict gives."""
    spilling, plain = Spill(3), dict[str, tuple[int]]()
    for key, value in steps:
        spilling.put(key, (value,))
        plain[key] = (value,)
        assert spilling.get(key) == (value,)
    assert {key: spilling.get(key) for key in plain} == plain
    assert dict(spilling.items()) == plain
    assert spilling.get("nobody") is None
    spilling.close()


@given(times)
def test_times_are_written_in_one_form(moment: Any) -> None:
    """Any time of the years 1 to 9999 is taken, as the service writes it, and nothing else."""
    text = rfc3339(moment)
    one = event(credential_id=1, version=1, at=text, occurred_at=text)
    assert Ledger.of([replace_at(created(0), text), one]).check().ok
    for wrong in (text.replace("Z", "+00:00"), text[:-2] + "Z", text.lower(), f"{text} BC"):
        changed = replace_at(one, wrong)
        assert Ledger.of([replace_at(created(0), text), changed]).check().first_bad == 1


def replace_at(one: Event, at: str) -> Event:
    """The same at another time."""
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    return Event(**{**fields, "at": at})


def signed_anew(at: int, sizes: Sequence[int]) -> tuple[Ledger, Ledger]:
    """Seventy reads, and the same with one of them rewritten and all checkpoints signed anew."""
    events = [event(host=f"h{n}", ok=False, error="not_found") for n in range(70)]
    other = [*events]
    other[at] = event(host=f"h{at}", ok=False, error="not_found", actor="mallory")
    return Ledger.of(events, sizes), Ledger.of(other, sizes)


def with_more(ledger: Ledger, kept: Sequence[KeptCheckpoint]) -> Ledger:
    """The ledger, and checkpoints that were kept elsewhere or cosigned, by size."""
    return replace(ledger, kept=tuple(sorted([*ledger.kept, *kept], key=lambda one: one.size)))


@given(st.integers(0, 69), st.integers(1, 70), st.integers(0, 70), st.booleans())
def test_only_what_was_kept_elsewhere_vouches(
    at: int, size: int, earlier: int, witnessed: bool
) -> None:
    """A history that was signed anew fits its own checkpoints, which therefore say nothing."""
    true, forged = signed_anew(at, (10, 20, 33, 60, 70))
    leaves = [leaf for leaf in true.leaves if leaf is not None]
    kept = [replace(kept_of(leaves, size), source="there")]
    if earlier:
        head = kept_of(leaves, earlier)
        if witnessed:
            text = SignedCheckpoint.parse(head.note).note.text
            head = replace(head, cosignatures=str(WITNESS.cosign(text, 1_700_000_000)))
            kept.append(head)
        else:
            kept.append(replace(head, source="elsewhere"))
    assert with_more(true, kept).check(KEY, WITNESS).ok
    findings = with_more(forged, kept).check(KEY, WITNESS)
    assert findings.ok is not (at < size or at < earlier)
    if findings.ok:
        return
    # Whatever is named as the first that can be wrong is not after what is.
    vouching = [known for known in (size, earlier) if known <= at]
    assert findings.first_bad == max(vouching, default=0)
    said = "\n".join(problem.detail for problem in findings.problems)
    assert ("at or before position" in said) is (findings.first_bad == 0)
