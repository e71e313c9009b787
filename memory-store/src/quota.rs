//! What tenants hold, and whether a commit may add to it.
//!
//! What a tenant holds is counted with each change of one of its memories. Commits of a tenant with a quota take turns from
//! the check to the end of the commit, so that none of two may slip past a quota that has room for one of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::core::{Cell, Core, Names, of_tenant};
use crate::state::Totals;
use crate::sync::lock;
use crate::{Error, MemoryLimits, Quota, Result};

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
    turn: Mutex<()>,
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
    pub(crate) fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let Quota { max_tokens, max_bytes, .. } = self.quota();
        (max_tokens.is_some() || max_bytes.is_some()).then(|| lock(&self.turn))
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

/// Whether anything bounds what a memory may hold.
pub(crate) fn is_bounded(cell: &Cell) -> bool {
    let (limits, quota) = (cell.life.limits(), cell.account.quota());
    [limits.max_tokens, limits.max_bytes, quota.max_tokens, quota.max_bytes].iter().any(Option::is_some)
}

/// Refuses what would not fit a memory that holds `held`, or its tenant.
pub(crate) fn check_quotas(cell: &Cell, held: Held, growth: Growth) -> Result<()> {
    check_memory(&cell.name, &cell.life.limits(), held, growth)?;
    check_tenant(&cell.tenant, &cell.account.quota(), cell.account.held(), growth)
}

/// Refuses what would not fit the limits of a memory that holds `held`.
fn check_memory(name: &str, limits: &MemoryLimits, held: Held, growth: Growth) -> Result<()> {
    let owner = || format!("memory '{name}'");
    let raise = |flag: &str| format!("raise it (mnemon memory update {name} {flag} N)");
    check("tokens", limits.max_tokens, held.tokens, growth.tokens, owner, || {
        format!("delete documents, or {}; then resume", raise("--max-tokens"))
    })?;
    check("bytes", limits.max_bytes, held.bytes, growth.bytes, owner, || {
        format!("delete documents and compact, or {}; then resume", raise("--max-bytes"))
    })
}

/// Refuses what would not fit the quota of a tenant that holds `held` in all its memories.
fn check_tenant(name: &str, quota: &Quota, held: Held, growth: Growth) -> Result<()> {
    let owner = || format!("tenant '{name}'");
    let advice = || {
        "delete documents or memories (bytes: and compact), or ask the operator of the server for more; then resume"
            .to_owned()
    };
    check("tokens", quota.max_tokens, held.tokens, growth.tokens, owner, advice)?;
    check("bytes", quota.max_bytes, held.bytes, growth.bytes, owner, advice)
}

/// Refuses another memory to a tenant that has as many as it may.
pub(crate) fn check_memories(tenant: &str, quota: &Quota, names: &Names) -> Result<()> {
    check(
        "memories",
        quota.max_memories,
        of_tenant(names, tenant, None).count() as u64,
        1,
        || format!("tenant '{tenant}'"),
        || "delete a memory that is no longer needed, or ask the operator of the server for more".into(),
    )
}

/// Refuses a whole memory of a tenant that would not fit its own limits, or the tenant when the one that it replaces is
/// gone.
pub(crate) fn check_import(
    core: &Core,
    names: &Names,
    key: &(String, String),
    limits: &MemoryLimits,
    comes: Held,
) -> Result<()> {
    let (tenant, name) = key;
    let growth = Growth { tokens: comes.tokens, bytes: comes.bytes };
    check_memory(name, limits, Held::default(), growth)?;
    let account = core.accounts.of(tenant);
    let mut held = account.held();
    if let Some(old) = names.get(key) {
        let goes = Held::of(&old.state().totals);
        held.tokens = held.tokens.saturating_sub(goes.tokens);
        held.bytes = held.bytes.saturating_sub(goes.bytes);
    } else {
        check_memories(tenant, &account.quota(), names)?;
    }
    check_tenant(tenant, &account.quota(), held, growth)
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
        assert!(refused.contains("--max-tokens"), "{refused}");
        assert!(check_memory("m", &limits, held(1), adding(u64::MAX)).is_err());
    }

    #[test]
    fn accounts_follow_what_memories_hold() {
        let accounts = Accounts::new(Quota { max_bytes: Some(5), ..Quota::default() });
        accounts.set_quota("anna", Quota::default());
        assert_eq!(accounts.of("bert").quota().max_bytes, Some(5));
        assert!(accounts.of("bert").turn().is_some() && accounts.of("anna").turn().is_none());
        let account = accounts.of("anna");
        account.moved(Held::default(), Held { tokens: 7, bytes: 70 });
        account.moved(Held { tokens: 7, bytes: 70 }, Held { tokens: 3, bytes: 90 });
        assert_eq!(accounts.of("anna").held(), Held { tokens: 3, bytes: 90 });
    }
}
