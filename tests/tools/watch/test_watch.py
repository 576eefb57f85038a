"""`secrets-broker watch`: a real ledger, a real webhook and syslog, and what can go wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql

from secrets_broker.ledger.access.access_key import digest
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context, Subject
from secrets_broker.outbound.address import HttpUrlError
from secrets_broker.projections.conditions import WORDS, Condition
from secrets_broker.settings import SettingsError
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.watch.delivery import LONGEST_PAUSE, Delivery, pause
from secrets_broker.tools.watch.signature import WebhookKey, headers, new_webhook_key
from secrets_broker.tools.watch.sink import DeliveryError
from secrets_broker.tools.watch.syslog import Syslog, SyslogAddress, SyslogAddressError
from secrets_broker.tools.watch.webhook import Webhook
from tests.certificates import self_signed
from tests.conftest import KMS_KEY, Database
from tests.ledger.checkpoints import publish_checkpoint
from tests.ledger.helpers import lookup, run, send, upsert, writing
from tests.projections.asking import auditor
from tests.repository import ROOT
from tests.tools.command_line import run as command
from tests.tools.watch.receivers import (
    BREAK,
    CUT,
    HANG,
    SECRET,
    datagrams,
    hooked,
    octet_counted,
    verified,
)
from tests.waiting import until

KEYRING = Keyring.from_kms_keys(KMS_KEY)
NOBODY = "192.0.2.66"
# No rows and no checkpoints: what is told is of events alone.
PLAIN = ("watch", "--projection-every", "0")
EARLY = """
    INSERT INTO ledger.events (position, at, v, ok, leaf_hash, mac, type, authn)
    VALUES (%s, '2020-01-02T03:04:05Z', 1, true, sha256('x'), sha256('y'), 'key.rotated', 'cli')
"""


def refuse(database: Database, *ips: str, claim: str | None = None) -> None:
    """Have callers refused who have no valid key."""

    async def refused() -> None:
        async with writing(database.service_url, KEYRING) as writer:
            for ip in ips:
                context = Context(
                    actor=None, authn="none", ip=ip, claim=claim, subject=Subject(sha256="0" * 64)
                )
                await send(writer, lookup("web-1"), context=context)

    run(refused())


def env(database: Database, **more: str) -> dict[str, str]:
    """The service's login, and nothing else of the ledger's."""
    return {"DATABASE_URL": database.service_url, **more}


def told(output: str) -> list[dict[str, Any]]:
    """The lines of standard output."""
    return [json.loads(line) for line in output.splitlines()]


class Watching:
    """A watch that goes on."""

    def __init__(self, database: Database, folder: Path, *options: str) -> None:
        self.log = folder / f"watch-{time.monotonic_ns()}.log"
        line = [sys.executable, "-m", "secrets_broker", *PLAIN, "--interval", "0.1", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                line,
                cwd=folder,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    **env(database, WATCH_WEBHOOK_KEY=SECRET),
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def says(self, text: str) -> None:
        """Wait until it says so on standard error."""
        until(lambda: text in self.log.read_text())

    def end(self, number: signal.Signals) -> int:
        """Signal it; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(5)


@contextmanager
def watching(database: Database, folder: Path, *options: str) -> Iterator[Watching]:
    """Run one; nothing of it is left."""
    one = Watching(database, folder, *options)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


def position(state: Path) -> int:
    """How far a state says that was told; -1 before there is one."""
    return int(json.loads(state.read_bytes())["position"]) if state.exists() else -1


def condition(word: str = "denied", at: int = 7) -> Condition:
    """One to be told."""
    return Condition(
        id=f"{word}:{at}",
        condition=word,
        severity="warning",
        position=at,
        at="2026-01-02T03:04:05.000006Z",
        summary="a sentence",
    )


