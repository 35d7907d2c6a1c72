// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One `connect` or `sendmsg` through io_uring, the bare interface (`io_uring_setup(2)`): no such system call is made.
#![expect(unsafe_code, reason = "io_uring's rings are shared memory")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_long, c_void};

/// Who in the kernel makes the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The thread that submits.
    Submitter,
    /// A worker thread of io_uring.
    Worker,
    /// The thread that polls the submission ring.
    Poller,
}

const SETUP_SQPOLL: u32 = 1 << 1;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 1 << 1;
const SQE_ASYNC: u8 = 1 << 4;
const OP_SENDMSG: u8 = 9;
const OP_CONNECT: u8 = 16;
const OFFSET_SQES: i64 = 0x1000_0000;
const OFFSET_CQ: i64 = 0x0800_0000;

/// `struct io_uring_params`, as words.
type Params = [u32; 30];
const FLAGS: usize = 2;
const IDLE: usize = 4;
// struct io_sqring_offsets from word 10: head, tail, ring_mask, ring_entries, flags, dropped, array
const SQ_TAIL: usize = 11;
const SQ_ARRAY: usize = 16;
// struct io_cqring_offsets from word 20: head, tail, ring_mask, ring_entries, overflow, cqes
const CQ_TAIL: usize = 21;
const CQ_CQES: usize = 25;

#[repr(C)]
#[derive(Default)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    op_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

struct Mapping {
    start: *mut c_void,
    length: usize,
}

impl Mapping {
    fn new(ring: &OwnedFd, length: usize, offset: i64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address the kernel chooses.
        let start = unsafe {
            libc::mmap(null_mut(), length, protection, libc::MAP_SHARED | libc::MAP_POPULATE, ring.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, length }) }
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        self.start.cast::<u8>().wrapping_add(offset).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nothing points into it any more.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// Connects `socket` to the `sockaddr` in `address`.
pub(crate) fn connect(socket: BorrowedFd<'_>, address: &[u8], by: By) -> io::Result<()> {
    let entry = Sqe {
        opcode: OP_CONNECT,
        fd: socket.as_raw_fd(),
        // For a connect this is the length of the address.
        offset: address.len() as u64,
        address: address.as_ptr() as u64,
        ..Sqe::default()
    };
    submit(entry, by)
}

/// Sends a datagram to the `sockaddr` in `address`.
pub(crate) fn send(socket: BorrowedFd<'_>, address: &[u8], data: &[u8]) -> io::Result<()> {
    let mut part = crate::raw::part(data);
    let message = crate::raw::message(address, &mut part);
    let entry = Sqe {
        opcode: OP_SENDMSG,
        fd: socket.as_raw_fd(),
        address: &raw const message as u64,
        length: 1,
        ..Sqe::default()
    };
    submit(entry, By::Submitter)
}

/// Everything that the entry points to outlives the call: it waits for the result.
fn submit(entry: Sqe, by: By) -> io::Result<()> {
    let mut params: Params = [0; 30];
    if by == By::Poller {
        params[FLAGS] = SETUP_SQPOLL;
        params[IDLE] = 2000;
    }
    // SAFETY: the parameters are as long as the kernel's.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us.
    let ring = unsafe { OwnedFd::from_raw_fd(ring as c_int) };
    let page = 4096;
    let submissions = Mapping::new(&ring, page, 0)?;
    let completions = Mapping::new(&ring, page, OFFSET_CQ)?;
    let entries = Mapping::new(&ring, page, OFFSET_SQES)?;
    let entry = Sqe { flags: if by == By::Worker { SQE_ASYNC } else { 0 }, user_data: 7, ..entry };
    // SAFETY: the offsets are the kernel's and lie in the mappings; nobody else uses this ring.
    // ORDER: the entry is written before the tail is published; the result is read after the other tail is seen.
    unsafe {
        entries.at::<Sqe>(0).write(entry);
        submissions.at::<u32>(params[SQ_ARRAY] as usize).write(0);
        (*submissions.at::<AtomicU32>(params[SQ_TAIL] as usize)).store(1, Ordering::Release);
        let (submit, flags) = match by {
            By::Poller => (0, ENTER_GETEVENTS | ENTER_SQ_WAKEUP),
            By::Submitter | By::Worker => (1, ENTER_GETEVENTS),
        };
        let none: *const c_void = std::ptr::null();
        let entered: c_long = libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), submit, 1, flags, none, 0);
        if entered < 0 {
            return Err(io::Error::last_os_error());
        }
        if (*completions.at::<AtomicU32>(params[CQ_TAIL] as usize)).load(Ordering::Acquire) == 0 {
            return Err(io::Error::other("io_uring gave no result"));
        }
        // struct io_uring_cqe: u64 user_data, s32 res, u32 flags
        let result = completions.at::<i32>(params[CQ_CQES] as usize + 8).read();
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
    }
}
