//! Bearer token to tenant.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::{Request, Status};

use crate::parts::Parts;
use crate::settings::{DEFAULT_TENANT, Tenant as TenantSetting};
use crate::status;

/// Who is calling: the owner of the memories that the call may see. In the extensions of every request that got past
/// [`interceptor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenant(Arc<str>);

impl Tenant {
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// The tokens that are accepted.
pub(crate) struct Credentials {
    /// Tenant by hash of its token. Looking up a hash takes the same time however much of a guess was right, and
    /// memory dumps show no token.
    tenants: HashMap<[u8; 32], Tenant>,
}

impl Credentials {
    pub(crate) fn new(settings: &[TenantSetting]) -> Self {
        let tenants = settings.iter().map(|tenant| (hash(&tenant.token), Tenant(tenant.name.as_str().into())));
        Self { tenants: tenants.collect() }
    }

    /// The tenant of an `authorization` header; everybody is the default tenant when there are no tokens.
    fn identify(&self, authorization: Option<&str>) -> Result<Tenant, Status> {
        if self.tenants.is_empty() {
            return Ok(Tenant(DEFAULT_TENANT.into()));
        }
        let header = authorization.ok_or_else(|| {
            status::unauthenticated("a token is needed: send it as 'authorization: Bearer TOKEN' (--token)")
        })?;
        let token = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| status::unauthenticated("the authorization header is not of the form 'Bearer TOKEN'"))?;
        self.tenants
            .get(&hash(token))
            .cloned()
            .ok_or_else(|| status::unauthenticated("the token is not known; ask the operator of the server"))
    }
}

fn hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// Puts the [`Tenant`] into each request, or refuses it; refuses all of them once the server is closing.
pub(crate) fn interceptor(parts: Arc<Parts>) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |mut request| {
        let header = request.metadata().get("authorization").map(|value| value.to_str().unwrap_or_default());
        let tenant = parts.credentials.identify(header)?;
        tracing::Span::current().record("tenant", tenant.name());
        if parts.life.closing.is_cancelled() {
            return Err(status::shutting_down());
        }
        request.extensions_mut().insert(tenant);
        Ok(request)
    }
}

/// The caller of a request that went through [`interceptor`].
pub(crate) fn tenant<T>(request: &Request<T>) -> Result<Tenant, Status> {
    request.extensions().get().cloned().ok_or_else(|| status::unauthenticated("the caller was not identified"))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn tokens_are_tenants() {
        let tenant = |name: &str, token: &str| TenantSetting {
            name: name.into(),
            token: token.into(),
            ..TenantSetting::default()
        };
        let open = Credentials::new(&[]);
        assert_eq!(open.identify(None).unwrap().name(), DEFAULT_TENANT);
        let closed = Credentials::new(&[tenant("anna", "aaaaaaaaaaaaaaaa"), tenant("bert", "bbbbbbbbbbbbbbbb")]);
        assert_eq!(closed.identify(Some("Bearer bbbbbbbbbbbbbbbb")).unwrap().name(), "bert");
        assert_eq!(closed.identify(Some("bearer aaaaaaaaaaaaaaaa")).unwrap().name(), "anna");
        for wrong in [None, Some(""), Some("Bearer"), Some("Basic aaaaaaaaaaaaaaaa"), Some("Bearer aaaaaaaaaaaaaaab")] {
            assert_eq!(closed.identify(wrong).unwrap_err().code(), Code::Unauthenticated, "{wrong:?}");
        }
    }
}
