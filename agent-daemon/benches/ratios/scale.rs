// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Processes that are not there: records in a running daemon's own map.

use std::path::Path;

use agent_ebpf::ExecRecord;
use anyhow::Context as _;
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use zerocopy::FromZeros as _;

/// Far above any number that the kernel gives out (`PID_MAX_LIMIT` is 2^22).
const FIRST_TGID: u32 = 1 << 28;
/// Below every exec id that is given out after boot: the counter starts at the boot clock's nanoseconds.
const FIRST_EXEC_ID: u64 = 1_000;

#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
struct Raw(ExecRecord);

#[expect(unsafe_code, reason = "aya asks for it, and the record lives in a crate without aya")]
// SAFETY: a `repr(C)` struct of integers with explicit padding; zerocopy checks the same at compile time.
unsafe impl Pod for Raw {}

/// Adds so many records to the process table pinned there.
pub(crate) fn add_processes(pin_dir: &Path, count: u32) -> anyhow::Result<()> {
    let data = MapData::from_pin(pin_dir.join("PROCESSES")).context("cannot open the daemon's process table")?;
    let mut map: HashMap<MapData, u32, Raw> = Map::HashMap(data).try_into()?;
    let mut record = ExecRecord::new_zeroed();
    record.push_ancestor(1, 1);
    for (at, byte) in record.filename.bytes_mut().iter_mut().zip(b"/usr/bin/nobody") {
        *at = *byte;
        record.filename_len += 1;
    }
    for number in 0..count {
        let exec_id = FIRST_EXEC_ID + u64::from(number);
        record.tgid = FIRST_TGID + number;
        record.exec_id = exec_id;
        record.exec_id_check = exec_id;
        record.start_boottime_ns = exec_id;
        map.insert(record.tgid, Raw(record), 0).with_context(|| format!("at record {number}"))?;
    }
    Ok(())
}
