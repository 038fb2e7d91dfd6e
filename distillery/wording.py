"""Small pieces of English that notes and messages about counts are put together from."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def were(number: int) -> str:
    """Return the verb for a number of things: "was" or "were"."""
    return "was" if number == 1 else "were"
