"""`secrets-broker dev`: everything embedded, for a first try and for development.

One process supervises two: PostgreSQL in the data folder, and gunicorn. Where PostgreSQL dies,
it is started again; where gunicorn dies, dev ends. Where dev itself is killed, on Linux both end
with it, and the next start recovers what was committed.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from secrets_broker.migrations import runner
from secrets_broker.outbound.address import Endpoint
from secrets_broker.outbound.client import HttpRequest, UnreachableError, ask_once
from secrets_broker.settings import DATA_DIR, Settings
from secrets_broker.tools.erase.apply_again import check_erasures
from secrets_broker.tools.keygen import env_lines, fresh_beside
from secrets_broker.tools.postgres import Cluster, own_folder
from secrets_broker.tools.postgres.process import end_with_parent
from secrets_broker.tools.serve import (
    IN_THE_CLEAR,
    check_shared_keys,
    default_workers,
    server_command,
)
from secrets_broker.tools.shared.command_line import (
    address_options,
    clear_errors,
    data_dir_option,
    say,
)
from secrets_broker.tools.shared.status import NotAsked

DATABASE: Final = "secrets_broker"
LOGIN: Final = "secrets_broker_dev"
SERVICE_ROLE: Final = "secrets_broker_service"
DEFAULT_DATA_DIR: Final = Path(".secrets-broker")
PID_FILE: Final = "gunicorn.pid"  # to reload the settings by: kill -HUP
READY_SECONDS: Final = 30.0
# All must be over in five seconds; PostgreSQL's part of that takes well under one.
GRACE_SECONDS: Final = 3.0


@click.command()
@data_dir_option
@address_options()
def dev(data_dir: Path | None, host: str, port: int) -> None:
    """Serve with an embedded PostgreSQL and fresh keys, all in one folder.

    The folder is .secrets-broker, or --data-dir. Ctrl-C ends everything; a later start
    continues with the same data.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    with clear_errors():
        settings = Settings.load(data_dir)
        _check_free(host, port)
        folder = own_folder(settings.data_dir or DEFAULT_DATA_DIR)
        cluster = Cluster(folder, bin_dir=settings.postgres_bin, say=say)
        try:
            with cluster:
                _prepare(cluster, folder)
                check_shared_keys(made := Settings.load(folder))
                check_erasures(made)
                _serve(cluster, folder, host, port)
        except KeyboardInterrupt:
            say("stopped; the data stays in " + str(folder))


def _check_free(host: str, port: int) -> None:
    # Else another program that listens there already would answer for a service that cannot start.
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise NotAsked(
            f"cannot listen on {host} port {port} ({error.strerror}): choose another --port "
            "or --host"
        ) from None


def _interrupt(*_: object) -> None:
    # Once is enough: a second signal must not break off the orderly end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _prepare(cluster: Cluster, folder: Path) -> None:
    cluster.ensure_database(DATABASE)
    runner.apply(cluster.superuser_url(DATABASE), say)
    cluster.ensure_login(LOGIN, member_of=SERVICE_ROLE)
    urls = {
        Settings.database_url.name: cluster.url(LOGIN, DATABASE),
        Settings.owner_database_url.name: cluster.superuser_url(DATABASE),
    }
    write_env(folder / ".env", urls)


def write_env(path: Path, urls: Mapping[str, str]) -> None:
    """Keep what the file has, add what it lacks, and say where the database is now.

    Replaced in one step: killed before, the old file is whole; killed after, the new one is.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.partition("=")[0] not in urls]
    names = {line.partition("=")[0] for line in kept}
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(
            "".join(f"{line}\n" for line in kept) + env_lines({**fresh_beside(names), **urls})
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _serve(cluster: Cluster, folder: Path, host: str, port: int) -> None:
    handed = {DATA_DIR: str(folder.resolve()), Settings.readable_logs.name: "readable"}
    pid_file = folder / PID_FILE
    pid_file.unlink(missing_ok=True)  # a killed server's; its number may be another process's now
    server = subprocess.Popen(  # noqa: S603 - the command is ours
        [
            *server_command(host, port, default_workers(), *IN_THE_CLEAR),
            *("--pid", str(pid_file.resolve())),
        ],
        env={**os.environ, **handed},
        start_new_session=True,  # Ctrl-C is for dev, which ends it in order
        preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - before any thread is made
    )
    try:
        _announce(server, folder, host, port)
        while server.poll() is None:
            if cluster.pid is None:
                say("PostgreSQL ended; starting it again")
                cluster.start()
            time.sleep(0.2)
        raise NotAsked(f"the server ended with status {server.returncode}")
    finally:
        _end(server)


def _announce(server: "subprocess.Popen[bytes]", folder: Path, host: str, port: int) -> None:
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ready(Endpoint(False, host, port, timeout=2)):
        if server.poll() is not None or time.monotonic() > deadline:
            raise NotAsked("the server did not start; its messages are above")
        time.sleep(0.05)
    click.echo(f"ready {address}")
    click.echo(_hint(address, folder))


def _is_ready(service: Endpoint) -> bool:
    try:
        return ask_once(service, HttpRequest("GET", "/health/ready")).status == 200
    except UnreachableError:
        return False


def _hint(address: str, folder: Path) -> str:
    key = f"$(sed -n 's/^INTERNAL_KEY=//p' {folder}/.env)"
    return (
        "try it:\n"
        f'  curl -X POST {address}/internal/secrets/credential-upsert -H "X-Internal-Key: {key}"'
        " -H 'Content-Type: application/json'"
        ' -d \'{"host": "db1.example", "purpose": "ssh", "username": "ops", "password": "s3cret"}\''
    )


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
