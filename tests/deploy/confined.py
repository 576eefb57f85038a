"""`serve` as it runs in a container or under the shipped unit, as far as a kernel alone can do it.

A number for a user, no name and no right; every file system read-only but a tmpfs and a volume; no
memory that is writable and executable; and nothing in the environment but what the image has.
"""

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.deploy.production import Production

UID = 10001
_SCRIPT = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs "$1"
mount -t tmpfs -o mode=0700,uid=10001,gid=10001,noexec,nosuid,nodev tmpfs "$2"
while read -r _ _ _ _ place _; do
    [ "$place" = "$1" ] || [ "$place" = "$2" ] ||
        mount -o remount,bind,ro "$place" 2>/dev/null || true
done </proc/self/mountinfo
for place in / /tmp /dev/shm "$(dirname "$1")"; do
    if touch "$place/here" 2>/dev/null; then
        echo "$place can be written" >&2
        exit 1
    fi
done
shift 2
cd /
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \\
    --bounding-set=-all --inh-caps=-all "$@"
"""
# PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: what MemoryDenyWriteExecute= stands for (Linux 6.3).
_NO_WRITE_EXECUTE = """
import ctypes, os, sys
done = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
assert done == 0 or sys.argv[1] == "0"
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def serving(
    production: Production, python: str, path: str, settings: Mapping[str, object]
) -> Iterator[str]:
    """The URL of a service that is ready; it is ended as a container is, within ten seconds."""
    tmp, volume = production.folder / "tmp", production.folder / "volume"
    tmp.mkdir()
    volume.mkdir()
    port = settings["PORT"]
    command = [
        *("unshare", "--mount", "sh", "-c", _SCRIPT, "sh", str(tmp), str(volume)),
        *(python, "-c", _NO_WRITE_EXECUTE, "1" if _has_mdwe() else "0"),
        *(python, "-m", "secrets_broker", "serve", "--port", str(port), "--workers", "2"),
    ]
    environment = {"PATH": os.defpath, "PYTHONPATH": path, "TMPDIR": str(tmp)}
    environment |= {name: str(value) for name, value in settings.items() if name != "PORT"}
    log = production.folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url, log)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def status(process_id: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _has_mdwe() -> bool:
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (6, 3)


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{url}/health/ready", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.05)
    pytest.fail(f"the service did not become ready:\n{log.read_text()}")
