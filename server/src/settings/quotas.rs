//! What tenants may hold: `[[tenants]]` for one of them, `[limits]` for each of the others.

use std::collections::BTreeMap;

use mnemon_memory_store::Quota;

use super::{Settings, Tenant};
use crate::error::{Error, Result};

impl Settings {
    /// What a tenant may hold that has no numbers of its own.
    pub(crate) fn default_quota(&self) -> Quota {
        // As large as a number can be: no limit.
        let limit = |number: u64| Some(number).filter(|number| *number < u64::MAX);
        Quota {
            max_memories: limit(self.limits.tenant_memories),
            max_tokens: limit(self.limits.tenant_tokens),
            max_bytes: limit(self.limits.tenant_bytes),
        }
    }

    /// What each of the configured tenants may hold. Several tokens may name one tenant: what one of them says holds for
    /// all.
    pub(crate) fn quotas(&self) -> BTreeMap<&str, Quota> {
        let default = self.default_quota();
        let mut quotas = BTreeMap::new();
        for tenant in &self.tenants {
            let quota = quotas.entry(tenant.name.as_str()).or_insert(default);
            quota.max_memories = tenant.max_memories.or(quota.max_memories);
            quota.max_tokens = tenant.max_tokens.or(quota.max_tokens);
            quota.max_bytes = tenant.max_bytes.or(quota.max_bytes);
        }
        quotas
    }

    /// Refuses 0, and two numbers for one thing.
    pub(super) fn validate_quotas(&self) -> Result<()> {
        type Field = fn(&Tenant) -> Option<u64>;
        let fields: [(&str, Field); 3] = [
            ("max_memories", |tenant| tenant.max_memories),
            ("max_tokens", |tenant| tenant.max_tokens),
            ("max_bytes", |tenant| tenant.max_bytes),
        ];
        for (field, of) in fields {
            let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
            for tenant in &self.tenants {
                let Some(number) = of(tenant) else { continue };
                let what = format!("{field} of tenant '{}'", tenant.name);
                if number == 0 {
                    return Err(Error::Settings {
                        what,
                        why: "0; at least 1 is needed, or nothing for no limit".into(),
                    });
                }
                if *seen.entry(&tenant.name).or_insert(number) != number {
                    return Err(Error::Settings { what, why: "it is given twice, with different numbers".into() });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::PartialSettings;
    use super::*;

    fn parsed(text: &str) -> Result<Settings> {
        PartialSettings::from_toml(text, "test.toml".as_ref()).and_then(PartialSettings::resolve)
    }

    const TENANTS: &str = "
        [limits]
        tenant_tokens = 1000
        [[tenants]]
        name = 'anna'
        token = '0123456789abcdef'
        max_memories = 3
        max_tokens = 5
        [[tenants]]
        name = 'anna'
        token = '0123456789abcdeg'
        max_bytes = 7
        [[tenants]]
        name = 'bert'
        token = '0123456789abcdeh'";

    #[test]
    fn tenants_have_numbers_of_their_own_or_the_common_ones() {
        assert_eq!(parsed("").unwrap().default_quota(), Quota::default());
        let settings = parsed(TENANTS).unwrap();
        let app = Quota { max_tokens: Some(1000), ..Quota::default() };
        assert_eq!(settings.default_quota(), app);
        let anna = Quota { max_memories: Some(3), max_tokens: Some(5), max_bytes: Some(7) };
        assert_eq!(settings.quotas(), BTreeMap::from([("anna", anna), ("bert", app)]));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            (TENANTS.replace("max_bytes = 7", "max_tokens = 6"), "max_tokens of tenant 'anna'"),
            (TENANTS.replace("max_bytes = 7", "max_bytes = 0"), "max_bytes of tenant 'anna'"),
            (TENANTS.replace("max_bytes = 7", "max_bites = 7"), "max_bites"),
            (TENANTS.replace("tenant_tokens = 1000", "tenant_tokens = 0"), "tenant_tokens"),
        ] {
            let refused = parsed(&text).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