def test_conditions_are_lines_of_json(database: Database, tmp_path: Path) -> None:
    """In order, with who, what and where; no secret and no control character; exit 0."""
    refuse(database, NOBODY, NOBODY, claim="\u202e\x9b31m'\"")
    granted = ("access", "grant", "deploy", "--allow", "audit")
    assert command(*granted, cwd=tmp_path, env=env(database, SECRETS_KMS_KEY=KMS_KEY)).stdout
    done = command(*PLAIN, "--once", "--from", "1", cwd=tmp_path, env=env(database))
    assert done.returncode == 0, done.stderr
    first, second = told(done.stdout)
    at = database.fetch(
        'SELECT to_char(at, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') FROM ledger.events ORDER BY position'
    )
    assert first == {
        "id": "unauthorized:1",
        "condition": "unauthorized",
        "severity": "warning",
        "position": 1,
        "at": at[1][0],
        "summary": f"a caller from {NOBODY} has no valid key ('unknown_key')",
        "claim": "\u202e\x9b31m'\"",
        "source": NOBODY,
        "operation": "read",
        "rule": "unknown_key",
    }
    assert (second["id"], second["name"], second["change"]) == (
        *("grant_changed:3", "deploy"),
        "granted",
    )
    assert done.stdout.isascii()
    assert done.stdout.replace("\n", "").isprintable()


def test_what_a_real_ledger_records_is_told(database: Database, tmp_path: Path) -> None:
    """A key refused by its rules, a row edited by hand, a new address, too many hosts and reads."""
    made = ("access", "grant", "deploy", "--allow", "read", "--host", "web-*", "--purpose", "ssh")
    keys = env(database, SECRETS_KMS_KEY=KMS_KEY)
    key = command(*made, cwd=tmp_path, env=keys).stdout.strip()
    deploy = Context(actor=None, authn="none", ip="192.0.2.1", subject=Subject(sha256=digest(key)))
    elsewhere = msgspec.structs.replace(deploy, ip="192.0.2.2")

    async def used() -> None:
        async with writing(database.service_url, KEYRING) as writer:
            await send(writer, *[upsert(f"web-{n}") for n in range(4)])
            await send(writer, lookup("db-1"), lookup("db-2"), context=deploy)
            database.execute(
                "UPDATE secrets.host_credentials SET username = 'x' WHERE host = 'web-3'"
            )
            await send(writer, lookup("web-3"), context=deploy)
            await send(writer, *[lookup(f"web-{n}") for n in range(3)], context=elsewhere)

    run(used())
    options = ("--bulk-hosts", "2", "--failure-lookups", "3", "--from", "2")
    done = command(*PLAIN, "--once", *options, cwd=tmp_path, env=env(database))
    found = told(done.stdout)
    assert [one["id"] for one in found] == [
        *("denied:6", "failure_rate:8", "encryption_error:8", "new_source:9", "bulk_reads:11"),
    ]
    denied = {"actor": "deploy", "name": "deploy", "rule": "host", "host": "db-1", "purpose": "ssh"}
    assert denied.items() <= found[0].items()
    assert (found[1]["count"], found[1]["of"]) == (3, 3)
    assert (found[2]["host"], found[2]["severity"]) == ("web-3", "critical")
    assert (found[3]["actor"], found[3]["source"]) == ("deploy", "192.0.2.2")
    assert (found[4]["actor"], found[4]["count"]) == ("deploy", 3)
    assert key not in done.stdout + done.stderr


def test_the_beginning_can_be_chosen(database: Database, tmp_path: Path) -> None:
    """From now on nothing of before is told; from a position on what is there; not past the end."""
    refuse(database, "192.0.2.1", "192.0.2.2", "192.0.2.3")

    def begun(*begin: str) -> list[str]:
        done = command(*PLAIN, "--once", *begin, cwd=tmp_path, env=env(database))
        assert done.returncode == 0, done.stderr
        return [one["id"] for one in told(done.stdout)]

    assert begun() == begun("--from", "4") == []
    assert begun("--from", "2") == ["unauthorized:2", "unauthorized:3"]
    assert len(begun("--from", "1h")) == 3
    assert begun("--from", "1", "--without", "unauthorized") == []
    late = command(*PLAIN, "--once", "--from", "5", cwd=tmp_path, env=env(database))
    assert (late.returncode, "past the ledger's end" in late.stderr) == (2, True)


