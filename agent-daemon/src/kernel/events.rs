// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Error, decode};
use crate::process::Event;

/// Entries taken before other tasks get their turn. Reading is plain memory access and would starve them.
const BURST: usize = 256;
/// What did not wake us waits no longer than this.
const PERIOD: Duration = Duration::from_millis(50);

/// The event buffer's reading end.
pub struct Events {
    buffer: RingBuf<MapData>,
    rejected: Arc<AtomicU64>,
    /// Held as long as we are the reader.
    _lock: OwnedFd,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("rejected", &self.rejected).finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn take(ebpf: &mut Ebpf, lock: OwnedFd) -> Result<Self, Error> {
        let map = ebpf.take_map("EVENTS").ok_or(Error::Bug("bug: a map is missing from the object"))?;
        let buffer = RingBuf::try_from(map).map_err(|source| Error::Map { map: "EVENTS", source: Box::new(source) })?;
        Ok(Self { buffer, rejected: Arc::default(), _lock: lock })
    }

    /// Entries that could not be decoded.
    pub fn rejected(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.rejected)
    }

    /// Hands every event to `sink` until cancelled; then what is left, and ends. The kernel wakes us for
    /// what is urgent; the rest is fetched on a timer, since a wake-up costs more than all of an event.
    ///
    /// # Errors
    /// When the buffer cannot be polled.
    pub async fn run(self, cancel: CancellationToken, mut sink: impl FnMut(Event) + Send) -> io::Result<()> {
        let mut buffer = register(self.buffer)?;
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Both waits are cancel-safe: neither takes anything from the buffer.
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = tick.tick() => {}
                ready = buffer.readable() => ready?.clear_ready(),
            }
            while drain(buffer.get_mut(), &self.rejected, &mut sink) == BURST {
                tokio::task::yield_now().await;
            }
        }
        drain(buffer.get_mut(), &self.rejected, &mut sink);
        Ok(())
    }
}

#[expect(unsafe_code, reason = "tokio cannot see that the descriptor stays open")]
fn register(buffer: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the buffer owns its map's descriptor, always gives the same one, and moves into the AsyncFd.
    unsafe { AsyncFd::register_with_interest(buffer, Interest::READABLE) }.map_err(io::Error::from)
}

fn drain(buffer: &mut RingBuf<MapData>, rejected: &AtomicU64, sink: &mut impl FnMut(Event)) -> usize {
    let mut taken = 0;
    while taken < BURST {
        let Some(entry) = buffer.next() else { break };
        taken += 1;
        match decode::event(&entry) {
            Ok(event) => sink(event),
            Err(_) => {
                // ORDER: a counter that nothing else depends on.
                rejected.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    taken
}
