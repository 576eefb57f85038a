"""Where to connect: a URL's hosts, one by one, and nothing of a session's settings."""

import random
from collections.abc import Iterable
from typing import Final

from psycopg.conninfo import make_conninfo

Given = dict[str, str]

_TCP: Final = {
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
}


def attempts(given: Given) -> list[Given]:
    """One for each host, in the order in which libpq tries them (its 34.1.1.3)."""
    single = _split(given)
    if given.get("load_balance_hosts") == "random":
        random.shuffle(single)  # not for secrecy
    if given.get("target_session_attrs") == "prefer-standby":
        any_ = [{**one, "target_session_attrs": "any"} for one in single]
        return [*({**one, "target_session_attrs": "standby"} for one in single), *any_]
    return single


# What can only be set as a session begins, and has each statement warn: no COMMIT would be certain.
_BEHIND: Final = " -c ignore_system_indexes=off"


def conninfo(attempt: Given, seconds: float) -> str:
    """libpq's string for one attempt of so many seconds.

    What is empty keeps libpq from looking into the environment (PGOPTIONS, PGHOSTADDR). Settings
    of the session are none of a startup packet's, since poolers drop those.
    """
    ours = {
        "application_name": "secrets-broker",
        **_TCP,
        "options": "",
        **({"hostaddr": ""} if attempt.get("host") else {}),
    }
    fixed = {"client_encoding": "UTF8", "connect_timeout": str(int(seconds) + 1)}
    kept = {name: value for name, value in attempt.items() if name != "replication"}
    if kept.get("options"):
        kept["options"] += _BEHIND  # the last one counts
    return make_conninfo("", **{**ours, **kept, **fixed})


def limit(given: Given, seconds: float) -> float:
    """The URL's own connect_timeout for each host, where that is less."""
    try:
        asked = float(given.get("connect_timeout", "0"))
    except ValueError:
        asked = 0
    return min(seconds, asked) if asked > 0 else seconds


def name(attempt: Given) -> str:
    """Host and port, for people."""
    host = attempt.get("host") or attempt.get("hostaddr") or "the default host"
    return f"{host}:{attempt.get('port') or '5432'}"


def together(failures: Iterable[tuple[str, str]]) -> str:
    """Why each host failed, by its name; libpq's own words have it already."""
    told = [*failures]
    if len(told) == 1 and told[0][1].startswith("connection failed"):
        return told[0][1]
    return "; ".join(f"{where}: {why}" for where, why in told)


def _split(given: Given) -> list[Given]:
    lists = {key: given[key].split(",") for key in ("host", "hostaddr", "port") if given.get(key)}
    count = max([1, *(len(values) for values in lists.values())])
    single = []
    for index in range(count):
        one = dict(given)
        for key, values in lists.items():
            if len(values) not in (1, count) or (len(values) == 1 < count and key != "port"):
                return [given]  # as many as each other, or libpq says what is wrong
            one[key] = values[index if len(values) == count else 0]
        single.append(one)
    return single
