"""Whether the database's catalogue is the one that was shipped, and nobody's rights are more.

It says what is now, not what was: who switched a trigger off may have switched it on again. What
was done meanwhile is for the other checks to find.
"""

from typing import Final

from secrets_broker.migrations.shipped import QUERIES, REMARKS, Catalogue, differences, shipped
from secrets_broker.tools.verify.checks.findings import Findings
from secrets_broker.tools.verify.sources.database import DatabaseSource

_LOCKS: Final = "SELECT count(*) FROM ledger.lock"


def check_schema(source: DatabaseSource, findings: Findings) -> None:
    """Hold the catalogue to what was shipped; any login may read nearly all of it."""
    wanted = shipped()
    for kind, query in QUERIES.items():
        there = source.catalogue(query)
        if there is None:
            findings.left_out(f"{kind}: this login may not read PostgreSQL's catalogue of them")
            continue
        findings.checked[f"of the schema: {kind}"] += sum(map(len, there.values()))
        as_here = _in_its_words(source, findings, wanted[kind], there)
        for what in differences(as_here, there):
            findings.wrong(None, "schema", what)
    for kind, query in REMARKS.items():
        sentences = source.told(query)
        if sentences is None:
            findings.left_out(f"{kind}: this login may not read PostgreSQL's catalogue of them")
        for sentence in sentences or ():
            findings.remark(sentence)
    _lock(source, findings)


def _in_its_words(
    source: DatabaseSource, findings: Findings, wanted: Catalogue, there: Catalogue
) -> Catalogue:
    """The same, with the views' queries as this version of PostgreSQL writes them.

    Each version writes them a little differently, so it is asked, by a temporary view.
    """
    found = dict(wanted)
    for what, (facts, *_) in wanted.items():
        given = there.get(what, [])
        if not facts.get("query") or [one.get("query") for one in given] == [facts["query"]]:
            continue
        here = None if source.is_standby else source.view_of(facts["query"])
        if here is None:
            findings.left_out(f"what {what} shows: this login may make no temporary view here")
            for one in given:
                one["query"] = facts["query"]
        else:
            found[what] = [{**facts, "query": here}]
    return found


def _lock(source: DatabaseSource, findings: Findings) -> None:
    rows = source.told(_LOCKS)
    if rows is None:
        findings.left_out("the row of ledger.lock: this login may not read it")
    elif rows != [1]:
        findings.wrong(None, "schema", f"ledger.lock has {rows[0]} rows, and must have one")
