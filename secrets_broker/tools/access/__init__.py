"""`secrets-broker access`: who may do what. Options and reports; the rules are in ledger/access."""

from secrets_broker.tools.access.command import access
from secrets_broker.tools.access.try_out import explain, replay_grants
from secrets_broker.tools.access.who import who

access.add_command(explain)
access.add_command(who)
access.add_command(replay_grants)

__all__ = ["access"]
