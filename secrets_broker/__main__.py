"""`python -m secrets_broker` is `secrets-broker`."""

from secrets_broker.tools.cli import main

main()
