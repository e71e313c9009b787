//! What tenants hold, and whether a commit may add to it.
//!
//! What a tenant holds is counted with each change of one of its memories. Commits of a tenant with a quota take turns from
//! the check to the end of the commit, so that two concurrent commits cannot both pass a quota that has room for one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::engine::state::Totals;
use crate::error::{Error, Result};
use crate::sync::lock;
use crate::types::limits::{MemoryLimits, Quota};

/// What a quota counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
}

impl Held {
    pub(crate) fn of(totals: &Totals) -> Self {
        Self { tokens: totals.tokens, bytes: totals.bytes() }
    }
}

/// What a commit adds. What adds nothing is always accepted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Growth {
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
}

/// One tenant.
#[derive(Debug, Default)]
pub(crate) struct Account {
    quota: Mutex<Quota>,
    held: Mutex<Held>,
    commit_lock: Mutex<()>,
}

impl Account {
    pub(crate) fn quota(&self) -> Quota {
        *lock(&self.quota)
    }

    /// What all its memories hold.
    pub(crate) fn held(&self) -> Held {
        *lock(&self.held)
    }

    /// One of its memories changed.
    pub(crate) fn moved(&self, old: Held, new: Held) {
        let mut held = lock(&self.held);
        held.tokens = (held.tokens + new.tokens).saturating_sub(old.tokens);
        held.bytes = (held.bytes + new.bytes).saturating_sub(old.bytes);
    }

    /// Held from the check of a quota to the end of what it allowed; `None` when there is nothing to check.
    pub(crate) fn commit_lock(&self) -> Option<MutexGuard<'_, ()>> {
        let Quota { max_tokens, max_bytes, .. } = self.quota();
        (max_tokens.is_some() || max_bytes.is_some()).then(|| lock(&self.commit_lock))
    }
}

/// All tenants that have a memory or a quota of their own.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// Quota of tenants that were given none.
    default: Quota,
    by_tenant: Mutex<HashMap<String, Arc<Account>>>,
}

impl Accounts {
    pub(crate) fn new(default: Quota) -> Self {
        Self { default, by_tenant: Mutex::default() }
    }

    pub(crate) fn of(&self, tenant: &str) -> Arc<Account> {
        let mut by_tenant = lock(&self.by_tenant);
        if let Some(account) = by_tenant.get(tenant) {
            return Arc::clone(account);
        }
        let account = Arc::new(Account { quota: Mutex::new(self.default), ..Account::default() });
        by_tenant.insert(tenant.to_owned(), Arc::clone(&account));
        account
    }

    pub(crate) fn set_quota(&self, tenant: &str, quota: Quota) {
        *lock(&self.of(tenant).quota) = quota;
    }
}

/// Refuses what would not fit the limits of a memory that holds `held`.
pub(crate) fn check_memory(name: &str, limits: &MemoryLimits, held: Held, growth: Growth) -> Result<()> {
    let owner = || format!("memory '{name}'");
    check("tokens", limits.max_tokens, held.tokens, growth.tokens, owner, || {
        "delete documents, or raise max_tokens of the memory; then resume".into()
    })?;
    check("bytes", limits.max_bytes, held.bytes, growth.bytes, owner, || {
        "delete documents and compact, or raise max_bytes of the memory; then resume".into()
    })
}

/// Refuses what would not fit the quota of a tenant that holds `held` in all its memories.
pub(crate) fn check_tenant(name: &str, quota: &Quota, held: Held, growth: Growth) -> Result<()> {
    let owner = || format!("tenant '{name}'");
    let advice = || {
        "delete documents or memories (bytes: and compact), or ask the operator of the server for more; then resume"
            .to_owned()
    };
    check("tokens", quota.max_tokens, held.tokens, growth.tokens, owner, advice)?;
    check("bytes", quota.max_bytes, held.bytes, growth.bytes, owner, advice)
}

/// Refuses a whole memory that would not fit its own limits, or its tenant once the one that it replaces, which holds `replaced`, is
/// deleted.
pub(crate) fn check_import(
    (tenant, name): (&str, &str),
    account: &Account,
    limits: &MemoryLimits,
    imported: Held,
    replaced: Held,
) -> Result<()> {
    let growth = Growth { tokens: imported.tokens, bytes: imported.bytes };
    check_memory(name, limits, Held::default(), growth)?;
    let mut held = account.held();
    held.tokens = held.tokens.saturating_sub(replaced.tokens);
    held.bytes = held.bytes.saturating_sub(replaced.bytes);
    check_tenant(tenant, &account.quota(), held, growth)
}

/// Refuses another memory to a tenant that has `held` of them.
pub(crate) fn check_memories(tenant: &str, quota: &Quota, held: u64) -> Result<()> {
    check(
        "memories",
        quota.max_memories,
        held,
        1,
        || format!("tenant '{tenant}'"),
        || "delete a memory that is no longer needed, or ask the operator of the server for more".into(),
    )
}

fn check(
    what: &'static str,
    limit: Option<u64>,
    held: u64,
    growth: u64,
    owner: impl FnOnce() -> String,
    advice: impl FnOnce() -> String,
) -> Result<()> {
    let Some(limit) = limit.filter(|limit| growth > 0 && held.saturating_add(growth) > *limit) else { return Ok(()) };
    Err(Error::Quota { owner: owner(), what, limit, held, growth, advice: advice() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_adds_nothing_is_accepted() {
        let limits = MemoryLimits { max_tokens: Some(10), ..MemoryLimits::default() };
        let held = |tokens| Held { tokens, bytes: 0 };
        let adding = |tokens| Growth { tokens, bytes: 1 << 40 };
        assert!(check_memory("m", &limits, held(9), adding(1)).is_ok());
        assert!(check_memory("m", &limits, held(11), adding(0)).is_ok());
        let refused = check_memory("m", &limits, held(10), adding(1));
        let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("memory 'm'") && refused.contains("at most 10 tokens"), "{refused}");
        assert!(refused.contains("max_tokens"), "{refused}");
        assert!(check_memory("m", &limits, held(1), adding(u64::MAX)).is_err());
    }

    #[test]
    fn accounts_follow_what_memories_hold() {
        let accounts = Accounts::new(Quota { max_bytes: Some(5), ..Quota::default() });
        accounts.set_quota("anna", Quota::default());
        assert_eq!(accounts.of("bert").quota().max_bytes, Some(5));
        assert!(accounts.of("bert").commit_lock().is_some() && accounts.of("anna").commit_lock().is_none());
        let account = accounts.of("anna");
        account.moved(Held::default(), Held { tokens: 7, bytes: 70 });
        account.moved(Held { tokens: 7, bytes: 70 }, Held { tokens: 3, bytes: 90 });
        assert_eq!(accounts.of("anna").held(), Held { tokens: 3, bytes: 90 });
    }
}
