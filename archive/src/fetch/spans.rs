//! Which frames of a pack are read with one request.

use crate::pack_io::FrameLocation;

/// Longest range read at once.
const SPAN_BYTES: u64 = 8 << 20;
/// Bytes nobody asked for that are worth a request saved.
const GAP_BYTES: u64 = 64 << 10;

/// Where a frame ends in its pack.
pub(super) fn end(location: &FrameLocation) -> u64 {
    location.entry.offset + u64::from(location.entry.stored_len)
}

/// Cuts sorted locations into ranges worth one request each.
pub(super) fn spans(sorted: &[FrameLocation]) -> impl Iterator<Item = &[FrameLocation]> {
    let mut rest = sorted;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut until = end(first);
        let mut count = 1;
        for next in &rest[1..] {
            let near = next.pack == first.pack && next.entry.offset <= until.saturating_add(GAP_BYTES);
            let reach = until.max(end(next));
            if !near || reach - first.entry.offset > SPAN_BYTES {
                break;
            }
            until = reach;
            count += 1;
        }
        let (span, after) = rest.split_at(count);
        rest = after;
        Some(span)
    })
}
