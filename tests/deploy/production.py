"""A PostgreSQL as production has it: passwords, TCP, roles of the shipped script, a login each."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secrets_broker.tools.postgres.account import Account
from tests.ports import free_port
from tests.repository import ROOT
from tests.tools.postgres.helpers import python_of

DEPLOY = ROOT / "deploy"


class Production:
    """A cluster, the secrets that `deploy/compose-secrets` made for it, and a broker's folder."""

    def __init__(
        self,
        folder: Path,
        bin_dir: Path,
        account: Account,
        *,
        broker_account: Account | None = None,
        config_apart: bool = False,
    ) -> None:
        self.folder, self.bin_dir, self.account = folder, bin_dir, account
        self.broker_account = broker_account
        self.config_apart = config_apart
        """Whether the settings are in a folder of their own, as in Debian."""
        self.port = free_port()
        self.secrets = folder / "secrets"
        self.broker = folder / "broker"
        self.home = folder / "postgres"  # of PostgreSQL's account
        self.pgdata = self.home / "data"
        self.pgconf = self.home / "etc" if config_apart else self.pgdata
        self.tools = folder / "bin"

    def make(self) -> None:
        """Everything up to `migrate`, by the shipped scripts."""
        for path in (self.broker, self.home, self.tools):
            path.mkdir()
        os.chown(self.home, self.account.uid, self.account.gid)
        if self.broker_account:
            os.chown(self.broker, self.broker_account.uid, self.broker_account.gid)
        self._make_tools()
        self._make_secrets()
        self._make_cluster()
        self.broker_run("migrate")

    def start(self) -> None:
        """Start the cluster."""
        self.as_postgres('pg_ctl -D "$PGCONF" -w -l "$PGDATA.log" start')

    def stop(self, pgdata: Path | None = None) -> None:
        """End a cluster at once, where it runs."""
        if ((pgdata or self.pgdata) / "postmaster.pid").exists():
            self.as_postgres(
                'pg_ctl -D "$PGDATA" -w -m immediate stop', PGDATA=pgdata or self.pgdata
            )

    def as_postgres(self, script: str, *, fails: bool = False, **more: object) -> str:
        """Run a script on the database's machine, as PostgreSQL's account."""
        environment = self.postgres_environment()
        return self._shell(script, self.home, self.account, environment, more, fails)

    def as_broker(self) -> dict[str, Any]:
        """How subprocess becomes the account of the broker."""
        account = self.broker_account
        return {
            "user": account.switch_uid if account else None,
            "group": account.switch_gid if account else None,
            "extra_groups": account.switch_groups if account else None,
        }

    def on_broker(self, script: str, *, fails: bool = False, **more: object) -> str:
        """Run a script on the broker's machine, whose .env is in the working folder."""
        return self._shell(script, self.broker, self.broker_account, {}, more, fails)

    def broker_run(self, *words: str, fails: bool = False) -> str:
        """Run secrets-broker there."""
        return self.on_broker(shlex.join(["secrets-broker", *words]), fails=fails)

    def postgres_environment(self) -> dict[str, str]:
        """What psql and the others need, as the superuser."""
        return {
            "PGDATA": str(self.pgdata),
            "PGCONF": str(self.pgconf),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGPASSWORD": self.secret("postgres_password"),
        }

    def secret(self, name: str) -> str:
        """What one of the files holds."""
        return (self.secrets / name).read_text().strip()

    def _make_tools(self) -> None:
        command = self.tools / "secrets-broker"
        python, path = sys.executable, str(ROOT)
        if self.broker_account:
            python, path = python_of(self.broker_account)
        command.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {python} -m secrets_broker "$@"\n')
        command.chmod(0o755)
        shutil.copy(DEPLOY / "archive-wal", self.tools)

    def _make_secrets(self) -> None:
        keys = self.on_broker("secrets-broker keygen")
        subprocess.run(
            [DEPLOY / "compose-secrets", self.secrets],
            input=keys,
            text=True,
            env={"PATH": os.environ["PATH"], "DATABASE_HOST": f"127.0.0.1:{self.port}"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        lines = [
            *keys.splitlines(),
            f"DATABASE_URL_FILE={self.secrets}/database_url",
            f"MIGRATION_DATABASE_URL_FILE={self.secrets}/migration_database_url",
            "LEDGER_CHECKPOINT_SECONDS=0.1",
        ]
        (self.broker / ".env").write_text("".join(f"{line}\n" for line in lines))
        if self.broker_account:
            for path in (self.broker / ".env", self.secrets, *self.secrets.iterdir()):
                os.chown(path, self.broker_account.uid, self.broker_account.gid)

    def _make_cluster(self) -> None:
        password = self.home / "password"
        password.write_text(self.secret("postgres_password"))
        os.chown(password, self.account.uid, self.account.gid)
        self.as_postgres(
            "initdb --auth=scram-sha-256 --pwfile=password --username=postgres --encoding=UTF8"
            " --no-locale --data-checksums >initdb.log; rm password"
            "; cat >>data/postgresql.conf <<'END'\n"
            f"listen_addresses = '127.0.0.1'\nport = {self.port}\n"
            f"unix_socket_directories = '{self.home}'\nEND"
        )
        if self.config_apart:
            self._move_config()
        self.start()
        roles = {
            **self.postgres_environment(),
            "OWNER_PASSWORD_FILE": f"{self.secrets}/owner_password",
            "APP_PASSWORD_FILE": f"{self.secrets}/app_password",
        }
        self._shell(str(DEPLOY / "postgres-roles"), self.folder, None, roles, {})

    def _move_config(self) -> None:
        self.as_postgres(
            'mkdir "$PGCONF"; mv "$PGDATA"/postgresql.conf "$PGDATA"/pg_*.conf "$PGCONF"\n'
            'cat >>"$PGCONF/postgresql.conf" <<END\n'
            "data_directory = '$PGDATA'\nhba_file = '$PGCONF/pg_hba.conf'\n"
            "ident_file = '$PGCONF/pg_ident.conf'\nEND"
        )

    def _shell(
        self,
        script: str,
        cwd: Path,
        account: Account | None,
        environment: Mapping[str, str],
        more: Mapping[str, object],
        fails: bool = False,
    ) -> str:
        """What it printed; where it has to fail, what it said too."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=cwd,
            env={
                "PATH": f"{self.tools}:{self.bin_dir}:{os.environ['PATH']}",
                "LC_ALL": "C",
                **environment,
                **{name: str(value) for name, value in more.items()},
            },
            user=account.switch_uid if account else None,
            group=account.switch_gid if account else None,
            extra_groups=account.switch_groups if account else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{script}\n{said}"
        return said if fails else done.stdout or done.stderr
