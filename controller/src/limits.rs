//! Limits: what one peer, one host or all of them together may make this
//! controller keep or do.
//!
//! A single bounded message is not enough: what counts is the sum over calls,
//! connections and days. Each bound below is named in `docs/LIMITS.md`; a test
//! holds that table to these constants.

use std::time::Duration;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const DAY: Duration = Duration::from_hours(24);

// Connections on which nobody has shown who they are.

/// Connections without an authenticated call, handshakes included, at once.
pub(crate) const ANONYMOUS_CONNECTIONS: usize = 256;
/// How long a connection may stay without an authenticated call.
pub(crate) const ANONYMOUS_TIME: Duration = Duration::from_secs(30);
/// Calls at once on such a connection.
pub(crate) const ANONYMOUS_CALLS: usize = 4;
/// Longest message of a call anybody may make, bytes.
pub(crate) const ANONYMOUS_MESSAGE: usize = 64 * KIB;
/// How long a call anybody may make, or a renewal, may take.
pub(crate) const ANONYMOUS_CALL: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection is left alone this long by others of its own network.
pub(crate) const ANONYMOUS_GRACE: Duration = Duration::from_secs(2);

// Connections of hosts and operators.

/// At once, all of them together.
pub(crate) const KNOWN_CONNECTIONS: usize = 8192;
/// Of one host; a further one takes the place of its oldest.
pub(crate) const HOST_CONNECTIONS: usize = 8;
/// Of one operator; a further one takes the place of the oldest.
pub(crate) const OPERATOR_CONNECTIONS: usize = 256;
/// Streams at once on a connection with a certificate.
pub(crate) const HOST_STREAMS: u32 = 64;
/// Streams at once on a connection without one.
pub(crate) const PLAIN_STREAMS: u32 = 16;
/// Bytes sent ahead on one stream, and on one connection, with a certificate.
pub(crate) const HOST_WINDOWS: (u32, u32) = (MIB as u32, 4 * MIB as u32);
/// The same without a certificate.
pub(crate) const PLAIN_WINDOWS: (u32, u32) = (64 * KIB as u32, 256 * KIB as u32);
/// Largest block of headers of one call, bytes.
pub(crate) const HEADERS: u32 = 16 * KIB as u32;
/// Open files the process asks for, as far as its hard limit allows.
pub(crate) const OPEN_FILES: u64 = 65_536;

// The data plane.

/// Calls of one host at work at once; further ones wait.
pub(crate) const HOST_CALLS: usize = 16;
/// How long the one message of a host's call may take to arrive.
pub(crate) const HOST_MESSAGE_TIME: Duration = Duration::from_secs(120);
/// Bytes read from the store for hosts at once, all of them together.
pub(crate) const READ_BYTES: usize = 64 * MIB;
/// The same for one host.
pub(crate) const READ_BYTES_OF_HOST: usize = 16 * MIB;
/// Answers with bytes of packs that one host may have open; further ones wait.
pub(crate) const READ_STREAMS_OF_HOST: usize = 8;
/// Bytes of a pack read at once for one answer.
pub(crate) const READ_PIECE: usize = 4 * MIB;
/// A host that takes nothing of an answer for so long loses its connection.
pub(crate) const READ_STALL: Duration = Duration::from_secs(60);
/// Answers read from snapshots for operators at once, a thread each.
pub(crate) const ANSWERS: usize = 64;
/// The same for one operator.
pub(crate) const ANSWERS_OF_OPERATOR: usize = 8;
/// An operator that takes nothing of such an answer for so long loses it.
pub(crate) const ANSWER_STALL: Duration = Duration::from_secs(60);
/// How long a call waits for such a place.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Threads that decode frames for hosts.
pub(crate) const DECODERS: usize = 2;
/// Decoded bytes a thread makes before it lets another host's turn come.
pub(crate) const DECODE_TURN: usize = 16 * MIB;
/// Manifest pages looked at together in a commit.
pub(crate) const PAGES: usize = 64;
/// Their raw bytes together.
pub(crate) const PAGE_BYTES: usize = 8 * MIB;
/// Bytes of packs in memory on their way to the store, all hosts together.
pub(crate) const UPLOAD_BYTES: usize = 384 * MIB;
/// The same for one host: a quarter.
pub(crate) const fn upload_bytes_of_host(all: usize) -> usize {
    all / 4
}
/// Uploads of one host at once; further ones wait.
pub(crate) const UPLOADS_OF_HOST: usize = 4;
/// An upload may take this long ...
pub(crate) const UPLOAD_TIME: Duration = Duration::from_secs(60);
/// ... and a second more for so many bytes announced.
pub(crate) const UPLOAD_RATE: u64 = 64 << 10;
/// What a pack may have beyond the length writers aim at and the quarter of it
/// that pages kept back may add: a last frame and the table.
pub(crate) const PACK_ROOM: u64 = 8 << 20;

// What hosts report.

