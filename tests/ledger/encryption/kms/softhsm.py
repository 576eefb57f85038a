"""Real tokens of SoftHSM2, in a folder of the test's own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pkcs11
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass, Session

PIN = "824613-is-a-pin"
SO_PIN = "990017-is-another"
USES = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT

_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
MODULE = next((path for path in _MODULES if Path(path).is_file()), None)
MISSING = (
    "SoftHSM2 is not on this machine (Debian: apt-get install softhsm2)"
    if MODULE is None or shutil.which("softhsm2-util") is None
    else None
)


_INIT = ("softhsm2-util", "--init-token", "--free")


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """A SoftHSM2 with tokens in a folder, which SOFTHSM2_CONF has to name."""

    folder: Path

    @property
    def configuration(self) -> Path:
        """The file for SOFTHSM2_CONF."""
        return self.folder / "softhsm2.conf"

    def write_configuration(self) -> None:
        """Make an empty SoftHSM2."""
        (self.folder / "tokens").mkdir()
        self.configuration.write_text(
            f"directories.tokendir = {self.folder}/tokens\n"
            "objectstore.backend = file\nlog.level = ERROR\n"
        )

    def make_token(self, label: str) -> None:
        """Initialise a token as an operator would."""
        subprocess.run(
            [*_INIT, f"--label={label}", f"--pin={PIN}", f"--so-pin={SO_PIN}"],
            env=os.environ | {"SOFTHSM2_CONF": str(self.configuration)},
            check=True,
            capture_output=True,
        )

    def import_key(self, label: str, value: bytes) -> None:
        """Put an AES key that the test knows into the token `broker`."""
        with self._session() as session:
            session.create_object(
                {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.AES,
                    Attribute.LABEL: label,
                    Attribute.VALUE: value,
                    Attribute.TOKEN: True,
                    Attribute.ENCRYPT: True,
                    Attribute.DECRYPT: True,
                }
            )

    def make_key(
        self, label: str, bits: int = 256, key_id: bytes = b"", uses: MechanismFlag = USES
    ) -> None:
        """Make an AES key in the token `broker`."""
        with self._session() as session:
            session.generate_key(
                KeyType.AES, bits, id=key_id, label=label, store=True, capabilities=uses
            )

    def serial(self) -> str:
        """The serial number that the token `broker` was given."""
        library = pkcs11.lib(str(MODULE))
        try:
            return bytes(library.get_token(token_label="broker").serial).decode("ascii")
        finally:
            library.finalize()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        library = pkcs11.lib(str(MODULE))
        try:
            with library.get_token(token_label="broker").open(rw=True, user_pin=PIN) as session:
                yield session
        finally:
            library.finalize()
