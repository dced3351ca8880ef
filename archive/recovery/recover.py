#!/usr/bin/env python3
"""Reads a Holdfast repository (format 1, without encryption) from a directory.

    recover.py DIRECTORY list                     all snapshots
    recover.py DIRECTORY ls  HOST/SOURCE/NUMBER   what one holds
    recover.py DIRECTORY tar HOST/SOURCE/NUMBER   its content, as a pax tar to stdout

Needs Python 3.7 or later and the program `zstd`; nothing else. Written to be
read: README and format.proto beside it say what all of this is.
"""

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections import OrderedDict

ROW = struct.Struct("<32sB3sIQII")
FOOTER = struct.Struct("<8sHHI16s")
MAX_RAW = 4 << 20
KEPT_PACKS = 8
TYPES = {1: "-", 2: "d", 3: "l", 4: "h", 5: "p", 6: "s", 7: "c", 8: "b"}


class Damaged(Exception):
    """Something that is missing, or not what the format says."""


# ---- Protobuf, as far as it is needed here.


def varint(data, at):
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Damaged("a message is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at


def message(data):
    """Field number -> list of values: numbers, or bytes."""
    fields, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
            value, at = data[at : at + length], at + length
        else:
            raise Damaged("a message has a field of an unknown type")
        if at > len(data):
            raise Damaged("a message is cut off")
        fields.setdefault(number, []).append(value)
    return fields


def number(fields, field):
    return fields.get(field, [0])[-1]


def signed(value):
    """int64"""
    return value - (1 << 64) if value >> 63 else value


def zigzag(value):
    """sint64"""
    return (value >> 1) ^ -(value & 1)


def blob(fields, field):
    return fields.get(field, [b""])[-1]


def text(fields, field):
    return blob(fields, field).decode("utf-8", "replace")


def numbers(fields, field):
    """A repeated number, packed or not."""
    values = []
    for value in fields.get(field, []):
        if isinstance(value, int):
            values.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = varint(value, at)
            values.append(one)
    return values


# ---- Objects.


def envelope(magic, data):
    if len(data) < 40 or data[:8] != magic:
        raise Damaged("it does not begin with %s" % magic.decode())
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise Damaged("it does not match its checksum")
    return data[8:-32]


def read_repo_json(path):
    with open(path, "rb") as file:
        raw = file.read()
    info = json.loads(raw.decode("utf-8"))
    checksum = str(info.get("checksum", "")).encode()
    at = raw.rfind(checksum)
    zeroed = raw[:at] + b"0" * 64 + raw[at + 64 :]
    if len(checksum) != 64 or hashlib.sha256(zeroed).hexdigest().encode() != checksum:
        warn("repo.json does not match its checksum")
    if info.get("format") != 1:
        sys.exit("recover.py reads format 1, and this repository has format %s" % info.get("format"))
    if info.get("features"):
        sys.exit("the repository uses %s, which recover.py does not know" % ", ".join(info["features"]))
    if info.get("crypto") != "none":
        sys.exit("the repository is encrypted: use the Holdfast program with its key")


class Pack:
    def __init__(self, path):
        self.path = path
        self.sha256 = os.path.basename(path).split("-")[0]

    def table(self):
        size = os.path.getsize(self.path)
        with open(self.path, "rb") as file:
            file.seek(max(0, size - FOOTER.size))
            footer = file.read()
            if len(footer) != FOOTER.size:
                raise Damaged("it is too short")
            magic, version, _, rows, checksum = FOOTER.unpack(footer)
            length = rows * ROW.size + FOOTER.size
            if magic != b"HOLDPACK" or version != 1 or length + 8 > size:
                raise Damaged("it has no footer of format 1")
            file.seek(size - length - 8)
            content = file.read()
        if content[:8] != struct.pack("<II", 0x184D2A5C, length):
            raise Damaged("its table is not in a skippable frame")
        if hashlib.sha256(content[8:-16]).digest()[:16] != checksum:
            raise Damaged("its table does not match its checksum")
        for n in range(rows):
            frame, kind, _, epoch, offset, stored, raw = ROW.unpack_from(content, 8 + n * ROW.size)
            if epoch != 0 or not 0 < raw <= MAX_RAW or offset + stored > size:
                raise Damaged("its table has a frame none can have")
            yield frame, offset, stored, raw


class Repository:
    def __init__(self, root):
        self.root = root
        read_repo_json(os.path.join(root, "repo.json"))
        self.frames = {}
        self.opened = OrderedDict()
        self.bad = {}
        for path in self.files("packs"):
            pack = Pack(path)
            try:
                at = 0
                for frame, offset, stored, raw in pack.table():
                    self.frames.setdefault(frame, []).append((pack, at, offset, stored, raw))
                    at += raw
            except (Damaged, OSError) as error:
                warn("pack %s: %s" % (path, error))

    def files(self, prefix):
        for folder, folders, names in os.walk(os.path.join(self.root, prefix)):
            folders.sort()
            for name in sorted(names):
                yield os.path.join(folder, name)

    def snapshots(self):
        for path in self.files("snapshots"):
            name = os.path.relpath(path, os.path.join(self.root, "snapshots")).replace(os.sep, "/")
            try:
                yield name, self.snapshot(name)
            except (Damaged, OSError) as error:
                warn("snapshot %s: %s" % (name, error))

    def snapshot(self, name):
        with open(os.path.join(self.root, "snapshots", *name.split("/")), "rb") as file:
            fields = message(envelope(b"HFSNAP01", file.read()))
        if text(fields, 2) != name:
            raise Damaged("it is another snapshot, %s" % text(fields, 2))
        if number(fields, 5):
            raise Damaged("it is sealed")
        body = message(blob(fields, 6))
        source = message(blob(body, 4))
        return {
            "created": signed(number(fields, 3)) / 1000,
            "root": blob(body, 1),
            "host": text(fields, 7) or text(body, 6),
            "kind": text(fields, 8) or text(source, 1),
            "source": text(fields, 9) or text(source, 2),
            "size": number(message(blob(body, 3)), 3),
            "partial": bool(number(body, 7)),
        }

    def raw(self, pack):
        """The raw frames of a pack, one after the other, in a file; None if the pack is damaged."""
        if pack.path in self.opened:
            self.opened.move_to_end(pack.path)
            return self.opened[pack.path]
        while len(self.opened) >= KEPT_PACKS:
            _, oldest = self.opened.popitem(last=False)
            if oldest:
                oldest.close()
        digest = hashlib.sha256()
        with open(pack.path, "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
        out = None
        if digest.hexdigest() != pack.sha256:
            warn("pack %s does not match its hash: reading what is left of it" % pack.path)
        else:
            out = tempfile.TemporaryFile()
            done = subprocess.run(["zstd", "-dcq", pack.path], stdout=out, stderr=subprocess.PIPE)
            if done.returncode != 0:
                warn("pack %s: %s" % (pack.path, done.stderr.decode("utf-8", "replace").strip()))
                out.close()
                out = None
        self.opened[pack.path] = out
        return out

    def frame(self, frame):
        places = self.frames.get(frame)
        if not places:
            raise Damaged("frame %s is in no pack" % frame.hex())
        for pack, at, offset, stored, length in places:
            try:
                out = self.raw(pack)
                if out is not None:
                    out.seek(at)
                    data = out.read(length)
                else:
                    # One frame alone: zstd checks its checksum.
                    with open(pack.path, "rb") as file:
                        file.seek(offset)
                        one = file.read(stored)
                    data = subprocess.run(
                        ["zstd", "-dcq"], input=one, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                    ).stdout
                if len(data) == length:
                    return data
            except OSError:
                pass
        raise Damaged("frame %s is damaged in pack %s" % (frame.hex(), places[0][0].path))

    # ---- Manifests.

    def page(self, frame):
        return message(self.frame(frame))

    def entries(self, frame):
        """Entries in order. What is lost is warned of and passed over."""
        try:
            page = self.page(frame)
        except Damaged as error:
            warn("a page of the manifest is lost, and what it lists: %s" % error)
            return
        if number(page, 1) == 2:
            for child in page.get(6, []):
                yield from self.entries(blob(message(child), 1))
            return
        table = blob(page, 3)
        xattrs = [message(xattr) for xattr in page.get(4, [])]
        path = b""
        for raw in page.get(5, []):
            fields = message(raw)
            path = path[: number(fields, 1)] + blob(fields, 2)
            if any(part in (b"", b".", b"..") for part in path.split(b"/")) and path:
                warn("an entry with the path %r is passed over" % path)
                continue
            try:
                yield self.entry(path, fields, table, xattrs)
            except Damaged as error:
                warn("%s is lost: %s" % (shown(path), error))

    def entry(self, path, fields, table, xattrs):
        if 18 in fields:
            own = [message(xattr) for page in fields[18] for xattr in self.page(page).get(4, [])]
        else:
            own = [xattrs[place] for place in numbers(fields, 17) if place < len(xattrs)]
        root = blob(fields, 21)
        extents = list(self.extents(root)) if root else list(cut(numbers(fields, 20), table))
        return {
            "path": path,
            "kind": number(fields, 3),
            "mode": number(fields, 4),
            "uid": number(fields, 5),
            "gid": number(fields, 6),
            "size": number(fields, 7),
            "mtime": (zigzag(number(fields, 8)), number(fields, 9)),
            "target": blob(fields, 13),
            "device": (number(fields, 14), number(fields, 15)),
            "flags": number(fields, 16),
            "xattrs": [(blob(xattr, 1), blob(xattr, 2)) for xattr in own],
            "extents": extents,
        }

    def extents(self, frame):
        page = self.page(frame)
        if number(page, 1) == 4:
            for child in page.get(8, []):
                yield from self.extents(blob(message(child), 1))
        else:
            yield from cut(numbers(page, 7), blob(page, 3))


def cut(values, table):
    """Extents as (hole before, frame, offset in it, length)."""
    for n in range(0, len(values) - 3, 4):
        gap, place, offset, length = values[n : n + 4]
        frame = table[place * 32 : place * 32 + 32]
        if len(frame) != 32:
            raise Damaged("an extent names no frame")
        yield gap, frame, offset, length


class Content(io.RawIOBase):
    """A file's content. Lost ranges become zeros, with a warning."""

    def __init__(self, repository, entry):
        self.pieces = self.read_pieces(repository, entry)
        self.rest = b""

    def read_pieces(self, repository, entry):
        done, last, data = 0, None, b""
        for gap, frame, offset, length in entry["extents"]:
            yield from zeros(gap)
            if frame != last:
                try:
                    last, data = frame, repository.frame(frame)
                except Damaged as error:
                    warn("%s: %d bytes are lost and written as zeros: %s" % (shown(entry["path"]), length, error))
                    last, data = None, b""
            piece = data[offset : offset + length]
            yield piece + b"\0" * (length - len(piece))
            done += gap + length
        yield from zeros(entry["size"] - done)

    def read(self, size=-1):
        parts, have = [self.rest], len(self.rest)
        while size < 0 or have < size:
            piece = next(self.pieces, None)
            if piece is None:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        if size < 0:
            size = len(data)
        self.rest = data[size:]
        return data[:size]


def zeros(count):
    while count > 0:
        yield b"\0" * min(count, 1 << 20)
        count -= 1 << 20


# ---- What the commands do.

warnings = 0


def warn(what):
    global warnings
    warnings += 1
    print("recover.py: " + what, file=sys.stderr)


def shown(path):
    return repr(path.decode("utf-8", "backslashreplace"))


def name_of(path):
    return path.decode("utf-8", "surrogateescape")


def listing(repository):
    import datetime

    for name, snapshot in repository.snapshots():
        when = datetime.datetime.fromtimestamp(snapshot["created"], datetime.timezone.utc)
        facts = (
            name,
            when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            snapshot["host"],
            snapshot["kind"],
            snapshot["source"],
            "%d bytes" % snapshot["size"],
        )
        print("\t".join(ascii(fact)[1:-1] for fact in facts) + ("\tpartial" if snapshot["partial"] else ""))


def ls(repository, snapshot):
    for entry in repository.entries(snapshot["root"]):
        print(
            "%s%04o %d:%d %d %s"
            % (TYPES.get(entry["kind"], "?"), entry["mode"], entry["uid"], entry["gid"], entry["size"], shown(entry["path"]))
        )


def tar(repository, snapshot, out):
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as archive:
        for entry in repository.entries(snapshot["root"]):
            kind, path = entry["kind"], entry["path"]
            info = tarfile.TarInfo("./" + name_of(path) if path else ".")
            info.mode, info.uid, info.gid = entry["mode"], entry["uid"], entry["gid"]
            seconds, nanos = entry["mtime"]
            if nanos or not 0 <= seconds < 1 << 33:
                info.pax_headers["mtime"] = decimal(seconds, nanos)
            else:
                info.mtime = seconds
            for name, value in entry["xattrs"]:
                if b"=" in name or name != name.decode("utf-8", "ignore").encode():
                    warn("%s: attribute %s cannot be in a tar: left out" % (shown(path), shown(name)))
                    continue
                info.pax_headers["SCHILY.xattr." + name_of(name)] = name_of(value)
            content = None
            if kind == 1:
                info.size = entry["size"]
                content = Content(repository, entry)
            elif kind == 2:
                info.type = tarfile.DIRTYPE
            elif kind == 3:
                info.type, info.linkname = tarfile.SYMTYPE, name_of(entry["target"])
            elif kind == 4:
                info.type, info.linkname = tarfile.LNKTYPE, "./" + name_of(entry["target"])
            elif kind == 5:
                info.type = tarfile.FIFOTYPE
            elif kind in (7, 8):
                info.type = tarfile.CHRTYPE if kind == 7 else tarfile.BLKTYPE
                info.devmajor, info.devminor = entry["device"]
            else:
                print("recover.py: %s is a socket, which tar has none of: left out" % shown(path), file=sys.stderr)
                continue
            if entry["flags"]:
                print("recover.py: %s was changing or unreadable when it was backed up" % shown(path), file=sys.stderr)
            archive.addfile(info, content)


def decimal(seconds, nanos):
    if seconds < 0 and nanos:
        return "-%d.%09d" % (-seconds - 1, 1000000000 - nanos)
    return "%d.%09d" % (seconds, nanos)


def main(arguments):
    if len(arguments) == 2 and arguments[1] == "list":
        listing(Repository(arguments[0]))
    elif len(arguments) == 3 and arguments[1] in ("ls", "tar"):
        repository = Repository(arguments[0])
        try:
            snapshot = repository.snapshot(arguments[2])
        except (Damaged, OSError) as error:
            sys.exit("recover.py: snapshot %s: %s" % (arguments[2], error))
        if arguments[1] == "ls":
            ls(repository, snapshot)
        else:
            if sys.stdout.isatty():
                sys.exit("recover.py: a tar is not for a terminal: send it to a file or to `tar -x`")
            tar(repository, snapshot, sys.stdout.buffer)
    else:
        sys.exit(__doc__)
    return 1 if warnings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
