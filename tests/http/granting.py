"""Grants for a service under test, made as the command line makes them."""

from secrets_broker.ledger.access.access_key import digest, new_access_key, new_grant_id
from secrets_broker.ledger.access.grant_commands import ChangeGrant, Grant, Revoke, RotateKey
from secrets_broker.ledger.access.rights import Rights
from secrets_broker.ledger.commands import parse
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.operations import granting
from tests.conftest import KMS_KEY
from tests.http.client import Service
from tests.ledger.helpers import login_of, run

OPERATOR = Context(actor="tester", authn="cli")


class Keys:
    """Grants in the ledger of a service."""

    def __init__(self, service: Service) -> None:
        self._url = service.database.owner_url
        self._keyring = Keyring.from_kms_keys(KMS_KEY)

    def grant(self, name: str, *rules: dict[str, object], **limits: object) -> str:
        """A key with these rules."""
        key = new_access_key()
        rights = parse(Rights, {"rules": rules, **limits})
        self._do(Grant(grantee=name, id=new_grant_id(), sha256=digest(key), rights=rights))
        return key

    def grant_certificate(self, name: str, *rules: dict[str, object]) -> None:
        """Rights for whom a certificate names so."""
        rights = parse(Rights, {"rules": rules})
        self._do(Grant(grantee=name, id=new_grant_id(), sha256=None, rights=rights))

    def change(self, name: str, *rules: dict[str, object]) -> None:
        """Other rights."""
        self._do(ChangeGrant(grantee=name, rights=parse(Rights, {"rules": rules})))

    def rotate(self, name: str, until: object) -> str:
        """Another key."""
        key = new_access_key()
        fields = {"grantee": name, "sha256": digest(key), "previous_until": until}
        self._do(parse(RotateKey, fields))
        return key

    def revoke(self, name: str) -> int:
        """None of its keys opens anything from here on."""
        return self._do(Revoke(grantee=name))

    def _do(self, command: object) -> int:
        login = login_of(self._url, self._keyring)
        return run(granting.change(login, command, OPERATOR))  # type: ignore[arg-type]


def rule(*allow: str, host: str = "web-*", **more: object) -> dict[str, object]:
    """A rule for ssh."""
    return {"allow": allow, "hosts": [host], "purposes": ["ssh"], **more}
