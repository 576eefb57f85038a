"""`python -m secrets_broker` is `secrets-broker`."""

from secrets_broker.tools.cli import main

if __name__ == "__main__":  # worker processes of `verify` import this too
    main()
