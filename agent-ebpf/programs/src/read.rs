// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reading kernel structures at offsets that the daemon resolved from the running kernel's BTF.
//!
//! A pointer that a hook is given, or that stands in a structure reached from one, has a type that the verifier
//! knows. It is read by a plain load, which the verifier checks against that type, at a fraction of a helper's
//! cost. Should such an address not be readable after all, the kernel answers zero instead of faulting. Therefore
//! pointers and numbers that are never zero are asked for by [`pointer!`] and [`number!`], which fail on zero, and
//! every structure that is read has at least one of them.
//!
//! What has no type (texts, arrays without a length) is read by [`at`], a helper call that can fail.

use agent_ebpf::{Offsets, Text};
use aya_ebpf::helpers::bpf_probe_read_kernel;

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::ZERO;

/// `-EFAULT`, as the helper would say.
const FAULT: i64 = -14;

/// The offsets. The map behind them is frozen, so the verifier sees constants.
#[inline(always)]
pub(crate) fn offset(field: impl FnOnce(&'static Offsets) -> &'static u32) -> usize {
    // SAFETY: the static is initialised; volatile keeps the compiler from folding the zeros of this object.
    unsafe { core::ptr::read_volatile(field(&OFFSETS)) as usize }
}

/// The value at `base + offset`, by a plain load.
#[inline(always)]
pub(crate) fn load<T>(base: *const u8, offset: usize) -> T {
    // SAFETY: the verifier lets a program load only through pointers whose type it knows, and only members of that
    // type; the kernel mends a load that faults. Volatile, so that it is done once, where it stands and in this width.
    unsafe { core::ptr::read_volatile(base.wrapping_add(offset).cast::<T>()) }
}

/// Copies a text by plain loads and stores of words. They are volatile because the compiler would make a copy of
/// them, and for a copy it calls a function that goes byte by byte.
///
/// # Safety
/// `to` may be written.
#[inline(always)]
pub(crate) unsafe fn copy<const WORDS: usize>(from: *const u8, to: *mut Text<WORDS>) {
    let mut word = 0;
    while word < WORDS {
        // SAFETY: by the caller, and within the text.
        unsafe { core::ptr::write_volatile(to.cast::<u64>().add(word), load(from, word * 8)) };
        word += 1;
    }
}

/// Fails on null.
#[inline(always)]
pub(crate) fn non_null(pointer: *const u8) -> Result<*const u8, i64> {
    if pointer.is_null() { Err(FAULT) } else { Ok(pointer) }
}

/// Fails on zero.
#[inline(always)]
pub(crate) fn non_zero<T: Copy + Default + PartialEq>(number: T) -> Result<T, i64> {
    if number == T::default() { Err(FAULT) } else { Ok(number) }
}

/// The value at `base + offset`. `Err` when the kernel says the address is not readable.
#[inline(always)]
pub(crate) fn at<T>(base: *const u8, offset: usize) -> Result<T, i64> {
    // SAFETY: bpf_probe_read_kernel checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast::<T>()) }.map_err(i64::from)
}

/// `field!(base, member, T)`: a member that may be zero.
macro_rules! field {
    ($base:expr, $field:ident, $kind:ty) => {
        $crate::read::load::<$kind>($base, $crate::read::offset(|offsets| &offsets.$field))
    };
}

/// `number!(base, member, T)`: a member that is never zero.
macro_rules! number {
    ($base:expr, $field:ident, $kind:ty) => {
        $crate::read::non_zero($crate::read::field!($base, $field, $kind))
    };
}

/// `pointer!(base, member)`: a pointer that is never null.
macro_rules! pointer {
    ($base:expr, $field:ident) => {
        $crate::read::non_null($crate::read::field!($base, $field, *const u8))
    };
}

pub(crate) use {field, number, pointer};
