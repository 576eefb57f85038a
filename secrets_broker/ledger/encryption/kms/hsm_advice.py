"""What to do about an error of a PKCS#11 module, by its Python name."""

from collections.abc import Mapping
from typing import Final

_PIN: Final = (
    "check the PIN in pin-source or SECRETS_KMS_PIN before the next start: "
    "a token counts failures and locks itself"
)
_LOCKED: Final = "the token's security officer has to unlock it or to set the PIN"
_TWO: Final = "name the one that is meant: a token by its serial too, a key by its id too"
_MECHANISM: Final = "the token has to do CKM_AES_GCM with a nonce of the caller and 128-bit tags"
_DEVICE: Final = "check the device and its connection"
_MODULE: Final = "check module-path and the module's own configuration"
_OTHER: Final = "see the module's own log"

_ADVICE: Final[Mapping[str, str]] = {
    "PKCS11Error": _MODULE,
    "FileNotFoundError": _MODULE,
    "PermissionError": _MODULE,
    "TimeoutError": "find the process that holds the module for so long (fuser names it)",
    "PinIncorrect": _PIN,
    "PinInvalid": _PIN,
    "PinLenRange": _PIN,
    "PinLocked": _LOCKED,
    "PinExpired": _LOCKED,
    "UserPinNotInitialized": _LOCKED,
    "NoSuchToken": "no token of this name is there: check token=, and the module's configuration",
    "NoSuchKey": "no secret key of this name is in the token: check object= and id=",
    "MultipleTokensReturned": _TWO,
    "MultipleObjectsReturned": _TWO,
    "MechanismInvalid": _MECHANISM,
    "MechanismParamInvalid": _MECHANISM,
    "KeyTypeInconsistent": _MECHANISM,
    "FunctionNotSupported": _MECHANISM,
    "DeviceError": _DEVICE,
    "DeviceRemoved": _DEVICE,
    "TokenNotPresent": _DEVICE,
}


def advice_on(name: str) -> str:
    """What to do about an error of this name, in half a sentence."""
    return _ADVICE.get(name, _OTHER)
