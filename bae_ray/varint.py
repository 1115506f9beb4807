"""Whole numbers in as few bytes as they need (LEB128): seven bits a byte, the low ones first; bit 8: more follow."""

from collections.abc import Iterable

from bae_ray.errors import CorruptContainerError

MOST_BITS = 63


def write_varints(numbers: Iterable[int]) -> bytes:
    """Numbers one after another."""
    out = bytearray()
    for number in numbers:
        left = number
        while left >= 0x80:
            out.append(left & 0x7F | 0x80)
            left >>= 7
        out.append(left)
    return bytes(out)


def read_varints(content: bytes, count: int, place: int = 0, what: str = "numbers") -> tuple[list[int], int]:
    """`count` numbers from byte `place` on, and where they end. Raises `CorruptContainerError`, by the name `what`."""
    numbers: list[int] = []
    for _ in range(count):
        number = shift = 0
        while True:
            if place >= len(content) or shift >= MOST_BITS:
                raise CorruptContainerError(f"a container's {what} cannot be read. Compress anew.")
            byte = content[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        numbers.append(number)
    return numbers, place
