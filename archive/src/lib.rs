//! The bucket contract of Holdfast: what lies in a repository, how it is
//! written, read and proved. What lies there outlives every binary; this page
//! is its specification, format 1, and each module says its part of it field
//! by field.
//!
//! # The one idea
//!
//! A file is a list of extents; an extent is (frame, offset, length). Frames
//! hold payload only. Names and metadata live apart, in manifest pages. One
//! mechanism serves groups of small files, chunks of large ones, holes and
//! duplicates; a `chown` of a whole tree moves pages and no content.
//!
//! # Objects
//!
//! | name | holds | module |
//! |---|---|---|
//! | `repo.json` | format, features, id, owner, crypto mode, chunker parameters, hashes of `RECOVERY/` | [`info`] |
//! | `RECOVERY/README`, `format.proto`, `recover.py` | how to read all this without Holdfast | [`repository::text`] |
//! | `packs/xx/<sha256>-<allocation id>` | frames and their table | [`pack`] |
//! | `snapshots/<host id>/<source id>/<number>` | one snapshot | [`snapshot`] |
//! | `index/<n>` | tables of packs once more; only ever a hint | [`state`] |
//! | `state/head`, `policies`, `hosts` | what a lost controller needs | [`state`] |
//! | `probe/<n>` | left by a test of the store; means nothing | [`store`] |
//! | `keys/<key epoch>` | taken for sealed repositories; not written yet | |
//!
//! Names are built and taken apart by [`keys`] alone. `xx` is the first two
//! digits of the pack's hash. Ids of repositories, hosts, sources and
//! allocations are ULIDs in capital letters ([`ids`]); an allocation id is
//! never used twice, so deleting one pack never hits a later equal one.
//! Numbers are little-endian unless a message holds them.
//!
//! # From the bottom up
//!
//! **Frame** ([`frame`]): one plain zstd frame of 1 byte to 4 MiB raw, content
//! size and checksum set, no dictionary, window at most 8 MiB. Its id is
//! BLAKE3-256 of the raw bytes. How well it was compressed is no part of it.
//!
//! **Pack** ([`pack`]): frames without gaps from offset 0, then one skippable
//! zstd frame (magic `0x184D2A5C`) with a row of 56 bytes for each and a footer
//! of 32. At most 64 MiB. The SHA-256 of the whole is in its name. `zstd -t`
//! accepts it.
//!
//! **Page** ([`manifest`]): a protobuf message as the raw content of a frame of
//! kind page. Leaf pages hold entries sorted by path components, each path as
//! the bytes shared with the one before and the rest; index pages hold
//! children with first path, last path and number of entries. Each page has
//! its own table of frame ids and of extended attributes. Extent lists over
//! 4 KiB, and attributes over 4 KiB, have pages of their own. A page ends where
//! BLAKE3 of its last path hits a mask, at 64 KiB or 4096 rows; the masks are
//! pinned by a test, for another mask would make all pages new.
//!
//! **Entry** ([`entry`]): path, type, mode, uid, gid, size, mtime and ctime in
//! nanoseconds, inode, target, device numbers, attributes, extents, flags, and
//! the hash of a file's content: the first 16 bytes of BLAKE3 over the data
//! ranges in order, then offset and length of each range, then the size, all
//! as 64-bit numbers; ranges that touch count as one. What no extent covers is
//! a hole. The hash may be absent only where every extent is a whole frame.
//!
//! **Snapshot** ([`snapshot`]): the agent's body (root page, start, statistics,
//! source, containers that used it) under the controller's header (repository,
//! id, time, commit number).
//!
//! **Envelope** ([`envelope`]): snapshots, state and index files begin with
//! eight bytes that say what they are and end with SHA-256 over all before.
//!
//! So every bit of every object is covered: packs by their name, frames by
//! their id, pages by being frames, small objects by their envelope,
//! `repo.json` by its own checksum, `RECOVERY/` by hashes that are built into the
//! program ([`recovery::is_released`]): those in `repo.json` say what was
//! written first, and whoever can write to the bucket can write them, too.
//! [`verify`] looks at all of them.
//!
//! # What a reader must do
//!
//! Refuse a format other than 1, any feature in `features` it does not know,
//! by name, and a crypto mode it lacks. Check every frame against its id before
//! use. Take no length, count or depth on trust: every bound is a constant
//! here, and hostile bytes give a typed error, not a panic and not memory.
//! Refuse paths that are absolute, empty in a component, `.` or `..`, twice,
//! out of order, or below something that is no directory. Skip unknown fields.
//!
//! # What is not built yet, and has its place
//!
//! Sealing (crypto mode `aead`): the key epoch in pack tables and snapshot
//! objects is 0 until then, and anything else is refused. Extents that follow
//! a database's pages need no change: the format has them already. Field
//! numbers 30 to 39 of pages and entries are taken for both.
//!
//! # How it is used
//!
//! Capture and restore (module and feature `fs`) talk to whoever
//! stores frames by [`pack_io`]; [`fetch`] reads frames through it. A
//! [`repository`] opened in place is one such store, an agent's session with
//! its controller the other.

#![warn(clippy::missing_errors_doc)]

pub mod backoff;
pub mod entry;
pub mod envelope;
pub mod fetch;
pub mod frame;
#[cfg(feature = "fs")]
pub mod fs;
pub mod ids;
pub mod info;
pub mod keys;
pub mod manifest;
pub mod pack;
pub mod pack_io;
pub mod process;
pub mod recovery;
pub mod repository;
pub mod salvage;
pub mod secret_file;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod text;
pub mod verify;

#[cfg(test)]
mod messages;
