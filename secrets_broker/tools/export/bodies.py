"""Bodies: their ciphertexts, a file of JSON lines beside each entry bundle.

There is a file for every bundle, an empty one too, so that a lost file is told from no body. A
body that was erased since is in no file that is made afterwards; in those made before it stays, and
cannot be opened, since its data key is destroyed and no key was ever in an export.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence

import msgspec

from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH
from secrets_broker.ledger.transparency_log.tile import Tile
from secrets_broker.tools.export.database_source import Chunk, ExportedBody
from secrets_broker.tools.export.folder import BODIES, Folder


def bodies_name(bundle: int) -> str:
    """Where the bodies of an entry bundle are: the groups of digits are the bundle's."""
    return f"{BODIES}/{Tile(None, bundle).path.removeprefix('tile/entries/')}.jsonl"


def files(chunk: Chunk) -> Iterator[tuple[str, bytes]]:
    """The files of a chunk, whose rows begin at a multiple of 256."""
    lines: dict[int, list[ExportedBody]] = {
        row.position // TILE_WIDTH: [] for row in chunk.rows[::TILE_WIDTH]
    }
    for body in chunk.bodies:
        lines[body.position // TILE_WIDTH].append(body)
    for bundle, found in lines.items():
        yield bodies_name(bundle), _encode(found)


def first_missing(folder: Folder, bundles: int) -> int:
    """The first of that many bundles without a file of bodies."""
    for bundle in range(bundles):
        if not (folder.path / bodies_name(bundle)).is_file():
            return bundle
    return bundles


def _encode(found: Sequence[ExportedBody]) -> bytes:
    return b"".join(
        msgspec.json.encode(
            {
                "position": body.position,
                "key": body.key,
                "ciphertext": b64encode(body.ciphertext).decode(),
            }
        )
        + b"\n"
        for body in found
    )
