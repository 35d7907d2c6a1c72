// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a certificate says of itself, for people. Nothing here is trusted for anything.

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::error::Error;

/// What is shown of a leaf.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) serial: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) dns_names: Vec<String>,
}

/// The first certificate of a chain.
pub(super) fn shown(chain: &[u8]) -> Result<Shown, Error> {
    let (_, leaf) = x509_parser::parse_x509_certificate(chain).map_err(|_| Error::Certificate)?;
    let moment =
        |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).map_err(|_| Error::Certificate);
    let digits: Vec<u8> = leaf.raw_serial().iter().copied().skip_while(|byte| *byte == 0).collect();
    Ok(Shown {
        serial: digits.iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: moment(leaf.validity().not_before)?,
        not_after: moment(leaf.validity().not_after)?,
        dns_names: dns_names(&leaf),
    })
}

fn dns_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// Certificates that stand one after the other, as PEM.
pub(super) fn pem(mut chain: &[u8]) -> Result<String, Error> {
    let mut text = String::new();
    while !chain.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(chain).map_err(|_| Error::Certificate)?;
        let length = chain.len().saturating_sub(rest.len());
        let one = chain.get(..length).unwrap_or_default();
        text.push_str(&encode("CERTIFICATE", one));
        chain = rest;
    }
    Ok(text)
}

/// One document as PEM.
pub(super) fn encode(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&pem::Pem::new(tag, der), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_an_error_and_not_a_panic() {
        for chain in [&b""[..], b"\x30", b"\x30\x03\x02\x01\x01", &[0xff; 64]] {
            assert!(matches!(shown(chain), Err(Error::Certificate)), "{chain:?}");
        }
        assert_eq!(pem(b"").unwrap(), "");
        assert!(matches!(pem(b"\x30\x03\x02\x01\x01"), Err(Error::Certificate)));
    }
}
