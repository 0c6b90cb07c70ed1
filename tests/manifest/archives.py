"""Archives in which one thing is wrong, a header at a time (IEEE Std 1003.1, pax, "ustar Interchange Format")."""

BLOCK = 512
END = bytes(2 * BLOCK)


def header(
    name, size=0, mode=b"0000644", kind=b"0", prefix=b"", magic=b"ustar\x0000", link=b"", size_field=None, checksum=None
):
    field = b"%011o\0" % size if size_field is None else size_field
    front = name.ljust(100, b"\0") + mode.ljust(8, b"\0") + b"0000000\0" * 2 + field + b"00000000000\0"
    back = kind + link.ljust(100, b"\0") + magic + bytes(80) + prefix.ljust(155, b"\0") + bytes(12)
    total = sum(front) + 8 * 32 + sum(back) if checksum is None else checksum
    made = front + b"%06o\0 " % total + back
    assert len(made) == BLOCK
    return made


def member(name, contents=b"", **how):
    return header(name, len(contents), **how) + contents + bytes(-len(contents) % BLOCK)


def archive(*members):
    return b"".join(members) + END
