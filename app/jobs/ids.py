"""Ids that sort by time: UUIDv7 in Crockford's base32, after a prefix that names the kind.

Source: RFC 9562, section 5.7, with the fraction of the millisecond in the 12 bits of `rand_a`
(section 6.2, method 3).
"""

import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
NUM_CHARACTERS = 26  # of 5 bits, for 128


def new_id(prefix: str, now_ns: int | None = None) -> str:
    """Return a new id, such as `job_06a1...` for prefix `job`.

    Args:
        prefix: Kind of thing.
        now_ns: Nanoseconds since 1970, by default now.
    """
    milliseconds, rest = divmod(time.time_ns() if now_ns is None else now_ns, 1_000_000)
    fraction = rest * 4096 // 1_000_000
    value = milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)
    digits = [ALPHABET[value >> 5 * place & 31] for place in range(NUM_CHARACTERS)]
    return f"{prefix}_{''.join(reversed(digits))}"
