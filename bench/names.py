"""`python -m bench.names`: every tool that goes through all names, past each of its limits.

A million names by default, each with a data key: `verify` keeps 200,000 of either in memory and
the rest in a file. Each command must end as it should; how long it took is printed. The erasure
comes last, and leaves nothing.

With --data-dir the data set is kept there, outside the repository; it is used once, then erased.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench import stack
from bench.growth import Size, prepared
from bench.stack import KMS_KEY

NEW_KEY: Final = "the key that comes after the rotation"
COMMANDS: Final = (
    ("verify", "--json"),
    ("rebuild", "--check", "--json"),
    ("replay", "--at", "0m", "--json"),
    ("unused", "--since", "2120-01-01T00:00:00Z", "--json"),
    ("due", "--unchanged-for", "0d", "--json"),
    ("rotate-key", "--json"),
    ("rotate-key", "--data-keys", "--json"),
    ("verify", "--json"),
    ("erase", "*", "*", "--reason", "bench", "--yes", "--json"),
    ("verify", "--json"),
)


def measure(work: Path, names: int) -> None:
    """Run each in turn; ends with the first that does not exit with 0."""
    with stack.cluster(work) as running:
        url = prepared(running, size := Size(f"names_{names}", names, names))
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": url,
            "MIGRATION_DATABASE_URL": running.superuser_url(size.database),
            "SECRETS_KMS_KEY": NEW_KEY,
            "SECRETS_KMS_KEY_PREVIOUS": KMS_KEY,
        }
        for command in COMMANDS:
            started = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "secrets_broker", *command],
                env=environment,
                stdout=subprocess.DEVNULL,
                check=True,
            )
            took = time.monotonic() - started
            print(f"{' '.join(command)}: {took:.1f} s for {names:,} names", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.names", description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--data-dir", type=Path, help="keep the data set here; default: a new one")
    options = parser.parse_args()
    with stack.folder(options.data_dir) as work:
        measure(work, options.names)


if __name__ == "__main__":
    main()
