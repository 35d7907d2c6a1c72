// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `sched_process_exec(task, old_pid, bprm)`: called by `bprm_execve` when the new image is in place, the
//! other threads are gone and the new credentials are committed, before the task returns to user space: the
//! record is complete before the image's first instruction. `bprm->file` is the image (the interpreter under
//! `#!`), `bprm->filename` what was asked for. Chosen over `bprm_committed_creds` (LSM, which kernels may
//! refuse) and over syscall tracepoints (which see names, not files).

use agent_ebpf::{Counter, EventHeader, ExecEvent, ExecRecord, flags, kind, limits};
use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::programs::BtfTracePointContext;

use crate::exit::tell;
use crate::maps::{EMPTY, EVENTS, PROCESSES, count, is_listening, is_watched, keep_ended, wake};
use crate::read::{at, copy, field, number, offset, pointer};
use crate::task;
use crate::{egress, image};

const TMPFS_MAGIC: u64 = 0x0102_1994;
const SET_ID_BITS: u16 = 0o6000;
const PF_KTHREAD: u32 = 0x0020_0000;

#[inline(always)]
pub(crate) fn execed(ctx: &BtfTracePointContext) {
    let task: *const u8 = ctx.arg(0);
    let tgid = field!(task, task_tgid, u32);
    let mut record = PROCESSES.get_ptr_mut(tgid);
    if record.is_none() {
        count(Counter::ExecRecordMissing);
        let Some(empty) = EMPTY.get_ptr(0) else { return };
        // SAFETY: an array element lives as long as its map and nothing writes this one.
        if PROCESSES.insert(tgid, unsafe { &*empty }, 0).is_err() {
            count(Counter::ProcessesFull);
            return;
        }
        record = PROCESSES.get_ptr_mut(tgid);
    }
    let Some(record) = record else { return };
    // SAFETY: all other threads of the process are gone, so only this program writes its record.
    let record = unsafe { &mut *record };
    let ended_id = record.exec_id;
    let Some(exec_id) = task::next_exec_id() else { return };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // A fork that execs is the same program as its parent until here: it gets no place of its own in the lineage, unless
    // it came into a session or became another user, and so may have been somebody else. An image that replaces another
    // one has a place, or exec would shed its ancestors.
    let is_same = record.flags & flags::FORK != 0 && record.forked_in == record.session_id && has_ids(task, record);
    // And then nobody has it in their lineage, unless it forked itself.
    let is_transient = is_same && record.flags & flags::REFERRED == 0;
    let is_urgent = is_watched(ended_id);
    if ended_id != 0 && !is_transient {
        keep_ended(record);
    }
    // The new image of a governed tree reaches nothing until the daemon knows it.
    let is_urgent = is_urgent || record.tree != 0;
    if ended_id != 0 && (!is_transient || is_urgent || is_listening()) {
        notify(tgid, now, exec_id, record, is_urgent);
    }

    record.exec_id_check = 0;
    // SAFETY: fields of the record.
    unsafe {
        core::ptr::write_volatile(&raw mut record.exec_id, exec_id);
        if record.tree != 0 {
            // ORDER: the class is cleared after the id is another. Whoever classifies the old image looks at the id once
            // more after writing the class, with as much between, so one of the two sees the other.
            egress::barrier(record);
        }
        core::ptr::write_volatile(&raw mut record.class, 0);
    }
    record.ktime_ns = now;
    record.tgid = tgid;
    if ended_id == 0 {
        // The lineage is unknown, and nothing is released without one.
        record.flags = flags::INCOMPLETE;
        record.tree = egress::tree_of_unknown();
    } else {
        if !is_same {
            record.push_ancestor(ended_id, tgid);
            record.parent_exec_id = ended_id;
        }
        record.flags &= flags::LINEAGE_TRUNCATED | flags::INCOMPLETE;
    }
    // Should it not be read, it is no file that may be executed, and not the one before it.
    record.exe_inode = 0;
    if fill(task, ctx.arg(2), record).is_err() {
        record.flags |= flags::INCOMPLETE;
        count(Counter::ExecReadFailed);
    }
    record.exec_id_check = exec_id;
    if record.tree != 0 {
        image::began(record, ended_id, ctx.arg(2));
    }
}

