//! A cache bounded by bytes.

use std::hash::Hash;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use crate::sync::lock;

/// Least recently used values go first. What is in use outside of the cache does not count.
pub(crate) struct Cache<K: Hash + Eq, V> {
    contents: Mutex<Contents<K, V>>,
    capacity_bytes: usize,
    /// Of so many values that would push others out, one is let in.
    admit_one_of: u32,
}

struct Contents<K: Hash + Eq, V> {
    values: LruCache<K, (Arc<V>, usize)>,
    bytes: usize,
    refused: u32,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        let contents = Contents { values: LruCache::unbounded(), bytes: 0, refused: 0 };
        Self { contents: Mutex::new(contents), capacity_bytes, admit_one_of: 1 }
    }

    /// A cache for values that are all used in turn, again and again, as a search uses the segments of a memory. Were
    /// each of them let in, a cache a little smaller than all of them would never hold the next one.
    pub(crate) fn for_rounds(capacity_bytes: usize) -> Self {
        Self { admit_one_of: 4, ..Self::new(capacity_bytes) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        lock(&self.contents).values.get(key).map(|(value, _)| Arc::clone(value))
    }

    /// Keeps `value`, which takes `bytes`, unless it alone exceeds the bound.
    pub(crate) fn insert(&self, key: K, value: Arc<V>, bytes: usize) {
        if bytes > self.capacity_bytes {
            return;
        }
        let mut contents = lock(&self.contents);
        if contents.bytes + bytes > self.capacity_bytes {
            contents.refused += 1;
            if contents.refused < self.admit_one_of {
                return;
            }
            contents.refused = 0;
        }
        let mut freed = Vec::new();
        if let Some(old) = contents.values.put(key, (value, bytes)) {
            contents.bytes -= old.1;
            freed.push(old.0);
        }
        contents.bytes += bytes;
        while contents.bytes > self.capacity_bytes {
            let Some((_, (value, bytes))) = contents.values.pop_lru() else { break };
            contents.bytes -= bytes;
            freed.push(value);
        }
        // Large values are freed without the lock.
        drop(contents);
        drop(freed);
    }

    /// Forgets a value that will hardly be asked for again.
    pub(crate) fn remove(&self, key: &K) {
        let mut contents = lock(&self.contents);
        let removed = contents.values.pop(key);
        contents.bytes -= removed.as_ref().map_or(0, |(_, bytes)| *bytes);
        // A large value is freed without the lock.
        drop(contents);
        drop(removed);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.contents).bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_bound_and_drops_the_least_recently_used() {
        let cache = Cache::new(100);
        for key in 0..10 {
            cache.insert(key, Arc::new(key), 30);
            assert!(cache.get(&0).is_some(), "used after each insertion, so never the oldest");
            assert!(cache.bytes() <= 100);
        }
        assert!(cache.get(&9).is_some());
        assert!(cache.get(&5).is_none());
        cache.remove(&9);
        assert!(cache.get(&9).is_none() && cache.bytes() <= 70);
        cache.insert(77, Arc::new(77), 101);
        assert!(cache.get(&77).is_none(), "larger than the bound");
    }

    #[test]
    fn rounds_over_more_than_fits_still_hit() {
        let (plain, rounds) = (Cache::new(1000), Cache::for_rounds(1000));
        let hits = |cache: &Cache<i32, i32>| {
            let mut hits = 0;
            for key in (0..50).flat_map(|_| 0..15) {
                match cache.get(&key) {
                    Some(_) => hits += 1,
                    None => cache.insert(key, Arc::new(key), 100),
                }
            }
            hits
        };
        assert_eq!(hits(&plain), 0);
        assert!(hits(&rounds) > 250, "{} of 750, at best 500", hits(&rounds));
    }
}
