// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a value in the configuration file may be. A value that was read fits its bounds; nothing checks again.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::identity::{SpiffeId, TrustDomain};
use crate::step::{MAX_PATTERN_BYTES, Pattern};

/// `PATH_MAX` of Linux, with its terminator.
const MAX_PATH_BYTES: usize = 4096;
const MAX_ISSUER_BYTES: usize = 256;
const MAX_WORD_BYTES: usize = 256;

/// Something that can stand behind a key.
pub(super) trait Setting: Sized {
    /// What it looks like, after "has to be".
    fn expected() -> String;
    /// Reads it, or says at which offsets something else stands.
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>>;
    /// As TOML; none when it is not set.
    fn write(&self) -> Option<String>;
}

/// A value that is not a list is wrong as a whole.
pub(super) fn whole<T>(
    value: &Spanned<DeValue<'_>>,
    read: impl FnOnce(&DeValue<'_>) -> Option<T>,
) -> Result<T, Vec<usize>> {
    read(value.get_ref()).ok_or_else(|| vec![value.span().start])
}

/// A string of TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        T::expected()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        T::read(value).map(Some)
    }

    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| value.as_bool())
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let digits = value.as_integer()?;
    u64::from_str_radix(digits.as_str(), digits.radix()).ok()
}

/// A whole number with both bounds included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    pub(super) fn u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    pub(super) fn usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Setting for Count<MIN, MAX> {
    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| integer(value).filter(|number| (MIN..=MAX).contains(number)).map(Self))
    }

    fn write(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// Bytes of a buffer that the kernel wants as a power of two of whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BufferBytes(pub(super) u32);

impl BufferBytes {
    // The largest page of any supported machine, so that a file that loads here loads everywhere.
    const MIN: u32 = 64 * 1024;
    const MAX: u32 = 1024 * 1024 * 1024;
}

impl Setting for BufferBytes {
    fn expected() -> String {
        format!("a power of two from {} to {}", Self::MIN, Self::MAX)
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| {
            let bytes = u32::try_from(integer(value)?).ok()?;
            (bytes.is_power_of_two() && (Self::MIN..=Self::MAX).contains(&bytes)).then_some(Self(bytes))
        })
    }

    fn write(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// Units of a duration in microseconds, longest first.
const UNITS: [(&str, u64); 5] = [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// A duration with both bounds included, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Period<MIN, MAX> {
    pub(super) const fn of_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub(super) fn duration(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Setting for Period<MIN, MAX> {
    fn expected() -> String {
        let (min, max) = (write_period(MIN), write_period(MAX));
        format!("a duration from {min} to {max}, written as a whole number with us, ms, s, m or h")
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| {
            value.as_str().and_then(read_period).filter(|micros| (MIN..=MAX).contains(micros)).map(Self)
        })
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&write_period(self.0)))
    }
}

fn read_period(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.find(|character: char| !character.is_ascii_digit())?)?;
    let (_, micros) = UNITS.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*micros)
}

fn write_period(micros: u64) -> String {
    let fits = UNITS.iter().find(|(_, unit)| micros >= *unit && micros.is_multiple_of(*unit));
    let (name, unit) = fits.unwrap_or(&("us", 1));
    format!("{}{name}", micros / unit)
}

/// A path as it was written. `..` may only lead out of the configuration's folder, at the start: further in it
/// would mean something else behind a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilePath(pub(super) PathBuf);

impl FilePath {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() < MAX_PATH_BYTES && !text.chars().any(char::is_control);
        let mut named = false;
        let ups_lead = Path::new(text).components().all(|component| match component {
            Component::ParentDir => !named,
            Component::CurDir => true,
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => {
                named = true;
                true
            }
        });
        (fits && ups_lead).then(|| Self(text.into()))
    }

    /// Absolute, without `.` and `..`.
    pub(super) fn below(&self, base: &Path) -> PathBuf {
        let mut resolved = base.to_owned();
        for component in self.0.components() {
            match component {
                Component::Prefix(_) | Component::CurDir => {}
                Component::RootDir => resolved = PathBuf::from("/"),
                Component::ParentDir => {
                    resolved.pop();
                }
                Component::Normal(name) => resolved.push(name),
            }
        }
        resolved
    }
}

impl Setting for FilePath {
    fn expected() -> String {
        "a path, absolute or from the folder of this file, with .. only at its start".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| value.as_str().and_then(Self::parse))
    }

    fn write(&self) -> Option<String> {
        self.0.to_str().map(quoted)
    }
}

/// Something of which a key takes several.
pub(super) trait Item: Setting {
    /// How many.
    const MAX: usize;
    /// What they are, after "a list of at most so many".
    fn expected_all() -> String;
}

impl Item for FilePath {
    const MAX: usize = 64;

    fn expected_all() -> String {
        "paths, each absolute or from the folder of this file".to_owned()
    }
}

