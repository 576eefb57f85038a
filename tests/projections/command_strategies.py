"""Hypothesis strategies for commands, and changes of keys between them."""

from hypothesis import strategies as st

from secrets_broker.ledger.commands import Command, ImportCredential
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.operations.erasure import erase
from secrets_broker.ledger.operations.rekey import rekey
from tests.conftest import Database
from tests.ledger.helpers import (
    CONTEXT,
    delete,
    json_objects,
    login_of,
    lookup,
    rotations,
    texts,
    times,
    upsert,
)

hosts = st.sampled_from(["a", "b", "ü ü"])
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        upsert,
        hosts,
        texts,
        username=st.none() | texts,
        domain=st.none() | texts,
        additional_data=json_objects,
        secret_data=st.none() | json_objects,
        expires_at=st.none() | times,
        rotate_after=st.none() | rotations,
    ),
    st.builds(delete, hosts),
    st.builds(lookup, hosts),
    st.builds(
        lambda host, password: ImportCredential(
            host=host,
            purpose="ssh",
            content=Content(password=password),
            occurred_at=None,
            details={
                "legacy_id": 1,
                "created_at": "2020-01-01T00:00:00.000001Z",
                "created_by": "old",
            },
        ),
        hosts,
        texts,
    ),
)
KEY_CHANGES = ("rekey", "erase")
"""What an operator does beside the commands of callers; to "a" alone, so that others stay."""


async def change_keys(database: Database, keyring: Keyring, kind: str) -> None:
    """Do one of these."""
    if kind == "rekey":
        await rekey(login_of(database.owner_url, keyring), CONTEXT, "a", "*")
    else:
        async for _ in erase(login_of(database.owner_url, keyring), CONTEXT, [("a", "ssh")]):
            pass
