// SPDX-License-Identifier: Apache-2.0 OR MIT

use tonic::{Request, Status};

use crate::audit::Caller;

/// The process at the other end of the admin socket, as the kernel named it at accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// User id at connect.
    pub uid: u32,
    /// Group id at connect.
    pub gid: u32,
    /// Thread group id; for people only.
    pub tgid: Option<u32>,
    /// Its exec instance, if there is a record of it.
    pub exec_id: Option<u64>,
}

impl Operator {
    /// Who sent a request. The accept loop says so; a request that did not come through it is refused.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let named = request.extensions().get::<Self>().copied();
        named.ok_or_else(|| Status::unauthenticated("the caller's process is not known"))
    }
}

impl From<Operator> for Caller {
    fn from(operator: Operator) -> Self {
        Self { uid: operator.uid, gid: operator.gid, tgid: operator.tgid, exec_id: operator.exec_id, path: None }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_request_without_a_known_sender_is_refused() {
        let mut request = Request::new(());
        assert_eq!(Operator::of(&request).unwrap_err().code(), Code::Unauthenticated);
        let operator = Operator { uid: 0, gid: 0, tgid: Some(5), exec_id: None };
        request.extensions_mut().insert(operator);
        assert_eq!(Operator::of(&request).unwrap(), operator);
    }
}
