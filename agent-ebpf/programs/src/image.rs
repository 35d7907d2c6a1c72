// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether a governed tree may execute an image: by the file's inode and the time of its last change, never by its name.
//!
//! `lsm/bprm_creds_from_file(bprm, file)`: called by `begin_new_exec` with the file that becomes the image (the interpreter
//! under `#!`) while exec can still fail. Where the kernel takes no LSM programs, or does not run them, the image is there
//! when [`crate::exec`] looks at it, and is ended by a signal that it gets on its way to its first instruction.

use agent_ebpf::{
    Address, Counter, EventHeader, ExecRecord, ImageEvent, ImageKey, ToldKey, hook, kind, limits, means, tree, verdict,
};
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_send_signal};
use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::programs::LsmContext;

use crate::egress::{self, settings_in_use};
use crate::maps::{EVENTS, IMAGES, PROCESSES, count, wake};
use crate::read::{field, number, pointer};

const SIGKILL: u32 = 9;
const EPERM: i32 = -1;
/// `i_ctime_nsec` carries a flag in its top bit since 6.13 (multigrain timestamps).
const NSEC_MASK: u32 = 0x3fff_ffff;

/// The file behind an image.
pub(crate) struct Image {
    pub(crate) inode: u64,
    pub(crate) dev: u32,
    pub(crate) ctime_nsec: u32,
    pub(crate) ctime_sec: i64,
}

/// Who executes it.
struct Caller {
    exec_id: u64,
    session_id: u64,
    tgid: u32,
    tree: u32,
    euid: u32,
    egid: u32,
}

/// Refuses an image before it is there.
#[inline(always)]
pub(crate) fn check(ctx: &LsmContext) -> i32 {
    let bprm: *const u8 = ctx.arg(0);
    // SAFETY: no arguments; the caller, whose exec this is.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    let Some(process) = PROCESSES.get_ptr(field!(task, task_tgid, u32)) else { return 0 };
    // SAFETY: elements are not freed under RCU's read lock.
    let process = unsafe { &*process };
    if process.tree == 0 || settings_in_use(process.tree) & tree::IMAGES == 0 {
        return 0;
    }
    // A file that cannot be read has no number that is in the map.
    let file = pointer!(bprm, bprm_file).and_then(|file| pointer!(file, file_inode));
    let image = file.and_then(of).unwrap_or(Image { inode: 0, dev: 0, ctime_nsec: 0, ctime_sec: 0 });
    // What is only told of is told when it is there.
    if decide(process.tree, &image) != verdict::DENY {
        return 0;
    }
    tell(&caller(process, process.exec_id), &image, bprm, verdict::DENY, means::HOOK);
    EPERM
}

/// Ends an image that the tree may not execute, unless it was refused before it was there. `exec_id` is who called exec.
#[inline(always)]
pub(crate) fn began(record: &ExecRecord, exec_id: u64, bprm: *const u8) {
    if settings_in_use(record.tree) & tree::IMAGES == 0 {
        return;
    }
    let image = Image {
        inode: record.exe_inode,
        dev: record.exe_dev,
        ctime_nsec: record.exe_ctime_nsec,
        ctime_sec: record.exe_ctime_sec,
    };
    let found = decide(record.tree, &image);
    if found == verdict::ALLOW {
        return;
    }
    let mut by = means::NONE;
    if found == verdict::DENY {
        // SAFETY: a number; to the current process, which is on its way back from exec.
        by = if unsafe { bpf_send_signal(SIGKILL) } == 0 { means::SIGNAL } else { means::FAILED };
    }
    tell(&caller(record, exec_id), &image, bprm, found, by);
}

#[inline(always)]
fn decide(tree: u32, image: &Image) -> u8 {
    let key = ImageKey { inode: image.inode, dev: image.dev, tree };
    // SAFETY: elements are not freed under RCU's read lock. One that is replaced meanwhile is of either file.
    let found = unsafe { IMAGES.get(key) };
    if found.is_some_and(|as_of| as_of.ctime_sec == image.ctime_sec && as_of.ctime_nsec == image.ctime_nsec) {
        verdict::ALLOW
    } else if settings_in_use(tree) & tree::IMAGES_AUDIT != 0 {
        verdict::AUDIT
    } else {
        verdict::DENY
    }
}

/// From an inode.
#[inline(always)]
pub(crate) fn of(inode: *const u8) -> Result<Image, i64> {
    Ok(Image {
        inode: number!(inode, inode_ino, u64)?,
        dev: field!(pointer!(inode, inode_sb)?, sb_dev, u32),
        ctime_nsec: field!(inode, inode_ctime_nsec, u32) & NSEC_MASK,
        ctime_sec: field!(inode, inode_ctime_sec, i64),
    })
}

#[inline(always)]
fn caller(process: &ExecRecord, exec_id: u64) -> Caller {
    Caller {
        exec_id,
        session_id: process.session_id,
        tgid: process.tgid,
        tree: process.tree,
        euid: process.euid,
        egid: process.egid,
    }
}

#[inline(always)]
fn tell(caller: &Caller, image: &Image, bprm: *const u8, verdict: u8, means: u8) {
    count(if verdict == verdict::DENY { Counter::ImagesRefused } else { Counter::ImagesAudited });
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let address = Address { front: image.inode, back: image.dev as u64 };
    if egress::is_told(&ToldKey { exec_id: caller.exec_id, address, place: 0, hook: hook::EXEC }, now) {
        return;
    }
    let Ok(name) = pointer!(bprm, bprm_filename) else { return };
    let Some(mut event) = EVENTS.reserve::<ImageEvent>(0) else {
        count(Counter::EventsDropped);
        return;
    };
    // SAFETY: the entry is as large as the event and aligned to 8 bytes; every byte of it is written. The helper checks
    // the address it reads from and writes at most the length of the destination.
    unsafe {
        let event = event.as_mut_ptr();
        (*event).header = EventHeader { ktime_ns: now, kind: kind::IMAGE, tgid: caller.tgid };
        (*event).exec_id = caller.exec_id;
        (*event).session_id = caller.session_id;
        (*event).inode = image.inode;
        (*event).dev = image.dev;
        (*event).euid = caller.euid;
        (*event).egid = caller.egid;
        (*event).tree = caller.tree;
        (*event).verdict = verdict;
        (*event).means = means;
        (*event).padding = 0;
        let mut word = 0;
        while word < limits::FILENAME / 8 {
            core::ptr::write_volatile((&raw mut (*event).filename).cast::<u64>().add(word), 0);
            word += 1;
        }
        let destination = (&raw mut (*event).filename).cast::<[u8; limits::FILENAME]>();
        let read = bpf_probe_read_kernel_str_bytes(name, &mut *destination);
        (*event).filename_len = read.map_or(0, |name| name.len()) as u16;
    }
    event.submit(wake(false));
}
