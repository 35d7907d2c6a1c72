// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;
use std::str::FromStr;

use crate::hex::hex;

/// A trace and a span in it, as <https://www.w3.org/TR/trace-context/#traceparent-header> writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

/// Not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent: 00-, 32 hexadecimal digits, -, 16 of them, -, 2 of them, and no id of zeros")]
pub struct NoTraceContext;

impl TraceContext {
    /// The trace, in hexadecimal digits.
    pub fn trace_id(&self) -> String {
        hex(&self.trace_id)
    }

    /// The span.
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }
}

impl FromStr for TraceContext {
    type Err = NoTraceContext;

    fn from_str(text: &str) -> Result<Self, NoTraceContext> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next(), parts.next(), parts.next().ok_or(NoTraceContext)?, parts.next().ok_or(NoTraceContext)?);
        let version: [u8; 1] = unhex(version.unwrap_or_default()).ok_or(NoTraceContext)?;
        let _flags: [u8; 1] = unhex(flags).ok_or(NoTraceContext)?;
        // A later version may have more behind the flags; the first has not, and 255 is none.
        if version == [255] || (version == [0] && parts.next().is_some()) {
            return Err(NoTraceContext);
        }
        let trace_id: [u8; 16] = unhex(trace.unwrap_or_default()).ok_or(NoTraceContext)?;
        let span_id = parse_span_id(span).ok_or(NoTraceContext)?;
        if trace_id == [0; 16] { Err(NoTraceContext) } else { Ok(Self { trace_id, span_id }) }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.trace_id(), hex(&self.span_id))
    }
}

/// From 16 hexadecimal digits that are not all zero.
pub(crate) fn parse_span_id(text: &str) -> Option<[u8; 8]> {
    unhex(text).filter(|id| *id != [0; 8])
}

/// Small letters only, as the specification has it.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut digits = text.bytes().map(|byte| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    });
    let mut bytes = [0; N];
    for byte in &mut bytes {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    digits.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_its_specification_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: TraceContext = good.parse().unwrap();
        assert_eq!(context.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7");
        assert!(
            good.replace("00-4b", "01-4b").replace("-01", "-01-more").parse::<TraceContext>().is_ok(),
            "a later one"
        );
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47366-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad}");
        }
    }
}
