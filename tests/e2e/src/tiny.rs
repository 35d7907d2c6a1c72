// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Programs of two hundred bytes (`elf(5)`), so that a storm measures the kernel and not a loader, and so that one says
//! something with its first instructions.

const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// exit(0)
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
/// exit(0)
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// write(1, start of the file, 1), exit(0)
#[cfg(target_arch = "x86_64")]
const LOUD: &[u8] = &[
    0xbf, 1, 0, 0, 0, 0xbe, 0, 0, 0x40, 0, 0xba, 1, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0x0f, 0x05, // write
    0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05,
];
/// write(1, start of the file, 1), exit(0)
#[cfg(target_arch = "aarch64")]
const LOUD: &[u8] = &[
    0x20, 0, 0x80, 0xd2, 1, 0x08, 0xa0, 0xd2, 0x22, 0, 0x80, 0xd2, 8, 0x08, 0x80, 0xd2, 1, 0, 0, 0xd4, // write
    0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4,
];

/// Ends with 0.
pub(crate) fn program() -> Vec<u8> {
    with(CODE)
}

/// Writes a byte first.
pub(crate) fn loud() -> Vec<u8> {
    with(LOUD)
}

fn with(code: &[u8]) -> Vec<u8> {
    let half = |number: u16| number.to_le_bytes().to_vec();
    let word = |number: u32| number.to_le_bytes().to_vec();
    let long = |number: u64| number.to_le_bytes().to_vec();
    let size = HEADERS + code.len() as u64;
    let header = [
        // 64 bits, little endian
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        half(2),
        half(MACHINE),
        word(1),
        long(BASE + HEADERS),
        long(64),
        long(0),
        word(0),
        half(64),
        half(56),
        half(1),
        half(64),
        half(0),
        half(0),
    ];
    // Loaded as a whole, readable and executable.
    let segment = [word(1), word(5), long(0), long(BASE), long(BASE), long(size), long(size), long(0x1000)];
    [header.concat(), segment.concat(), code.to_vec()].concat()
}
