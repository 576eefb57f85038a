"""Where to connect: the hosts of a URL, one by one."""

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
    """One attempt for each host, in the order in which libpq tries them (its 34.1.1.3)."""
    single = _split(given)
    if given.get("load_balance_hosts") == "random":
        random.shuffle(single)  # not for secrecy
    if given.get("target_session_attrs") == "prefer-standby":
        any_ = [{**one, "target_session_attrs": "any"} for one in single]
        return [*({**one, "target_session_attrs": "standby"} for one in single), *any_]
    return single


# These can only be set when a session begins. They make statements warn, and a COMMIT with a
# warning is not believed.
_BEHIND: Final = " -c ignore_system_indexes=off"


def conninfo(attempt: Given, seconds: float) -> str:
    """libpq's connection string for one attempt of so many seconds.

    Empty values keep libpq from reading the environment (PGOPTIONS, PGHOSTADDR). The session's
    settings are not in the startup packet, since poolers drop them.
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
        kept["options"] += _BEHIND  # the last option counts
    return make_conninfo("", **{**ours, **kept, **fixed})


def limit(given: Given, seconds: float) -> float:
    """The seconds for each host: the URL's connect_timeout, if that is less."""
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
    """Why each host failed, with its name; libpq's texts hold the name already."""
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
                return [given]  # the lists must have equal lengths; libpq reports what is wrong
            one[key] = values[index if len(values) == count else 0]
        single.append(one)
    return single
