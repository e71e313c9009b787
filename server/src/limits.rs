//! Times to live and quotas: the contract's words to the store's.
//!
//! On the wire 0 is no limit, so that an update can take one away; what is absent is left as it is.

use mnemon_memory_store::{MAX_TTL_MS, MemoryLimits};
use mnemon_proto::v1;
use prost_types::Duration;

/// A time to live in milliseconds; `None` when it is negative, longer than a hundred years, or not of whole milliseconds.
pub(crate) fn ttl_ms(duration: &Duration) -> Option<u64> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    if nanos % 1_000_000 != 0 {
        return None;
    }
    let ms = seconds.checked_mul(1000)?.checked_add(u64::from(nanos / 1_000_000))?;
    (ms <= MAX_TTL_MS).then_some(ms)
}

/// A time to live for the wire.
pub(crate) fn duration(ttl_ms: u64) -> Duration {
    Duration { seconds: (ttl_ms / 1000) as i64, nanos: (ttl_ms % 1000) as i32 * 1_000_000 }
}

/// A new time to live; `None` takes it away.
pub(crate) fn new_ttl(ttl: &Duration) -> Option<u64> {
    ttl_ms(ttl).and_then(limit)
}

/// The limits of a new memory.
pub(crate) fn limits(request: &v1::CreateMemoryRequest) -> MemoryLimits {
    MemoryLimits {
        ttl_ms: request.ttl.as_ref().and_then(new_ttl),
        document_ttl_ms: request.document_ttl.as_ref().and_then(new_ttl),
        max_tokens: request.max_tokens.and_then(limit),
        max_bytes: request.max_bytes.and_then(limit),
    }
}

/// Changes limits as a request says.
pub(crate) fn update(limits: &mut MemoryLimits, request: &v1::UpdateMemoryRequest) {
    let changes = [
        (&mut limits.ttl_ms, request.ttl.as_ref().map(new_ttl)),
        (&mut limits.document_ttl_ms, request.document_ttl.as_ref().map(new_ttl)),
        (&mut limits.max_tokens, request.max_tokens.map(limit)),
        (&mut limits.max_bytes, request.max_bytes.map(limit)),
    ];
    for (held, change) in changes {
        if let Some(change) = change {
            *held = change;
        }
    }
}

fn limit(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_milliseconds_up_to_a_hundred_years() {
        let ms = |seconds: i64, nanos: i32| ttl_ms(&Duration { seconds, nanos });
        assert_eq!([ms(0, 0), ms(1, 5_000_000), ms(90, 0)], [Some(0), Some(1005), Some(90_000)]);
        assert_eq!(ms((MAX_TTL_MS / 1000) as i64, 0), Some(MAX_TTL_MS));
        for (seconds, nanos) in
            [(-1, 0), (0, -1_000_000), (0, 1), (0, 1_000_000_000), (i64::MAX, 0), (3_155_760_000, 1_000_000)]
        {
            assert_eq!(ms(seconds, nanos), None, "{seconds} {nanos}");
        }
        assert_eq!(ttl_ms(&duration(1_234_567)), Some(1_234_567));
    }

    #[test]
    fn absent_keeps_and_zero_removes() {
        let mut limits = MemoryLimits { ttl_ms: Some(5), max_tokens: Some(7), ..MemoryLimits::default() };
        let request = v1::UpdateMemoryRequest { max_tokens: Some(0), max_bytes: Some(9), ..Default::default() };
        update(&mut limits, &request);
        assert_eq!(limits, MemoryLimits { ttl_ms: Some(5), max_bytes: Some(9), ..MemoryLimits::default() });
    }
}