/// Whether the ids are still those of the record. A set-id image has others by now, and counts as a change.
#[inline(always)]
fn has_ids(task: *const u8, record: &ExecRecord) -> bool {
    let Ok(cred) = pointer!(task, task_cred) else { return false };
    field!(cred, cred_uid, u32) == record.uid
        && field!(cred, cred_euid, u32) == record.euid
        && field!(cred, cred_egid, u32) == record.egid
}

#[inline(always)]
fn fill(task: *const u8, bprm: *const u8, record: &mut ExecRecord) -> Result<(), i64> {
    record.start_boottime_ns = number!(task, task_start_boottime, u64)?;
    record.flags |= task::task_flags(task);
    if field!(task, task_flags, u32) & PF_KTHREAD != 0 {
        record.flags |= flags::KERNEL_THREAD;
    }
    task::credentials(task, record)?;
    task::surroundings(task, record)?;
    if record.uid != record.euid || record.gid != record.egid {
        record.flags |= flags::SETUID;
    }
    // SAFETY: the record is ours to write.
    unsafe { copy(task.wrapping_add(offset(|offsets| &offsets.task_comm)), &raw mut record.comm) };
    image(bprm, record)?;
    filename(bprm, record)
}

#[inline(always)]
fn image(bprm: *const u8, record: &mut ExecRecord) -> Result<(), i64> {
    let file = pointer!(bprm, bprm_file)?;
    let inode = pointer!(file, file_inode)?;
    let found = image::of(inode)?;
    (record.exe_inode, record.exe_dev) = (found.inode, found.dev);
    (record.exe_ctime_sec, record.exe_ctime_nsec) = (found.ctime_sec, found.ctime_nsec);
    record.exe_generation = field!(inode, inode_generation, u32);
    if field!(inode, inode_mode, u16) & SET_ID_BITS != 0 {
        record.flags |= flags::SETUID;
    }
    let sb = pointer!(inode, inode_sb)?;
    if number!(pointer!(sb, sb_user_ns)?, user_namespace_inum, u32)? != limits::INITIAL_USER_NAMESPACE {
        record.flags |= flags::USER_MOUNTED;
    }
    if field!(inode, inode_nlink, u32) == 0 {
        record.flags |= flags::DELETED;
        if field!(sb, sb_magic, u64) == TMPFS_MAGIC {
            let name = pointer!(pointer!(file, file_dentry)?, dentry_name)?;
            // A file on tmpfs that was unlinked may be called so too; both are equally unnamed.
            if at::<[u8; 6]>(name, 0)? == *b"memfd:" {
                record.flags |= flags::MEMFD;
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn filename(bprm: *const u8, record: &mut ExecRecord) -> Result<(), i64> {
    let name = pointer!(bprm, bprm_filename)?;
    if pointer!(bprm, bprm_interp)? != name {
        record.flags |= flags::SCRIPT;
    }
    let destination = (&raw mut record.filename).cast::<[u8; limits::FILENAME]>();
    // SAFETY: the text is as long as that, and any bytes are one; the helper checks the address it reads from and
    // writes at most the length of the destination.
    let read = unsafe { bpf_probe_read_kernel_str_bytes(name, &mut *destination) }.map_err(i64::from)?;
    let length = read.len();
    record.filename_len = length as u16;
    if length + 1 >= limits::FILENAME {
        record.flags |= flags::FILENAME_TRUNCATED;
    }
    Ok(())
}

/// Sent before the record is changed, so whoever hears of it may find the old one still. An entry that is held until the
/// new one is there does not pass the verifier of 6.1, which forgets that it is not null.
#[inline(always)]
fn notify(tgid: u32, ktime_ns: u64, exec_id: u64, ended: &ExecRecord, is_urgent: bool) {
    let Some(mut event) = EVENTS.reserve::<ExecEvent>(0) else {
        count(Counter::EventsDropped);
        return;
    };
    // SAFETY: the entry is as large as the event and aligned to 8 bytes; every byte of it is written.
    unsafe {
        let event = event.as_mut_ptr();
        (*event).header = EventHeader { ktime_ns, kind: kind::EXEC, tgid };
        (*event).exec_id = exec_id;
        tell(ended, &raw mut (*event).ended);
    }
    event.submit(wake(is_urgent));
}