impl<T: Item> Setting for Vec<T> {
    fn expected() -> String {
        format!("a list of at most {} {}", T::MAX, T::expected_all())
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        let items = value.get_ref().as_array().filter(|items| items.len() <= T::MAX);
        let items = items.ok_or_else(|| vec![value.span().start])?;
        let mut all = Self::with_capacity(items.len());
        let mut wrong = Vec::new();
        for item in items.iter() {
            match T::read(item) {
                Ok(item) => all.push(item),
                Err(at) => wrong.extend(at),
            }
        }
        if wrong.is_empty() { Ok(all) } else { Err(wrong) }
    }

    fn write(&self) -> Option<String> {
        let mut list = String::from("[");
        for (place, item) in self.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            // Writing to a string does not fail.
            write!(list, "{comma}{}", item.write()?).ok()?;
        }
        list.push(']');
        Some(list)
    }
}

/// What is taken out of the content of steps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Redact(pub(super) Pattern);

impl Setting for Redact {
    fn expected() -> String {
        format!("a regular expression of at most {MAX_PATTERN_BYTES} bytes that does not fit the empty text")
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| value.as_str().and_then(Pattern::parse).map(Self))
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.0.as_str()))
    }
}

impl Item for Redact {
    const MAX: usize = 32;

    fn expected_all() -> String {
        format!("regular expressions, each of at most {MAX_PATTERN_BYTES} bytes and not fitting the empty text")
    }
}

/// Who may connect to a socket: read and write bits, the owner's always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketMode(pub(super) u32);

impl Setting for SocketMode {
    fn expected() -> String {
        "the octal mode of a socket in quotes, between \"0600\" and \"0666\", without execute bits".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| {
            let text = value.as_str().filter(|text| (3..=4).contains(&text.len()) && !text.starts_with('+'))?;
            let mode = u32::from_str_radix(text, 8).ok()?;
            (mode & !0o666 == 0 && mode & 0o600 == 0o600).then_some(Self(mode))
        })
    }

    fn write(&self) -> Option<String> {
        Some(format!("\"{:04o}\"", self.0))
    }
}

impl Setting for TrustDomain {
    fn expected() -> String {
        "a trust domain: at most 255 lower-case letters, digits, '.', '-' and '_', without spiffe://".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| value.as_str()?.parse().ok())
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

/// The `iss` of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issuer(pub(super) String);

impl Setting for Issuer {
    fn expected() -> String {
        format!("a URI such as \"https://issuer.example.org\", of at most {MAX_ISSUER_BYTES} bytes and without blanks")
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| {
            let text = value.as_str().filter(|text| text.len() <= MAX_ISSUER_BYTES)?;
            let (scheme, rest) = text.split_once("://")?;
            let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let is_plain = !rest.is_empty() && rest.chars().all(|c| !c.is_control() && !c.is_whitespace());
            (is_scheme && is_plain).then(|| Self(text.to_owned()))
        })
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.0))
    }
}

/// A name or a path of names, as they stand in an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word(pub(super) String);

impl Word {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Setting for Word {
    fn expected() -> String {
        format!(
            "at most {MAX_WORD_BYTES} letters, digits, '.', '_', '-' and '/', with no empty part and none of periods"
        )
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| {
            let text = value.as_str().filter(|text| text.len() <= MAX_WORD_BYTES)?;
            let is_plain = |part: &str| {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
                part.bytes().all(plain) && part.bytes().any(|byte| byte != b'.')
            };
            text.split('/').all(is_plain).then(|| Self(text.to_owned()))
        })
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.0))
    }
}

impl Setting for SpiffeId {
    fn expected() -> String {
        "a SPIFFE ID such as \"spiffe://example.org/node\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| value.as_str()?.parse().ok())
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, expected) in [
            ("500us", Some(500)),
            ("5ms", Some(5_000)),
            ("10s", Some(10_000_000)),
            ("5m", Some(300_000_000)),
            ("1h", Some(3_600_000_000)),
            ("0s", Some(0)),
            ("", None),
            ("s", None),
            ("5", None),
            ("5 s", None),
            ("+5s", None),
            ("-5s", None),
            ("1.5s", None),
            ("1h30m", None),
            ("5S", None),
            ("5µs", None),
            ("99999999999999999999h", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(read_period(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_in_the_longest_unit_that_fits() {
        for (micros, expected) in
            [(0, "0us"), (5_000, "5ms"), (90_000_000, "90s"), (120_000_000, "2m"), (1_500, "1500us")]
        {
            assert_eq!(write_period(micros), expected);
            assert_eq!(read_period(expected), Some(micros));
        }
    }

    #[test]
    fn relative_paths_start_at_the_configuration() {
        for (path, expected) in [
            ("entries.toml", Some("/etc/agent/entries.toml")),
            ("./a//b", Some("/etc/agent/a/b")),
            ("../../var/x", Some("/var/x")),
            ("../../../../x", Some("/x")),
            ("/run/x", Some("/run/x")),
            ("a/../b", None),
            ("/run/../etc", None),
            ("", None),
            ("a\nb", None),
            ("a\0b", None),
        ] {
            let resolved = FilePath::parse(path).map(|path| path.below(Path::new("/etc/agent")));
            assert_eq!(resolved.as_deref(), expected.map(Path::new), "{path:?}");
        }
    }
}
