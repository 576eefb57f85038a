"""A plain caller of the service."""

import json
import urllib.parse
import urllib.request
from typing import Any


def ask(url: str, key: str, operation: str, **fields: str) -> Any:
    """Store, look up or delete; an answer that is none of the 200s is an error."""
    path = f"{url}/internal/secrets/credential-{operation}"
    headers = {"X-Internal-Key": key, "Content-Type": "application/json"}
    if operation == "delete":
        path += "?" + urllib.parse.urlencode(fields)
        request = urllib.request.Request(path, headers=headers, method="DELETE")
    else:
        request = urllib.request.Request(path, json.dumps(fields).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
