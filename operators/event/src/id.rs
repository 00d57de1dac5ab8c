//! Ids that follow from what they are about.

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// Makes the ids of a step's events.
#[derive(Clone, Debug)]
pub struct Ids {
    /// Has read the name of the step.
    of_step: Sha256,
}

impl Ids {
    /// `source`: a name that no other step has. Two steps that are caused by one event give ids of their own.
    pub fn new(source: &str) -> Ids {
        let mut of_step = Sha256::new();
        put(&mut of_step, source.as_bytes());
        Ids { of_step }
    }

    /// The id of the event that `cause` led to at this place. Where the place is the same (and its parts are), so is the id; ids of
    /// different places or causes differ. A UUID of version 8: bytes of a SHA-256.
    pub fn of(&self, cause: &str, place: &[&[u8]]) -> Uuid {
        let mut hasher = self.of_step.clone();
        put(&mut hasher, cause.as_bytes());
        place.iter().for_each(|part| put(&mut hasher, part));
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(hasher.finalize()).for_each(|(byte, of_hash)| *byte = of_hash);
        Builder::from_custom_bytes(bytes).into_uuid()
    }
}

/// With its length before it: parts can't be mistaken for one another.
fn put(hasher: &mut Sha256, part: &[u8]) {
    hasher.update((part.len() as u64).to_be_bytes());
    hasher.update(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_cause_and_place_give_the_same_id() {
        let (stock, other) = (Ids::new("shop.stock"), Ids::new("shop.stoc"));
        let id = stock.of("c1", &[b"sku", &[0]]);
        assert_eq!(id, Ids::new("shop.stock").of("c1", &[b"sku", &[0]]));
        assert_eq!(id.get_version_num(), 8);
        // It is in topics: it stays what it is.
        assert_eq!(id.to_string(), "7774f707-c738-8e8b-86dd-dca9915020c8");
        let different = [
            stock.of("c2", &[b"sku", &[0]]),
            stock.of("c1", &[b"sku", &[1]]),
            stock.of("c1", &[b"sku\0"]),
            other.of("c1", &[b"sku", &[0]]),
        ];
        for one in different {
            assert_ne!(one, id);
        }
        // The step's name ends where the cause begins.
        assert_ne!(Ids::new("ab").of("c", &[]), Ids::new("a").of("bc", &[]));
    }
}