def test_cron_goes_on_where_it_ended(database: Database, tmp_path: Path) -> None:
    """With --once and a state each is told in one run, and a cool-down lasts over runs."""
    cron = (*PLAIN, "--once", "--state", "state")
    runs = []
    for ips in ((), ("192.0.2.1",), ("192.0.2.1", "192.0.2.2"), ()):
        refuse(database, *ips)
        done = command(*cron, cwd=tmp_path, env=env(database))
        assert done.returncode == 0, done.stderr
        runs.append([one["id"] for one in told(done.stdout)])
    assert runs == [[], ["unauthorized:1"], ["unauthorized:3"], []]
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_other_thresholds_go_on_from_the_same_place(database: Database, tmp_path: Path) -> None:
    """What was told stays told, and the windows are learned anew from the events before."""
    cron = (*PLAIN, "--once", "--state", "state", "--without", "failure_rate", "--bulk-hosts")
    first = command(*cron, "9", "--from", "0", cwd=tmp_path, env=env(database))
    assert (first.returncode, first.stdout) == (0, "")

    async def stored(*names: str) -> None:
        async with writing(database.service_url, KEYRING) as writer:
            await send(writer, *[upsert(name) for name in names], *map(lookup, names))

    run(stored("a", "b"))
    refuse(database, NOBODY)
    assert len(told(command(*cron, "9", cwd=tmp_path, env=env(database)).stdout)) == 1
    run(stored("c"))
    refuse(database, NOBODY)
    (bulk,) = told(command(*cron, "2", cwd=tmp_path, env=env(database)).stdout)
    assert (bulk["id"], bulk["actor"], bulk["count"]) == ("bulk_reads:7", "tester", 3)


def test_a_webhook_is_told_signed_and_again_until_it_takes_it(
    database: Database, tmp_path: Path
) -> None:
    """Refused, broken off and at last taken: the same id and body each time, and in order.

    What follows on a 200 does not matter.
    """
    refuse(database, "192.0.2.1", "192.0.2.2")
    with hooked(500, BREAK, CUT) as hook:
        with watching(database, tmp_path, "--from", "1", "--webhook", f"{hook.url}in?a=b"):
            messages = [hook.next() for _ in range(4)]
        assert hook.paths == ["/in?a=b"] * 4
    assert [message["id"] for message in messages] == [*["unauthorized:1"] * 3, "unauthorized:2"]
    assert messages[0] == messages[1] == messages[2]


@pytest.mark.parametrize("status", [401, 308])
def test_a_webhook_that_refuses_is_said_loudly_and_not_given_up(
    database: Database, tmp_path: Path, status: int
) -> None:
    """On standard error, with the status; nothing is dropped, and no redirect is followed."""
    refuse(database, NOBODY)
    options = ("--once", "--from", "1", "--state", "state", "--webhook")
    with hooked(status) as hook:
        settings = env(database, WATCH_WEBHOOK_KEY=SECRET)
        done = command(*PLAIN, *options, hook.url, cwd=tmp_path, env=settings)
        assert (done.returncode, f"answered {status}" in done.stderr) == (2, True)
        assert [one["id"] for one in hook.all()] == ["unauthorized:1"]
        assert position(tmp_path / "state") == 1
        done = command(*PLAIN, *options, hook.url, cwd=tmp_path, env=settings)
        assert (done.returncode, hook.next()["id"]) == (0, "unauthorized:1")
    assert position(tmp_path / "state") == 2


def test_while_it_refuses_the_watch_goes_on_trying(database: Database, tmp_path: Path) -> None:
    """It says so, and ends at once when it is told to: what waits stays to be told."""
    refuse(database, NOBODY)
    options = ("--from", "1", "--state", "state", "--webhook")
    with hooked(404) as hook, watching(database, tmp_path, *options, hook.url) as watch:
        watch.says("answered 404")
        watch.says("not_told")
        assert SECRET not in watch.log.read_text()
        assert watch.end(signal.SIGTERM) == 0
    assert position(tmp_path / "state") == 1


def test_killed_before_it_was_taken_it_is_told_again(database: Database, tmp_path: Path) -> None:
    """A kill while the webhook has it and did not answer: the next run tells it, same id."""
    refuse(database, "192.0.2.1", "192.0.2.2")
    options = ("--from", "1", "--state", "state", "--webhook")
    with hooked(200, HANG) as hook:
        with watching(database, tmp_path, *options, hook.url) as watch:
            first, second = hook.next(), hook.next()
            assert watch.end(signal.SIGKILL) == -signal.SIGKILL
        assert position(tmp_path / "state") == 2
        with watching(database, tmp_path, *options, hook.url):
            assert hook.next() == second
            until(lambda: position(tmp_path / "state") == 3)
        assert hook.all() == []
    assert (first["id"], second["id"]) == ("unauthorized:1", "unauthorized:2")


