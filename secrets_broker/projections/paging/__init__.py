"""How a question is answered in pages: the session, the cursor, the walk, and its moment.

Nothing here knows which question is asked.
"""