/// Longest text taken over from a host, bytes; the rest is cut off.
pub(crate) const TEXT: usize = 4 * KIB;
/// Volumes, containers or upgrades in one list of a host.
pub(crate) const LIST_ITEMS: usize = 10_000;
/// Bytes of one such list.
pub(crate) const LIST_BYTES: usize = 8 * MIB;
/// Longest message of a list, bytes.
pub(crate) const LIST_MESSAGE: usize = 256 * KIB;
/// Labels kept of one volume.
pub(crate) const LABELS: usize = 256;
/// Volumes known of one host, those that are gone included.
pub(crate) const SOURCES_OF_HOST: usize = 20_000;
/// Longest description an agent gives of itself, bytes.
pub(crate) const AGENT_MESSAGE: usize = 64 * KIB;
/// Longest message of a job's stream of events, bytes.
pub(crate) const EVENT_MESSAGE: usize = MIB;
/// Events of one job taken in a second; the stream waits for the rest.
pub(crate) const EVENTS_PER_SECOND: u32 = 1000;
/// Events of one job that change its row, beyond four for each source.
pub(crate) const RECORDED_EVENTS: usize = 1000;
/// Containers named in one job's result.
pub(crate) const QUIESCED: usize = 256;
/// Lines in the event log of one job.
pub(crate) const JOB_LINES: u64 = 10_000;

// What one host may add in a day (UTC).

/// Bytes of packs.
pub(crate) const BYTES_PER_DAY: u64 = 4 << 40;
/// Packs.
pub(crate) const PACKS_PER_DAY: u64 = 500_000;
/// Frames: rows of the catalogue.
pub(crate) const FRAMES_PER_DAY: u64 = 16_000_000;
/// Leases: uploads and restores begun.
pub(crate) const LEASES_PER_DAY: u64 = 100_000;
/// Certificates renewed.
pub(crate) const RENEWALS_PER_DAY: u64 = 100;

// Audit rows of refused calls; what is over is logged only.

/// Of hosts and operators, a minute.
pub(crate) const DENIALS_PER_MINUTE: u32 = 300;
/// Of everybody else, a minute.
pub(crate) const ANONYMOUS_DENIALS_PER_MINUTE: u32 = 30;
/// Of everybody else, a day.
pub(crate) const ANONYMOUS_DENIALS_PER_DAY: u32 = 1000;

// How long rows stay that nothing refers to.

/// Ended jobs; the newest of each policy and host, and those that made a
/// snapshot that is still there, stay.
pub(crate) const JOB_AGE: Duration = DAY.saturating_mul(90);
/// Volumes that are gone and have no snapshot.
pub(crate) const SOURCE_AGE: Duration = DAY.saturating_mul(90);
/// Rows of the audit chain.
pub(crate) const AUDIT_AGE: Duration = DAY.saturating_mul(400);
/// Rows about callers that nobody knows.
pub(crate) const ANONYMOUS_AUDIT_AGE: Duration = DAY.saturating_mul(30);
/// Counts of what each host added.
pub(crate) const USAGE_AGE: Duration = DAY.saturating_mul(30);
/// Rows removed in one transaction.
pub(crate) const PRUNE_PAGE: u32 = 500;

/// `text`, cut to [`TEXT`] bytes at a character's end.
pub(crate) fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT)]
}

