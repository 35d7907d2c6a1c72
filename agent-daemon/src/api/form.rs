// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Forms (`application/x-www-form-urlencoded`), as the OAuth endpoints take them.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use zeroize::Zeroizing;

const BODY_BYTES: usize = 16 * 1024;
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// A form as it came.
pub(super) struct Form(Bytes);

/// A name that is there more than once, which RFC 6749 forbids.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repeated;

/// What is wrong with a request.
#[derive(Debug)]
pub(super) struct Unread(pub(super) StatusCode, pub(super) &'static str);

impl Form {
    /// Reads it.
    pub(super) async fn read<B>(request: Request<B>) -> Result<Self, Unread>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let is_form = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| {
            kind.as_bytes().split(|byte| *byte == b';').next() == Some(b"application/x-www-form-urlencoded".as_slice())
        });
        if !is_form {
            return Err(Unread(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/x-www-form-urlencoded"));
        }
        let body = Limited::new(request.into_body(), BODY_BYTES).collect();
        match tokio::time::timeout(REQUEST_TIME, body).await {
            Ok(Ok(body)) => Ok(Self(body.to_bytes())),
            Ok(Err(_)) => Err(Unread(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large or broke off")),
            Err(_) => Err(Unread(StatusCode::REQUEST_TIMEOUT, "the request took too long")),
        }
    }

    /// One of these bytes.
    #[cfg(test)]
    pub(super) fn from(body: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(body))
    }

    /// The only value of a name; an empty one is as good as none.
    pub(super) fn value(&self, name: &str) -> Result<Option<Zeroizing<String>>, Repeated> {
        let mut values = self.values(name);
        let value = values.next();
        if values.next().is_some() { Err(Repeated) } else { Ok(value.filter(|value| !value.is_empty())) }
    }

    /// All values of a name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = Zeroizing<String>> {
        let pairs = form_urlencoded::parse(&self.0).filter(move |(key, _)| key == name);
        pairs.map(|(_, value)| Zeroizing::new(value.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_gives_one_value_or_none() {
        for (body, expected) in [
            (&b"token=abc"[..], Ok(Some("abc"))),
            (b"token_type_hint=access_token&token=a.b-c_d", Ok(Some("a.b-c_d"))),
            (b"token=https%3A%2F%2Fa+b", Ok(Some("https://a b"))),
            (b"token=a&token=b", Err(Repeated)),
            (b"token=a&token=", Err(Repeated)),
            (b"token=", Ok(None)),
            (b"tok=a", Ok(None)),
            (b"\xff\xfe", Ok(None)),
            (b"", Ok(None)),
        ] {
            let form = Form(Bytes::from_static(body));
            let value = form.value("token");
            assert_eq!(
                value.as_ref().map(|value| value.as_ref().map(|value| value.as_str())),
                expected.as_ref().copied()
            );
        }
    }
}
