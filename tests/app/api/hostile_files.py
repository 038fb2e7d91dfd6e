"""Archives and images that somebody with bad intentions might send."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image


def png(shade: int = 0, side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def photos(**more: bytes) -> dict[str, bytes]:
    return {f"{c}/{n}.png": png(9 * n) for c in ("cat", "dog") for n in range(3)} | more


def zipped(names: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in names.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def with_extra(name: str, content: bytes = b"") -> bytes:
    return zipped(photos() | {name: content or png()})


def tarred(*members: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in photos().items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return file.getvalue()


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.devmajor, info.devminor = kind, target, 1, 3
    return info


def zip_link() -> bytes:
    """A zip whose entry `cat/link.png` is a symbolic link to a file outside."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in photos().items():
            archive.writestr(name, content)
        info = zipfile.ZipInfo("cat/link.png")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return file.getvalue()


def claims(content: bytes, claimed_bytes: int) -> bytes:
    """Return a zip whose entries claim another size than they have."""
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = changed.find(signature)
        while at >= 0:
            changed[at + offset : at + offset + 4] = struct.pack("<I", claimed_bytes)
            at = changed.find(signature, at + 4)
    return bytes(changed)


def encrypted() -> bytes:
    changed = bytearray(zipped(photos()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(signature)
        while at >= 0:
            changed[at + offset] |= 1
            at = changed.find(signature, at + 4)
    return bytes(changed)


def huge_png() -> bytes:
    """A PNG of a few bytes that says it has 60 000 x 60 000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )  # fmt: skip


def all_bad(content: bytes, suffix: str = "png", compression: int = zipfile.ZIP_STORED) -> bytes:
    names = [f"{c}/{n}.{suffix}" for c in ("cat", "dog") for n in range(3)]
    return zipped(dict.fromkeys(names, content), compression)


REFUSED: dict[str, Callable[[], bytes]] = {
    "no archive": lambda: b"hello, this is no archive at all",
    "empty": lambda: b"",
    "zip of nothing": lambda: zipped({}),
    "truncated zip": lambda: zipped(photos())[:-40],
    "half a zip": lambda: zipped(photos())[: len(zipped(photos())) // 2],
    "encrypted zip": encrypted,
    "name goes up": lambda: with_extra("../../evil.png"),
    "name goes up inside": lambda: with_extra("cat/../../evil.png"),
    "absolute name": lambda: with_extra("/etc/evil.png"),
    "name with backslashes": lambda: with_extra("..\\..\\evil.png"),
    "name of a drive": lambda: with_extra("C:\\evil.png"),
    "zip link": zip_link,
    "bombs": lambda: all_bad(b"\0" * 60_000_000, compression=zipfile.ZIP_DEFLATED),
    "sizes that lie": lambda: claims(zipped(photos()), 2**32 - 2),
    "archive in an archive": lambda: zipped({"cat/a.zip": zipped(photos()), "dog/a.zip": b"PK"}),
    "one class": lambda: zipped({f"cat/{n}.png": png(n) for n in range(5)}),
    "no folders": lambda: zipped({f"{n}.png": png(n) for n in range(5)}),
    "no image is one": lambda: all_bad(b"not a picture"),
    "image bombs": lambda: all_bad(huge_png()),
    "PostScript by name of png": lambda: all_bad(b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    "pickles": lambda: all_bad(b"\x80\x04\x95", "pkl"),
    "tar link": lambda: tarred(member("cat/x.png", tarfile.SYMTYPE, "/etc/passwd")),
    "tar hard link": lambda: tarred(member("cat/x.png", tarfile.LNKTYPE, "../../etc/passwd")),
    "tar device": lambda: tarred(member("cat/x.png", tarfile.CHRTYPE)),
    "tar pipe": lambda: tarred(member("cat/x.png", tarfile.FIFOTYPE)),
    "tar goes up": lambda: tarred(member("../../evil.png", tarfile.REGTYPE)),
}  # fmt: skip