/// Cuts `text` as [`clipped`] does.
pub(crate) fn clip(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name in the document and value, for each constant.
    fn table() -> Vec<(&'static str, String)> {
        let bytes = |bytes: usize| match bytes {
            _ if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
            _ => format!("{} KiB", bytes / KIB),
        };
        let time = |time: Duration| match time.as_secs() {
            seconds if seconds >= 86_400 => format!("{} days", seconds / 86_400),
            seconds => format!("{seconds} s"),
        };
        let wide = |bytes: u64| self::bytes(bytes);
        vec![
            ("anonymous connections", ANONYMOUS_CONNECTIONS.to_string()),
            ("anonymous time", time(ANONYMOUS_TIME)),
            ("anonymous calls", ANONYMOUS_CALLS.to_string()),
            ("anonymous message", bytes(ANONYMOUS_MESSAGE)),
            ("anonymous call", time(ANONYMOUS_CALL)),
            ("handshake", time(HANDSHAKE)),
            ("anonymous grace", time(ANONYMOUS_GRACE)),
            ("known connections", KNOWN_CONNECTIONS.to_string()),
            ("host connections", HOST_CONNECTIONS.to_string()),
            ("operator connections", OPERATOR_CONNECTIONS.to_string()),
            ("host streams", HOST_STREAMS.to_string()),
            ("plain streams", PLAIN_STREAMS.to_string()),
            ("host stream window", bytes(HOST_WINDOWS.0 as usize)),
            ("host connection window", bytes(HOST_WINDOWS.1 as usize)),
            ("plain stream window", bytes(PLAIN_WINDOWS.0 as usize)),
            ("plain connection window", bytes(PLAIN_WINDOWS.1 as usize)),
            ("headers", bytes(HEADERS as usize)),
            ("open files", OPEN_FILES.to_string()),
            ("host calls", HOST_CALLS.to_string()),
            ("host message time", time(HOST_MESSAGE_TIME)),
            ("read bytes", bytes(READ_BYTES)),
            ("read bytes of a host", bytes(READ_BYTES_OF_HOST)),
            ("read streams of a host", READ_STREAMS_OF_HOST.to_string()),
            ("read piece", bytes(READ_PIECE)),
            ("read stall", time(READ_STALL)),
            ("answers", ANSWERS.to_string()),
            ("answers of an operator", ANSWERS_OF_OPERATOR.to_string()),
            ("answer stall", time(ANSWER_STALL)),
            ("answer wait", time(ANSWER_WAIT)),
            ("decoders", DECODERS.to_string()),
            ("decode turn", bytes(DECODE_TURN)),
            ("pages", PAGES.to_string()),
            ("page bytes", bytes(PAGE_BYTES)),
            ("upload bytes", bytes(UPLOAD_BYTES)),
            ("upload bytes of a host", bytes(upload_bytes_of_host(UPLOAD_BYTES))),
            ("uploads of a host", UPLOADS_OF_HOST.to_string()),
            ("upload time", time(UPLOAD_TIME)),
            ("upload rate", format!("{}/s", wide(UPLOAD_RATE))),
            ("pack room", wide(PACK_ROOM)),
            ("text", bytes(TEXT)),
            ("list items", LIST_ITEMS.to_string()),
            ("list bytes", bytes(LIST_BYTES)),
            ("list message", bytes(LIST_MESSAGE)),
            ("labels", LABELS.to_string()),
            ("sources of a host", SOURCES_OF_HOST.to_string()),
            ("agent message", bytes(AGENT_MESSAGE)),
            ("event message", bytes(EVENT_MESSAGE)),
            ("events per second", EVENTS_PER_SECOND.to_string()),
            ("recorded events", RECORDED_EVENTS.to_string()),
            ("quiesced", QUIESCED.to_string()),
            ("job lines", JOB_LINES.to_string()),
            ("bytes per day", wide(BYTES_PER_DAY)),
            ("packs per day", PACKS_PER_DAY.to_string()),
            ("frames per day", FRAMES_PER_DAY.to_string()),
            ("leases per day", LEASES_PER_DAY.to_string()),
            ("renewals per day", RENEWALS_PER_DAY.to_string()),
            ("denials per minute", DENIALS_PER_MINUTE.to_string()),
            ("anonymous denials per minute", ANONYMOUS_DENIALS_PER_MINUTE.to_string()),
            ("anonymous denials per day", ANONYMOUS_DENIALS_PER_DAY.to_string()),
            ("job age", time(JOB_AGE)),
            ("source age", time(SOURCE_AGE)),
            ("audit age", time(AUDIT_AGE)),
            ("anonymous audit age", time(ANONYMOUS_AUDIT_AGE)),
            ("usage age", time(USAGE_AGE)),
            ("prune page", PRUNE_PAGE.to_string()),
        ]
    }

    #[test]
    fn the_documents_table_is_these_constants() {
        let document = include_str!("../../docs/LIMITS.md");
        let written: Vec<(&str, String)> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
            .filter(|(name, _)| *name != "limit")
            .map(|(name, rest)| (name, rest.split(" | ").next().unwrap_or("").to_owned()))
            .collect();
        assert_eq!(written, table());
    }

    #[test]
    fn every_constant_is_in_the_table() {
        let source = include_str!("limits.rs");
        let constants = source.lines().filter(|line| line.starts_with("pub(crate) const ")).count();
        // The two pairs of windows are two rows each.
        assert_eq!(table().len(), constants + 2);
    }

    #[test]
    fn memory_that_hosts_can_fill_leaves_room_below_half_a_gibibyte() {
        let decoding = DECODERS * DECODE_TURN;
        assert!(UPLOAD_BYTES + READ_BYTES + decoding <= 480 * MIB);
        const { assert!(READ_PIECE <= READ_BYTES_OF_HOST && PAGE_BYTES <= READ_BYTES_OF_HOST) };
        let anonymous = ANONYMOUS_CONNECTIONS * (PLAIN_WINDOWS.1 + PLAIN_STREAMS * HEADERS) as usize;
        assert!(anonymous <= 128 * MIB);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let mut text = "é".repeat(TEXT);
        assert_eq!(clipped(&text).len(), TEXT);
        text.insert(0, 'x');
        clip(&mut text);
        assert_eq!(text.len(), TEXT - 1);
        assert_eq!(clipped("short"), "short");
    }

    fn bytes(bytes: u64) -> String {
        match bytes {
            _ if bytes >= 1 << 40 => format!("{} TiB", bytes >> 40),
            _ if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
            _ => format!("{} KiB", bytes >> 10),
        }
    }
}
