"""How a question is asked in pages: the session, the cursor, the walk, and as of when it holds.

Nothing here knows which question is asked.
"""
