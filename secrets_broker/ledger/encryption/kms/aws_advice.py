"""What to do about an error of AWS KMS.

The codes are those of the API reference (https://docs.aws.amazon.com/kms/latest/APIReference/)
and of AWS's common errors; names without "Exception" are botocore's own.
"""

from collections.abc import Mapping
from typing import Final

_PERMISSION: Final = (
    "allow kms:Encrypt, kms:Decrypt and kms:DescribeKey on this key, with its encryption context, "
    "to whom the service runs as"
)
_CREDENTIALS: Final = "give boto3 valid credentials: a role, a profile, or AWS_ACCESS_KEY_ID"
_CLOCK: Final = "check the machine's clock, then the credentials that boto3 finds"
_BUSY: Final = "AWS limits the rate of requests: start again later, or ask for a higher quota"
_AWS_FAULT: Final = "the fault is on AWS's side: start again later"
_NETWORK: Final = "check that this machine reaches the endpoint of KMS, and the region or endpoint"
_REGION: Final = "name the region in the URL (?region=…) or the key by its ARN"
_KEY: Final = "check the key's id, account and region"
_STATE: Final = "the key is being deleted or imported: cancel its deletion, or wait"
_KIND: Final = "the key has to be symmetric and its usage ENCRYPT_DECRYPT"
_OTHER: Final = "see the API reference of AWS KMS on this error"

_ADVICE: Final[Mapping[str, str]] = {
    "AccessDenied": _PERMISSION,
    "AccessDeniedException": _PERMISSION,
    "DisabledException": "enable the key again",
    "NotFoundException": _KEY,
    "InvalidArnException": _KEY,
    "KMSInvalidStateException": _STATE,
    "InvalidKeyUsageException": _KIND,
    "ThrottlingException": _BUSY,
    "LimitExceededException": _BUSY,
    "KeyUnavailableException": _AWS_FAULT,
    "DependencyTimeoutException": _AWS_FAULT,
    "KMSInternalException": _AWS_FAULT,
    "ServiceUnavailable": _AWS_FAULT,
    "UnrecognizedClientException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "InvalidSignatureException": _CLOCK,
    "IncompleteSignature": _CLOCK,
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "CredentialRetrievalError": _CREDENTIALS,
    "ProfileNotFound": _CREDENTIALS,
    "NoRegionError": _REGION,
    "InvalidRegionError": _REGION,
    "EndpointConnectionError": _NETWORK,
    "ConnectTimeoutError": _NETWORK,
    "ReadTimeoutError": _NETWORK,
    "ConnectionClosedError": _NETWORK,
    "ProxyConnectionError": _NETWORK,
    "SSLError": "check that the endpoint's certificate is one that this machine trusts",
}


def advice_on(code: str) -> str:
    """What to do about an error of this code, in half a sentence."""
    return _ADVICE.get(code, _OTHER)
