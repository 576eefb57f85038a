"""`secrets-broker export`: the ledger as a folder of files, to give away and to verify anywhere.

The folder is a static tlog-tiles site (C2SP) with checkpoints and Parquet beside it; docs/format.md
has its layout. Its `checkpoint` is written last: what is in the folder up to its size is whole,
and what is past it is what an export that ended early left behind.
"""