def test_killed_after_it_was_kept_it_is_not_told_again(database: Database, tmp_path: Path) -> None:
    """A kill when the place is on disk: the next run goes on behind it, cool-down and all."""
    refuse(database, "192.0.2.1")
    options = ("--from", "1", "--state", "state", "--webhook")
    with hooked() as hook:
        with watching(database, tmp_path, *options, hook.url) as watch:
            assert hook.next()["id"] == "unauthorized:1"
            until(lambda: position(tmp_path / "state") == 2)
            assert watch.end(signal.SIGKILL) == -signal.SIGKILL
        refuse(database, "192.0.2.1", "192.0.2.2")
        with watching(database, tmp_path, *options, hook.url):
            assert hook.next()["id"] == "unauthorized:3"
        assert hook.all() == []


def test_it_ends_while_a_webhook_hangs(database: Database, tmp_path: Path) -> None:
    """SIGTERM is obeyed at once, with exit 0, and what was not taken stays to be told."""
    refuse(database, NOBODY)
    options = ("--from", "1", "--state", "state", "--webhook")
    with hooked(HANG) as hook, watching(database, tmp_path, *options, hook.url) as watch:
        hook.next()
        assert watch.end(signal.SIGTERM) == 0
    assert position(tmp_path / "state") == 1


def test_a_webhook_that_hangs_is_given_up_and_asked_again() -> None:
    """A request is bounded in time, and so is what is read of the answer."""
    key = WebhookKey.parse(SECRET)
    with hooked(HANG) as hook:
        webhook = Webhook.parse(hook.url, [key])
        endpoint = replace(webhook.endpoint, timeout=0.2)
        with pytest.raises(DeliveryError, match=r"no answer within 0\.2 s"):
            run(replace(webhook, endpoint=endpoint).send(condition()))
        hook.next()
        run(Delivery(webhook).tell(condition()))
        assert hook.next()["id"] == "denied:7"


def test_a_webhooks_certificate_is_checked(tmp_path: Path) -> None:
    """Nothing goes to a server of an unknown authority, unless that is named."""
    certificate, key = self_signed(tmp_path), WebhookKey.parse(SECRET)
    with hooked(certificate=certificate) as hook:
        with pytest.raises(DeliveryError, match=re.compile("certificate", re.IGNORECASE)):
            run(Webhook.parse(hook.url, [key]).send(condition()))
        assert hook.all() == []
        run(Webhook.parse(hook.url, [key], certificate).send(condition()))
        assert hook.next()["id"] == "denied:7"
    with pytest.raises(HttpUrlError, match="no certificates"):
        Webhook.parse("https://alerts.example/", [key], ROOT / "README.md")


def test_the_pages_own_verification_is_right() -> None:
    """What docs/watch.md shows takes our messages, and no other key, body, id or time."""
    page = (ROOT / "docs" / "watch.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(block, scope)  # noqa: S102 - our own page
    verify, key, now = scope["verify"], WebhookKey.parse(SECRET), int(time.time())
    good = headers([WebhookKey.parse(new_webhook_key()), key], "a:1", now, b"{}")
    assert verify(SECRET, good, b"{}")
    assert not verify(SECRET, good, b"{ }")
    assert not verify(new_webhook_key(), good, b"{}")
    assert not verify(SECRET, good | {"webhook-id": "a:2"}, b"{}")
    assert not verify(SECRET, headers([key], "a:1", now - 301, b"{}"), b"{}")
    assert set(re.findall(r"^\| `([a-z_]+)` \| (?:crit|warn|not)", page, re.MULTILINE)) == set(
        WORDS
    )


def test_signatures_are_those_of_standard_webhooks() -> None:
    """The specification's own example; of two keys both sign, so that they can be exchanged."""
    key = WebhookKey.parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    message = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    right = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert key.sign(*message) == right
    other = WebhookKey.parse(new_webhook_key())
    assert headers([key, other], *message) == {
        "webhook-id": message[0],
        "webhook-timestamp": "1614265330",
        "webhook-signature": f"{right} {other.sign(*message)}",
    }
    assert "raw" not in repr(key)
    sent = Message()
    body = b'{"id": "a:1"}'
    for name, value in headers([other, WebhookKey.parse(SECRET)], "a:1", 5, body).items():
        sent[name] = value
    assert verified(SECRET, sent, body) == {"id": "a:1"}


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_c2hvcnQ=", SECRET[6:], f"{SECRET}=", "whsec_" + "A" * 100]
)
def test_a_bad_key_is_refused_unseen(text: str) -> None:
    """24 to 64 bytes behind whsec_, in base64; the message does not repeat it."""
    with pytest.raises(SettingsError) as raised:
        WebhookKey.parse(text)
    assert len(text) < 8 or text not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://alerts.example/x",
        "http://127.0.0.1.example/",
        "ftp://127.0.0.1/",
        "https://user:pa55@alerts.example/",
        "https://alerts.example/#pa55",
        "https://alerts.example/ü",
        "https://alerts.example:port/",
        "https:///path",
    ],
)
def test_a_webhook_is_https_or_on_this_machine(url: str) -> None:
    """Anything else is refused, without being repeated."""
    with pytest.raises(HttpUrlError) as raised:
        Webhook.parse(url, [])
    assert "pa55" not in str(raised.value)
    assert url not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["https://alerts.example/x?y=z", "http://localhost:1/", "http://[::1]:1/", "http://127.9.9.9"],
)
def test_a_webhook_may_be(url: str) -> None:
    """Plain HTTP to this machine's own addresses; elsewhere where it was asked for."""
    Webhook.parse(url, [])
    Webhook.parse("http://alerts.example/", [], insecure=True)


