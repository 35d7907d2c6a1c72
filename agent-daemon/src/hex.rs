// SPDX-License-Identifier: Apache-2.0 OR MIT

/// Two small digits for each byte. Digit by digit: formatting each byte would make a text of its own of each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}
