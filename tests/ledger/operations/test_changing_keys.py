"""Any order of upserts, lookups, deletes, rekeys, erasures and rotations, beside a plain dict."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from secrets_broker.ledger.commands import Command
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.operations.erasure import recorded
from secrets_broker.ledger.transparency_log.frontier import load_tree_state
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import (
    delete,
    lookup,
    naive_root,
    password_of,
    rebuilt,
    record,
    run,
    upsert,
)
from tests.ledger.rotating import DiedError, die_after, fresh_kek, rotated, wraps
from tests.ledger.tree_checks import check_leaves
from tests.projections.keys import erased, erased_again, readable, rekeyed

hosts = st.sampled_from(["a", "b"])
KEYS = "SELECT id FROM ledger.data_keys ORDER BY credential_id, id"
ROWS = "SELECT live::text FROM secrets.host_credentials AS live ORDER BY id"
LEAVES = "SELECT leaf_hash FROM ledger.events ORDER BY position"
HISTORY = """
    SELECT event.host, body.key FROM ledger.bodies AS body
    JOIN ledger.events AS event USING (position)
"""


def ignored(_done: int, _total: int) -> None:
    """Nobody watches this rotation."""


class Machine(RuleBasedStateMachine):
    """Each password is another one, so what is readable says what was destroyed."""

    def __init__(self, cluster: Cluster, keyring: Keyring) -> None:
        super().__init__()
        self._keyring = keyring
        self._made = fresh_database(cluster, TEMPLATE)
        self._database: Database = self._made.__enter__()
        self._live: dict[str, tuple[str, int]] = {}
        self._kept: dict[str, set[str]] = {host: set() for host in "ab"}
        self._stored = 0

    def _record(self, command: Command) -> Outcome:
        return record(self._database, self._keyring, command)[0]

    @rule(host=hosts)
    def upsert(self, host: str) -> None:
        """The next version, or the first of another life."""
        self._stored += 1
        password = f"password {self._stored}"
        outcome = self._record(upsert(host, password, username=host))
        self._live[host] = password, self._live.get(host, ("", 0))[1] + 1
        self._kept[host].add(password)
        assert outcome.version == self._live[host][1]

    @rule(host=hosts)
    def lookup(self, host: str) -> None:
        """What was stored last, with its version, whatever its key is by now."""
        outcome = self._record(lookup(host))
        if host in self._live:
            assert (password_of(outcome), outcome.version) == self._live[host]
        else:
            assert outcome.error == "not_found"

    @rule(host=hosts)
    def delete(self, host: str) -> None:
        """It is not served any more; its history stays readable with its keys."""
        outcome = self._record(delete(host))
        assert (outcome.error is None) == (host in self._live)
        self._live.pop(host, None)

    @rule(host=hosts)
    def another_life(self, host: str) -> None:
        """The name again, under a key of its own, beside a history under another."""
        self.delete(host)
        self.upsert(host)

    @rule(pattern=st.sampled_from(["*", "a", "b*"]))
    def rekey(self, pattern: str) -> None:
        """As many as are live and match."""
        matching = [h for h in self._live if pattern == "*" or h == pattern.rstrip("*")]
        result = rekeyed(self._database, self._keyring, pattern)
        assert (result.rekeyed, result.failures) == (len(matching), ())

    @rule(names=st.lists(hosts, min_size=1, max_size=2, unique=True))
    def erase(self, names: list[str]) -> None:
        """Everything that these names ever held."""
        for name, result in zip(names, erased(self._database, self._keyring, *names), strict=True):
            assert (result is not None) == bool(self._kept[name])
            self._kept[name] = set()
            self._live.pop(name, None)

    @rule(data=st.data())
    def erase_again(self, data: st.DataObject) -> None:
        """Some key by its id: what is under it goes, the live credential where it is its key."""
        keys = [key for (key,) in self._database.fetch(KEYS)]
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        live = dict(self._database.fetch("SELECT data_key, host FROM secrets.host_credentials"))
        assert len(erased_again(self._database, self._keyring, key)) == 1
        if key in live:
            self._live.pop(live[key])
        left = readable(self._database, self._keyring)
        for host, kept in self._kept.items():
            kept &= {password for name, password in left if name == host}

    @rule(killed_after=st.sampled_from([None, 1, 3]))
    def rotate(self, killed_after: int | None) -> None:
        """On to another KEK; where it dies, both are needed until a rotation comes to its end."""
        if not self._database.fetch("SELECT 1 FROM ledger.keks"):
            return
        new = fresh_kek()
        progress = die_after(killed_after) if killed_after else ignored
        try:
            run(rotated(self._database, self._keyring, new, progress))
        except DiedError:
            self._keyring = Keyring([new, *self._keyring])
        else:
            self._keyring = Keyring([new])
            assert set(wraps(self._database)) <= {new.id}

    def teardown(self) -> None:
        """What is left is readable, what was erased is not, and the ledger is whole."""
        try:
            self._check()
        finally:
            self._made.__exit__()

    def _check(self) -> None:
        self.rotate(None)  # from here on the last key alone has to do
        everything = {(host, password) for host in "ab" for password in self._kept[host]}
        assert readable(self._database, self._keyring) == everything
        rows = self._database.fetch("SELECT host, version FROM secrets.host_credentials")
        assert dict(rows) == {host: version for host, (_, version) in self._live.items()}
        for host in self._live:
            self.lookup(host)
        check_leaves(self._database)
        leaves = [leaf for (leaf,) in self._database.fetch(LEAVES)]
        assert leaves == [] or run(self._root()) == naive_root(leaves)
        gone = {line.data_key for line in run(recorded(self._database.service_url))}
        assert gone.isdisjoint(key for (key,) in self._database.fetch(KEYS))
        assert gone.isdisjoint(key for _, key in self._database.fetch(HISTORY))
        live = self._database.fetch(ROWS)
        if leaves:
            self._database.execute("TRUNCATE secrets.host_credentials")
            rebuilt(self._database, self._keyring)
            assert self._database.fetch(ROWS) == live

    async def _root(self) -> bytes:
        async with await connect(self._database.owner_url) as connection:
            return (await load_tree_state(connection)).frontier.root()


def test_any_order_of_changes(cluster: Cluster, keyring: Keyring) -> None:
    """Live ones are served with content and version; erased ones open with no key that is left."""

    class OnThisCluster(Machine):
        def __init__(self) -> None:
            super().__init__(cluster, keyring)

    limits = settings(max_examples=10, stateful_step_count=14, deadline=None)
    run_state_machine_as_test(OnThisCluster, settings=limits)
