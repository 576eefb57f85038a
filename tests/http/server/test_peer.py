"""Whose address is believed: the socket's, and behind a listed proxy what that proxy says."""

import os
import signal
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.http.server.peer import Peers
from secrets_broker.settings import Settings, SettingsError
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.http.auth.refusals import last
from tests.http.client import LOOKUP, Service
from tests.http.conftest import folder, serving
from tests.http.granting import Keys, rule
from tests.waiting import until

NAME = {"host": "web-1", "purpose": "ssh"}
PROXIES = [ip_network("10.9.0.0/24"), ip_network("2001:db8:9::/64")]
IN = ["10.9.0.1", "10.9.0.2", "::ffff:10.9.0.3", "2001:db8:9::1"]
OUT = ["203.0.113.7", "10.9.1.1", "2001:db8:8::1", "::1"]
MALFORMED = ["unknown", "_hidden", "", "10.9.0", "1.2.3.4:x", "[::1", "[1.2.3.4]", "1.2.3.4 5", "é"]

written = st.sampled_from(IN + OUT)


def ask(client: str, *lines: str) -> str | None:
    """The address of a request with these X-Forwarded-For."""
    headers = [(b"x-forwarded-for", line.encode()) for line in lines]
    headers += [(b"forwarded", b"for=198.51.100.1"), (b"x_forwarded_for", b"198.51.100.2")]
    return Peers(PROXIES).address({"client": (client, 1), "headers": headers})


def normal(text: str) -> str:
    """An address as the record has it."""
    address = ip_address(text)
    return str(getattr(address, "ipv4_mapped", None) or address)


def nearest(client: str, entries: Sequence[str]) -> str:
    """The obvious model: walk back while it is a proxy that speaks."""
    chain = [*entries, client]
    while len(chain) > 1 and chain[-1] in IN and chain[-2] not in MALFORMED:
        chain.pop()
    return normal(chain[-1])


@given(written, st.lists(written | st.sampled_from(MALFORMED), max_size=6), st.data())
def test_the_last_address_that_is_no_listed_proxys(
    client: str, entries: list[str], data: st.DataObject
) -> None:
    """However many lines the list is cut into; nothing left of what is malformed is believed."""
    cut = data.draw(st.integers(0, len(entries)))
    parts = [", ".join(part) for part in (entries[:cut], entries[cut:]) if part]
    assert ask(client, *parts) == nearest(client, entries)


@pytest.mark.parametrize("entry", ["203.0.113.7:443", "[2001:db8:8::1]:443", "[2001:db8:8::1]"])
def test_a_port_beside_an_address_is_not_in_the_way(entry: str) -> None:
    """Some proxies write one."""
    assert ask("10.9.0.1", entry) in ("203.0.113.7", "2001:db8:8::1")


def test_without_proxies_and_over_a_unix_socket_nothing_is_believed() -> None:
    """As shipped."""
    scope: dict[str, Any] = {"client": ("10.9.0.1", 1), "headers": [(b"x-forwarded-for", b"::2")]}
    assert Peers().address(scope) == "10.9.0.1"
    assert Peers(PROXIES).address({**scope, "client": None}) is None


def test_the_setting_takes_addresses_and_cidrs() -> None:
    """Between commas or spaces; everybody is no proxy, and a slip is an error that names it."""
    settings = Settings({"TRUSTED_PROXIES": "10.9.0.0/24, 192.0.2.1 2001:db8::/64"})
    assert [str(one) for one in settings.trusted_proxies] == [
        *("10.9.0.0/24", "192.0.2.1/32", "2001:db8::/64")
    ]
    assert Settings({}).trusted_proxies == ()
    for wrong in ("proxy.example", "10.9.0.1/24", "0.0.0.0/0", "::/0", "10.0.0.1,,*"):
        with pytest.raises(SettingsError, match=r"TRUSTED_PROXIES: entry [12] is"):
            _ = Settings({"TRUSTED_PROXIES": wrong}).trusted_proxies


@pytest.fixture
def behind(cluster: Cluster) -> Iterator[Service]:
    """A service that is told of two proxies."""
    settings = {"TRUSTED_PROXIES": "127.0.9.1, 127.0.9.2"}
    with (
        fresh_database(cluster, TEMPLATE) as database,
        folder() as place,
        serving(database.service_url, place / "gunicorn.log", settings=settings) as running,
    ):
        running.database = database
        yield running


def test_record_rules_and_flood_go_by_the_one_address(behind: Service) -> None:
    """Real requests, from a listed proxy and from elsewhere."""
    key = Keys(behind).grant("near", rule("read", networks=["192.0.2.0/24"]))
    forwarded = {"X-Forwarded-For": "203.0.113.1, 192.0.2.7, 127.0.9.2"}
    behind.source = "127.0.9.1"
    assert behind.send("POST", LOOKUP, NAME, forwarded, key=key).status == 404
    assert last(behind)["ip"] == "192.0.2.7"
    behind.source = "127.0.9.3"
    assert behind.send("POST", LOOKUP, NAME, forwarded, key=key).status == 403
    assert last(behind)["ip"] == "127.0.9.3"
    behind.source = "127.0.9.1"
    for number in range(30):  # whoever writes his own on the left is still one source
        more = {"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.5"}
        assert behind.send("POST", LOOKUP, NAME, more, key="wrong").status == 403
    os.kill(behind.pid, signal.SIGTERM)
    until(lambda: not behind.workers(), "a worker does not end")
    counted = behind.events("details ->> 'source'", "type = 'access.counted'")
    assert {source for (source,) in counted} == {"203.0.113.5"}
    assert behind.events("1", "ip LIKE '198.51.100.%'") == []
