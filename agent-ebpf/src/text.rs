// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Bytes that are copied by words: for an array of bytes the BPF compiler emits a loop over each of them.

/// Bytes in the order in which they lie in memory; how many of them are meant is said beside it, or by a NUL.
#[repr(transparent)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
pub struct Text<const WORDS: usize>(pub [u64; WORDS]);

#[cfg(feature = "user")]
impl<const WORDS: usize> Text<WORDS> {
    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        zerocopy::IntoBytes::as_bytes(self)
    }

    /// All of them, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        zerocopy::IntoBytes::as_mut_bytes(self)
    }
}

/// An IPv6 address, or an IPv4 address in v4-mapped form, as it lies in memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(Debug, Hash, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
pub struct Address {
    /// The first four bytes in the low half, the next four in the high half.
    pub front: u64,
    /// The rest, in the same way.
    pub back: u64,
}

impl Address {
    /// Not known.
    pub const ZERO: Self = Self { front: 0, back: 0 };

    /// Of an IPv4 address as it lies in memory.
    #[inline(always)]
    pub fn mapped(address: u32) -> Self {
        Self::of_words(0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), address)
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub fn is_mapped(self) -> bool {
        self.front == 0 && self.back as u32 == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }

    /// Whether it is no place: the kernel connects to this machine instead.
    #[inline(always)]
    pub fn is_unspecified(self) -> bool {
        self.front == 0 && (self.back == 0 || self.is_mapped() && self.back >> 32 == 0)
    }

    /// Of an IPv6 address, four bytes each as they lie in memory.
    #[inline(always)]
    pub fn of_words(a: u32, b: u32, c: u32, d: u32) -> Self {
        Self { front: a as u64 | (b as u64) << 32, back: c as u64 | (d as u64) << 32 }
    }
}

#[cfg(feature = "user")]
impl From<[u8; 16]> for Address {
    fn from(octets: [u8; 16]) -> Self {
        zerocopy::transmute!(octets)
    }
}

#[cfg(feature = "user")]
impl From<Address> for [u8; 16] {
    fn from(address: Address) -> Self {
        zerocopy::transmute!(address)
    }
}

#[cfg(target_endian = "big")]
compile_error!("words are put together in little-endian order");

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_memory_as_the_network_writes_it() {
        let mapped = Address::mapped(u32::from_ne_bytes([10, 1, 2, 3]));
        let expected = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3];
        assert_eq!(<[u8; 16]>::from(mapped), expected);
        assert_eq!(Address::from(expected), mapped);
    }

    #[test]
    fn bytes_stand_in_memory_order() {
        let mut text = Text([0; 2]);
        text.bytes_mut()[..3].copy_from_slice(b"abc");
        assert_eq!(text.bytes(), b"abc\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(text.0, [u64::from_le_bytes(*b"abc\0\0\0\0\0"), 0]);
    }
}