def test_pauses_grow_and_stay_bounded() -> None:
    """Longer each time up to a minute; what somebody has to put right waits that long at once."""
    passing, lasting = DeliveryError("x"), DeliveryError("x", lasting=True)
    for failures in range(1, 40):
        most = min(LONGEST_PAUSE, 2.0 ** (failures - 1))
        assert most / 2 <= pause(failures, passing) <= most
        assert LONGEST_PAUSE / 2 <= pause(failures, lasting) <= LONGEST_PAUSE
    assert pause(1, DeliveryError("x", retry_after=7)) == 7
    assert pause(1, DeliveryError("x", retry_after=10**5)) == 5 * LONGEST_PAUSE


@pytest.mark.parametrize("local", [False, True])
def test_syslog_in_datagrams(tmp_path: Path, *, local: bool) -> None:
    """Over UDP as RFC 5424; at a path as syslog(3) writes it, which local daemons read."""
    with datagrams(tmp_path / "log" if local else None) as (address, listening):
        sink = Syslog(SyslogAddress.parse(address), "local0")
        run(sink.send(condition()))
        sink.close()
        message = listening.recv(65_536).decode()
    head, _, line = message.partition("{")
    assert json.loads("{" + line)["id"] == "denied:7"
    if local:
        assert re.fullmatch(
            r"<132>[A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d secrets-broker\[\d+\]: ", head
        )
    else:
        at = r"2026-01-02T03:04:05\.000006Z"
        assert re.fullmatch(rf"<132>1 {at} \S+ secrets-broker \d+ denied - ", head)


def test_syslog_at_a_path_may_be_a_stream(tmp_path: Path) -> None:
    """As some daemons have it: each message then ends with a NUL, as syslog(3) ends it."""
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        sink = Syslog(SyslogAddress.parse(str(path)), "daemon")
        run(sink.send(condition()))
        sink.close()
        taken, _ = listener.accept()
        with taken, taken.makefile("rb") as reading:
            message = reading.read()
    assert message.startswith(b"<28>")
    assert message.endswith(b"}\0")


