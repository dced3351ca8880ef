//! Lists that hosts stream: as long as a list may be, and no longer.

use prost::Message;
use tonic::{Status, Streaming};

use crate::limits::{LIST_BYTES, LIST_ITEMS};

/// Counts what is kept of one list.
#[derive(Debug, Default)]
pub(super) struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    /// Takes one more item of so many bytes.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` where the list is longer than one may be.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Status> {
        self.items += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.items > LIST_ITEMS {
            return Err(Status::resource_exhausted(format!("its list has more than {LIST_ITEMS} items")));
        }
        if self.bytes > LIST_BYTES {
            let mebibytes = LIST_BYTES >> 20;
            return Err(Status::resource_exhausted(format!("its list takes more than {mebibytes} MiB")));
        }
        Ok(())
    }
}

/// All items of a list.
///
/// # Errors
/// The host's, and that of a list that is too long.
pub(super) async fn whole<T: Message + Default>(stream: &mut Streaming<T>) -> Result<Vec<T>, Status> {
    let (mut items, mut room) = (Vec::new(), Room::default());
    while let Some(item) = stream.message().await? {
        room.take(item.encoded_len())?;
        items.push(item);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v04_a_list_is_bounded_in_items_and_bytes() {
        let mut room = Room::default();
        for _ in 0..LIST_ITEMS {
            room.take(10).expect("fits");
        }
        assert_eq!(room.take(10).expect_err("one too many").code(), tonic::Code::ResourceExhausted);
        let mut room = Room::default();
        room.take(LIST_BYTES).expect("fits");
        assert_eq!(room.take(1).expect_err("a byte too many").code(), tonic::Code::ResourceExhausted);
        assert!(Room::default().take(usize::MAX).is_err());
    }
}
