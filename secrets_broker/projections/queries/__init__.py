"""What an auditor asks: one file a question, answered from ledger.events alone.

So the login of an auditor is enough, no key is needed, and what was edited by hand in a projection
changes no answer. Every question is asked in pages, each of bounded time and memory. How a
question arrives is in http/resources and tools/queries.
"""
