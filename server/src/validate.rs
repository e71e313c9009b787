//! The contract's limits, as field violations.

/// Whether `name` can be a memory or a tenant: 1 to 128 letters, digits, '.', '_' or '-'.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