def test_syslog_over_tcp_connects_again(database: Database, tmp_path: Path) -> None:
    """Octets are counted; a connection that the other side closed is not written into."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with watching(database, tmp_path, "--from", "0", "--syslog", address):
            for ip, number in (("192.0.2.1", 1), ("192.0.2.2", 2)):
                refuse(database, ip)
                taken, _ = listener.accept()
                with taken:
                    message = next(octet_counted(taken)).decode()
                assert message.startswith("<84>1 ")
                assert json.loads(message[message.index("{") :])["position"] == number


def test_a_syslog_that_is_not_there_is_waited_for(database: Database, tmp_path: Path) -> None:
    """It is said, and what there was to tell is told once it is there."""
    refuse(database, NOBODY)
    path = tmp_path / "socket"
    with watching(database, tmp_path, "--from", "1", "--syslog", str(path)) as watch:
        watch.says("No such file or directory")
        with datagrams(path) as (_, listening):
            assert b"unauthorized:1" in listening.recv(65_536)


@pytest.mark.parametrize("text", ["", "host:0", "host:65536", "a b", "ftp://h", "[::1", "h:1:2"])
def test_an_address_of_syslog_that_cannot_be_meant(text: str) -> None:
    """One clear error."""
    with pytest.raises(SyslogAddressError):
        SyslogAddress.parse(text)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("/dev/log", "/dev/log"),
        ("logs.example", "udp://logs.example:514"),
        ("udp://10.0.0.1:5514", "udp://10.0.0.1:5514"),
        ("tcp://[::1]:601", "tcp://[::1]:601"),
    ],
)
def test_an_address_of_syslog(text: str, known: str) -> None:
    """A path, or a host with a port, over UDP unless it says TCP."""
    assert str(SyslogAddress.parse(text)) == known


@pytest.mark.parametrize("leaf", [None, "f" * 64])
def test_a_ledger_that_was_set_back_is_not_followed(
    database: Database, tmp_path: Path, leaf: str | None
) -> None:
    """Shorter than what was read, or with another event there: said, exit 3, and nothing told."""
    refuse(database, NOBODY)
    state = tmp_path / "state"
    cron = (*PLAIN, "--once", "--state", str(state))
    assert command(*cron, cwd=tmp_path, env=env(database)).returncode == 0
    kept = json.loads(state.read_bytes())
    kept |= {"leaf": leaf} if leaf else {"position": 3}
    state.write_text(json.dumps(kept))
    for options in ((), ("--bulk-hosts", "7")):
        done = command(*cron, *options, cwd=tmp_path, env=env(database))
        assert (done.returncode, done.stdout) == (3, "")
        assert "rewritten" in done.stderr
    assert json.loads(state.read_bytes()) == kept


def test_a_ledger_that_is_set_back_meanwhile_ends_the_watch(
    database: Database, tmp_path: Path
) -> None:
    """It is noticed at the next look, also where other events have taken their places."""
    refuse(database, NOBODY)
    with watching(database, tmp_path, "--from", "1") as watch:
        assert watch.process.stdout
        assert "unauthorized:1" in watch.process.stdout.readline()
        database.execute("ALTER TABLE ledger.events DISABLE TRIGGER USER; TRUNCATE ledger.events")
        database.execute(EARLY, 0)
        assert watch.process.wait(20) == 3
        assert "rewritten" in watch.log.read_text()


def test_a_database_that_goes_away_is_waited_for(database: Database, tmp_path: Path) -> None:
    """Said once, however long it is away; what was recorded is told when it is back."""
    with watching(database, tmp_path, "--from", "0") as watch:
        watch.says("checkpoint_age_not_watched")
        with away(database):
            watch.says("database_away")
            time.sleep(1.5)
        refuse(database, NOBODY)
        assert watch.process.stdout
        assert "unauthorized:1" in watch.process.stdout.readline()
        assert watch.log.read_text().count("database_away") == 1
        watch.says("database_back")


@contextmanager
def away(database: Database) -> Iterator[None]:
    """Let nobody into the database, and throw out who is in it."""
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    name = sql.Identifier(database.name)
    url = database.owner_url.replace(database.name, "postgres")
    with psycopg.connect(url, autocommit=True) as elsewhere:
        elsewhere.execute(allow.format(name, sql.SQL("false")))
        elsewhere.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            (database.name,),
        )
        yield
        elsewhere.execute(allow.format(name, sql.SQL("true")))


def test_a_late_checkpoint_and_a_wrong_row_are_told_of(database: Database, tmp_path: Path) -> None:
    """They show in no event: the first one that no checkpoint covers, and the row's last change."""
    look = ("watch", "--once", "--state", "state")
    # A ledger that began before there were MACs.
    database.execute("ALTER TABLE ledger.events DISABLE TRIGGER check_append")
    database.execute(EARLY.replace("sha256('y')", "NULL"), 0)
    database.execute(EARLY.replace("sha256('y')", "NULL"), 1)
    database.execute("ALTER TABLE ledger.events ENABLE ALWAYS TRIGGER check_append")
    none = command(*look, cwd=tmp_path, env=env(database))
    assert (none.stdout, "no checkpoint was ever published" in none.stderr) == ("", True)
    publish_checkpoint(database, 1)

    async def stored() -> None:
        async with writing(database.service_url, KEYRING) as writer:
            await send(writer, upsert("web-1"), upsert("web-2"))

    run(stored())
    database.execute("UPDATE secrets.host_credentials SET version = 9 WHERE host = 'web-2'")
    done = command(*look, cwd=tmp_path, env=env(database))
    late, wrong = told(done.stdout)
    assert (late["id"], late["severity"]) == ("checkpoint_age:1", "critical")
    assert (wrong["id"], wrong["positions"]) == ("projection_difference:3", [3])
    assert command(*look, cwd=tmp_path, env=env(database)).stdout == ""
    off = command("watch", "--once", "--projection-every", "0", cwd=tmp_path, env=env(database))
    assert [one["condition"] for one in told(off.stdout)] == ["checkpoint_age"]


