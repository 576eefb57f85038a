"""The transparency log: the Merkle tree, and the formats of RFC 9162 and C2SP, with their SQL.

Here are tree, tile, note, checkpoint, proof, receipt, and what a witness decides and keeps. When a
checkpoint is signed, and who cosigns it, is in publishing.
"""
