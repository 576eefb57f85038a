"""The questions of auditors, one file each. Most are answered from ledger.events alone.

For those an auditor's login is enough, no key is needed, and a projection edited by hand changes no
answer. Every question is answered in pages, each of bounded time and memory. http/resources and
tools/queries pass the questions on.
"""
