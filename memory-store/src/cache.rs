//! A cache bounded by bytes.

use std::hash::Hash;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use crate::sync::lock;

/// Least recently used values go first. What is in use outside of the cache does not count.
pub(crate) struct Cache<K: Hash + Eq, V> {
    contents: Mutex<Contents<K, V>>,
    capacity_bytes: usize,
}

struct Contents<K: Hash + Eq, V> {
    values: LruCache<K, (Arc<V>, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        Self { contents: Mutex::new(Contents { values: LruCache::unbounded(), bytes: 0 }), capacity_bytes }
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
        cache.insert(77, Arc::new(77), 101);
        assert!(cache.get(&77).is_none(), "larger than the bound");
    }
}
