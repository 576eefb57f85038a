"""The one write path: a command becomes an event, and its answer waits for the event's commit.

Read it in this order: `commands` (what a caller wants), `content` (a credential's fields),
`events` (an event's form) and `event_types` (each type with its rules), `credential` (decide and
evolve), `fold` (commands to rows, pure), `append` (what one transaction writes), `store` (its
SQL), `committer` (one batch, from the lock to the outcomes) and `writer` (many callers, one
batch). `transactions` is the same path for an operation. Each room inside holds one trade that
this path uses.

What only reads belongs in projections. Nothing here knows HTTP, settings, or the command line.
"""