def test_an_auditors_login_suffices(cluster: Cluster, database: Database, tmp_path: Path) -> None:
    """Of events and checkpoints; that it may not compare the rows is said."""
    refuse(database, NOBODY)
    login = {"DATABASE_URL": auditor(cluster, database)}
    done = command("watch", "--once", "--from", "1", cwd=tmp_path, env=login)
    assert (done.returncode, len(told(done.stdout))) == (0, 1)
    assert "projection_difference_not_watched" in done.stderr


def test_rows_that_cannot_be_compared_hold_nothing_up(database: Database, tmp_path: Path) -> None:
    """While somebody has the table locked that is said, and events are told of all the same."""
    refuse(database, NOBODY)
    with database.owner() as other, other.transaction():
        other.execute("LOCK TABLE secrets.host_credentials IN ACCESS EXCLUSIVE MODE")
        done = command("watch", "--once", "--from", "1", cwd=tmp_path, env=env(database))
    assert (done.returncode, len(told(done.stdout))) == (0, 1)
    assert "projection_difference_not_watched" in done.stderr


def test_one_watch_has_a_state(database: Database, tmp_path: Path) -> None:
    """A second one with the same file is refused, and says why."""
    with watching(database, tmp_path, "--state", "state"):
        until((tmp_path / "state").exists)
        done = command(*PLAIN, "--once", "--state", "state", cwd=tmp_path, env=env(database))
    assert (done.returncode, "is another watch's" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--webhook", "http://alerts.example/"], 2, "begins with https://"),
        (["--webhook", "http://127.0.0.1:1/", "--syslog", "/dev/log"], 2, "tells one of them"),
        (["--syslog", "ftp://x"], 2, "--syslog must be"),
        (["--bulk-hosts", "0"], 2, "bulk_hosts"),
        (["--cool-down", "soon"], 2, "--cool-down: must be a whole number"),
        (["--from", "yesterday"], 2, "from: must be a position"),
        (["--without", "everything"], 2, "everything"),
        (["--state", "nowhere/state"], 2, "there is no such folder"),
        (["--state", "rubbish"], 2, "is not the state of a watch"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_line(
    database: Database, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    """The option and the rule, and nothing is told."""
    (tmp_path / "rubbish").write_text("[]")
    settings = env(database, WATCH_WEBHOOK_KEY=SECRET)
    done = command("watch", "--once", *arguments, cwd=tmp_path, env=settings)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (status, "", False)
    assert message in done.stderr


def test_a_webhook_needs_a_key(database: Database, tmp_path: Path) -> None:
    """Nothing is sent unsigned, wherever the URL came from; a bad key is not repeated."""
    url = "http://127.0.0.1:1/"
    for given, more in ((("--webhook", url), {}), ((), {"WATCH_WEBHOOK": url})):
        done = command("watch", "--once", *given, cwd=tmp_path, env=env(database, **more))
        assert (done.returncode, "WATCH_WEBHOOK_KEY not set" in done.stderr) == (2, True)
    bad = env(database, WATCH_WEBHOOK=url, WATCH_WEBHOOK_KEY="pa55")
    done = command("watch", "--once", cwd=tmp_path, env=bad)
    assert (done.returncode, "pa55" in done.stderr + done.stdout) == (2, False)
