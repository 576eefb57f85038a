"""The folder's README.txt, for readers who have the folder and nothing else."""

from typing import Final

from secrets_broker.tools.export.folder import TITLE

_TEXT: Final = """\
{title}: {origin}
{underline}

What happened to credentials, and who read them: every event of the ledger up to the checkpoint in
this folder, and no secret. {bodies}

  checkpoint          the signed head of the Merkle tree (C2SP tlog-checkpoint, a signed note)
  tile/               the tree's hashes and the entries: a static log (C2SP tlog-tiles)
  checkpoints.jsonl   every checkpoint that was published, oldest first
  verifier.key        the log's verifier keys; better have them from elsewhere than from here
  erasures.jsonl      if there: what the list of erasures names as destroyed
  bodies/             if there: ciphertexts, a file for each entry bundle
  parquet/            if there: events and access_log as tables

To verify it:

  secrets-broker verify --export . --verifier-key @verifier.key
  fsck --storage_url=file://$PWD/ --public_key=verifier.key --ui=false
      (go install github.com/transparency-dev/tessera/cmd/fsck@v1.0.4; it wants one key in the
      file, and where all is well its last line says "Successfully fsck'd")

To ask it, for example with DuckDB:

  SELECT accessed_by, access_type, count(*)
  FROM 'parquet/access_log/*.parquet' WHERE success GROUP BY ALL ORDER BY ALL;

To serve it: any static web server, as in `python3 -m http.server`.

The checkpoint signs what is in tile/. Parquet files follow from that: `verify` makes each row of
them again from the entries, where pyarrow is installed, and says so where it is not. Nothing
vouches for this file, verifier.key and erasures.jsonl.
"""
_WITHOUT: Final = "It holds no ciphertext either."
_WITH: Final = (
    "The ciphertexts are in bodies/. None opens without the ledger's keys; keep them safe."
)


def readme(origin: str, *, bodies: bool) -> bytes:
    """Its content."""
    return _TEXT.format(
        title=TITLE,
        origin=origin,
        underline="=" * (len(TITLE) + 2 + len(origin)),
        bodies=_WITH if bodies else _WITHOUT,
    ).encode()
