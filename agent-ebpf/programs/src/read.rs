// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reading kernel memory at offsets that the daemon resolved from the running kernel's BTF.

use agent_ebpf::Offsets;
use aya_ebpf::helpers::bpf_probe_read_kernel;

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::ZERO;

/// The offsets. The map behind them is frozen, so the verifier sees constants.
#[inline(always)]
pub(crate) fn offset(field: impl FnOnce(&'static Offsets) -> &'static u32) -> usize {
    // SAFETY: the static is initialised; volatile keeps the compiler from folding the zeros of this object.
    unsafe { core::ptr::read_volatile(field(&OFFSETS)) as usize }
}

/// The value at `base + offset`. `Err` when the kernel says the address is not readable.
#[inline(always)]
pub(crate) fn at<T>(base: *const u8, offset: usize) -> Result<T, i64> {
    // SAFETY: bpf_probe_read_kernel checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast::<T>()) }.map_err(i64::from)
}

/// `read!(base, field)` reads the value of a member; `read!(base, field, T)` names its type.
macro_rules! read {
    ($base:expr, $field:ident, $kind:ty) => {
        $crate::read::at::<$kind>($base, $crate::read::offset(|offsets| &offsets.$field))
    };
    ($base:expr, $field:ident) => {
        $crate::read::at::<*const u8>($base, $crate::read::offset(|offsets| &offsets.$field))
    };
}
pub(crate) use read;
