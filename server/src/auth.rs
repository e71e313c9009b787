//! Bearer token to tenant.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::settings::{DEFAULT_TENANT, Tenant as TenantSetting};
use crate::status;

/// Who is calling: the owner of the memories that the call may see. In the extensions of every request that got past
/// [`interceptor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenant(Arc<str>);

/// Header that names the tenant for whom a call is made, where that is not the caller.
const ON_BEHALF_OF: &str = "mnemon-tenant";

impl Tenant {
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// The tokens that are accepted.
pub(crate) struct Credentials {
    /// Tenant by hash of its token. Looking up a hash takes the same time however much of a guess was right, and
    /// memory dumps show no token.
    tenants: HashMap<[u8; 32], (Tenant, Delegate)>,
}

/// Whether a caller may call on behalf of other tenants.
type Delegate = bool;

impl Credentials {
    pub(crate) fn new(settings: &[TenantSetting]) -> Self {
        let tenants =
            settings.iter().map(|tenant| (hash(&tenant.token), (Tenant(tenant.name.as_str().into()), tenant.delegate)));
        Self { tenants: tenants.collect() }
    }

    /// The tenant of an `authorization` header; everybody is the default tenant when there are no tokens.
    fn identify(&self, authorization: Option<&str>, on_behalf_of: Option<&str>) -> Result<Tenant, Status> {
        let (caller, may_delegate) = self.caller(authorization)?;
        match on_behalf_of {
            None => Ok(caller),
            Some(name) if name == caller.name() => Ok(caller),
            Some(name) if may_delegate && crate::validate::is_name(name) => Ok(Tenant(name.into())),
            Some(_) => Err(status::with_reason(
                Code::PermissionDenied,
                format!("tenant '{}' may not call on behalf of others; its operator can allow it (delegate)", caller.0),
                "NO_DELEGATE",
            )),
        }
    }

    fn caller(&self, authorization: Option<&str>) -> Result<(Tenant, Delegate), Status> {
        if self.tenants.is_empty() {
            return Ok((Tenant(DEFAULT_TENANT.into()), true));
        }
        let header = authorization
            .ok_or_else(|| status::unauthenticated("a token is needed: send it as 'authorization: Bearer TOKEN'"))?;
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

/// Puts the [`Tenant`] into each request, or refuses it; refuses all of them once the server is `closing`.
pub(crate) fn interceptor(
    credentials: Arc<Credentials>,
    closing: CancellationToken,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |mut request| {
        let header = request.metadata().get("authorization").map(|value| value.to_str().unwrap_or_default());
        let on_behalf_of = request.metadata().get(ON_BEHALF_OF).map(|value| value.to_str().unwrap_or_default());
        let tenant = credentials.identify(header, on_behalf_of)?;
        tracing::Span::current().record("tenant", tenant.name());
        if closing.is_cancelled() {
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
    use super::*;

    #[test]
    fn tokens_are_tenants() {
        let tenant = |name: &str, token: &str, delegate| TenantSetting {
            name: name.into(),
            token: token.into(),
            delegate,
            ..TenantSetting::default()
        };
        let open = Credentials::new(&[]);
        assert_eq!(open.identify(None, None).unwrap().name(), DEFAULT_TENANT);
        assert_eq!(open.identify(None, Some("anna")).unwrap().name(), "anna", "there is nothing to protect");
        let closed =
            Credentials::new(&[tenant("anna", "aaaaaaaaaaaaaaaa", false), tenant("front", "bbbbbbbbbbbbbbbb", true)]);
        let (anna, front) = (Some("bearer aaaaaaaaaaaaaaaa"), Some("Bearer bbbbbbbbbbbbbbbb"));
        assert_eq!(closed.identify(anna, None).unwrap().name(), "anna");
        assert_eq!(closed.identify(anna, Some("anna")).unwrap().name(), "anna");
        assert_eq!(closed.identify(anna, Some("front")).unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(closed.identify(front, Some("anna")).unwrap().name(), "anna");
        assert_eq!(closed.identify(front, Some("a/b")).unwrap_err().code(), Code::PermissionDenied);
        for wrong in [None, Some(""), Some("Bearer"), Some("Basic aaaaaaaaaaaaaaaa"), Some("Bearer aaaaaaaaaaaaaaab")] {
            assert_eq!(closed.identify(wrong, Some("anna")).unwrap_err().code(), Code::Unauthenticated, "{wrong:?}");
        }
    }
}
