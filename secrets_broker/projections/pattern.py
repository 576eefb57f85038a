"""Patterns for names: `*` stands for any run of characters, and nothing else is special."""


def like(pattern: str) -> str:
    r"""The LIKE pattern that means the same, with \ as its escape character."""
    for special in "\\%_":
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")
