// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The smallest program there is: static, no libc. Ends at once; with an argument, when its standard input ends.
//!
//! `cargo xtask bench` compiles it by itself, so that starting it costs the kernel's work and nothing else.
#![no_std]
#![no_main]

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "cmp qword ptr [rsp], 1",
    "jbe 2f",
    "xor eax, eax", // read
    "xor edi, edi",
    "lea rsi, [rsp - 64]",
    "mov edx, 1",
    "syscall",
    "2:",
    "mov eax, 231", // exit_group
    "xor edi, edi",
    "syscall",
    "ud2",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "ldr x3, [sp]",
    "cmp x3, #1",
    "b.ls 2f",
    "mov x0, #0",
    "sub x1, sp, #64",
    "mov x2, #1",
    "mov x8, #63", // read
    "svc #0",
    "2:",
    "mov x0, #0",
    "mov x8, #94", // exit_group
    "svc #0",
    "brk #1",
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
