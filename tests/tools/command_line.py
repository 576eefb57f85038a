"""`secrets-broker` as a user runs it: a process with nothing but the given settings."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import INTERNAL_KEY, KMS_KEY, Database
from tests.repository import ROOT


def run(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, answer: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run secrets-broker with nothing but the given settings in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "secrets_broker", *arguments],
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            **(env or {}),
        },
        input=answer,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def settings(database: Database) -> dict[str, str]:
    """What a deployment would set."""
    return {
        "SECRETS_KMS_KEY": KMS_KEY,
        "INTERNAL_KEY": INTERNAL_KEY,
        "DATABASE_URL": database.service_url,
        "MIGRATION_DATABASE_URL": database.owner_url,
    }
