"""Hypothesis strategies for the rules of a grant."""

from hypothesis import strategies as st

from secrets_broker.ledger.access.rights import (
    OPERATIONS,
    Rule,
)

hosts = st.sampled_from(["web-1", "web-2", "db-1", "web-", "", "*"])
purposes = st.sampled_from(["ssh", "rdp"])
addresses = st.sampled_from(["10.0.0.1", "10.1.0.1", "192.0.2.1", "2001:db8::1", None])
networks = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "0.0.0.0/0"])
rules = st.builds(
    Rule,
    allow=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=3).map(tuple),
    hosts=st.lists(st.sampled_from(["web-*", "*", "db-1"]), min_size=1, max_size=2).map(tuple),
    purposes=st.lists(st.sampled_from(["ssh", "*", "r?p"]), min_size=1, max_size=2).map(tuple),
    networks=st.lists(networks, max_size=2).map(tuple),
    reason=st.booleans(),
)
