"""What a file is that is not what its name says: told by its first bytes, together with the way out."""

from pathlib import Path

HEAD = 512
"""Bytes that are enough to tell."""

ZSTD, PARQUET = b"\x28\xb5\x2f\xfd", b"PAR1"

# What a format begins with, its name, and what to do. A byte order mark of UTF-32 begins with that of UTF-16.
_MAGIC = (
    (b"\x1f\x8b", "gzip", "unpack it: gzip -dc"),
    (b"BZh", "bzip2", "unpack it: bzip2 -dc"),
    (b"\xfd7zXZ\0", "xz", "unpack it: xz -dc"),
    (b"\x04\x22\x4d\x18", "lz4", "unpack it: lz4 -dc"),
    (ZSTD, "zstd", "call it ….jsonl.zst, or unpack it: zstd -dc"),
    (b"PK\3\4", "zip, or a document that is one (.xlsx, .docx, .hwpx)", "unpack it: unzip"),
    (b"PK\5\6", "an empty zip", "fetch it again"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "unpack it: 7z x"),
    (b"Rar!\x1a\7", "RAR", "unpack it: unrar x"),
    (PARQUET, "parquet", "call it ….parquet"),
    (b"ARROW1", "Arrow IPC (Feather)", "write it as parquet"),
    (b"ORC", "ORC", "write it as parquet"),
    (b"Obj\1", "Avro", "write it as parquet"),
    (b"\x89HDF", "HDF5", "write it as parquet"),
    (b"SQLite format 3\0", "an SQLite database", "write it as parquet"),
    (b"%PDF-", "PDF", "take the text out of it: pdftotext"),
    (b"\xd0\xcf\x11\xe0", "a document of Microsoft Office or Hangul (.hwp)", "take the text out of it"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file", "fetch that: git lfs pull"),
    (b"/annex/objects/", "a pointer of git-annex, not the file", "fetch that: git annex get"),
    (b"\xff\xfe\0\0", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
)

_POINTERS = (b"version https://git-lfs", b"/annex/objects/")


def read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def other_format(head: bytes) -> str | None:
    """What a file is that begins with `head`, and what to do; None if nothing tells."""
    for magic, name, way in _MAGIC:
        if head.startswith(magic):
            return f"is {name}; {way}"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it: tar -xf"
    if head and not head.strip(b"\0"):
        return "holds zeros, as after a crash of its disk; fetch it again"
    # A Latin letter, sign or line end in every second byte, and a zero in the others.
    for zeros, order in ((head[1:64:2], "LE"), (head[0:64:2], "BE")):
        if len(zeros) > 3 and zeros.count(0) > len(zeros) / 2:
            return f"is UTF-16 text; convert it: iconv -f UTF-16{order} -t UTF-8"
    return None


def not_text(head: bytes) -> str | None:
    """The same; None too for what is text and only begins like another format."""
    return None if _is_plain(head) and not head.startswith(_POINTERS) else other_format(head)


def not_binary(path: Path, expected: str) -> str:
    """What a file is that is not the `expected` format, and what to do."""
    head = read_head(path)
    if found := other_format(head):
        return found
    if not head:
        return f"is empty, and {expected} is not; fetch it again"
    if not _is_plain(head):
        return f"is not {expected}, or damaged; fetch it again"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"is a page of the web, not {expected}; fetch it again, perhaps after a login"
    return f"is plain text, not {expected}; call it ….{'jsonl' if start.startswith((b'{', b'[')) else 'txt'}"


def is_zstd(head: bytes) -> bool:
    """Also one that begins with a frame to be skipped, as pzstd writes."""
    return head.startswith(ZSTD) or head[1:4] == b"\x2a\x4d\x18"


def is_parquet(head: bytes) -> bool:
    return head.startswith(PARQUET)


def looks_like_cp949(content: bytes) -> bool:
    """Whether bytes that are not UTF-8 read as Korean text in the encoding of Korean Windows."""
    try:
        text = content.decode("cp949")
    except UnicodeDecodeError:
        return False
    return any("가" <= character <= "힣" for character in text)


def _is_plain(head: bytes) -> bool:
    """Whether these are the first bytes of UTF-8 text without control characters."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else the last character is cut
            return False
        text = head[: error.start].decode("utf-8")
    return not any(character < " " and character not in "\t\n\r\f\x1b" for character in text)
