// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon's end of a streamed answer: bounded, and never cut short without saying so.

use tokio::sync::mpsc::{self, OwnedPermit, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Messages that may wait for a slow reader; each is at most about a mebibyte.
const WAITING: usize = 4;

/// What a stream gives.
pub(super) type Stream<T> = ReceiverStream<Result<T, Status>>;

/// Takes the messages.
#[derive(Debug)]
pub(super) struct Outlet<T>(Sender<Result<T, Status>>);

/// Takes the end. Dropped without one (a panic), it ends the stream with an error: a reader must never take half
/// a list for a whole one.
#[derive(Debug)]
pub(super) struct Ending<T>(Option<OwnedPermit<Result<T, Status>>>);

/// Why a stream ends early.
#[derive(Debug)]
pub(super) enum Broken {
    /// Nobody reads any more.
    Gone,
    /// It has to be told.
    Failed(Status),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// A stream and both of its handles.
pub(super) fn open<T>() -> (Outlet<T>, Ending<T>, Stream<T>) {
    // One place more, which is kept for the end.
    let (sender, receiver) = mpsc::channel(WAITING + 1);
    let last = sender.clone().try_reserve_owned().ok();
    (Outlet(sender), Ending(last), ReceiverStream::new(receiver))
}

impl<T> Outlet<T> {
    /// Waits for room.
    pub(super) async fn push(&self, message: T) -> Result<(), Broken> {
        self.0.send(Ok(message)).await.map_err(|_| Broken::Gone)
    }

    /// The same on a blocking thread.
    pub(super) fn push_blocking(&self, message: T) -> Result<(), Broken> {
        self.0.blocking_send(Ok(message)).map_err(|_| Broken::Gone)
    }

    /// Until nobody reads any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

impl<T> Ending<T> {
    /// Ends the stream, well or not.
    pub(super) fn finish(mut self, outcome: Result<(), Broken>) {
        let last = self.0.take();
        if let (Some(last), Err(Broken::Failed(status))) = (last, outcome) {
            last.send(Err(status));
        }
    }
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            last.send(Err(Status::internal("bug: the answer broke off")));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::*;

    async fn read(mut stream: Stream<u32>) -> (Vec<u32>, Option<Code>) {
        let mut seen = Vec::new();
        while let Some(message) = stream.next().await {
            match message {
                Ok(number) => seen.push(number),
                Err(status) => return (seen, Some(status.code())),
            }
        }
        (seen, None)
    }

    #[tokio::test]
    async fn a_full_stream_still_has_room_for_its_end() {
        for (outcome, expected) in [
            (Some(Ok(())), None),
            (Some(Err(Broken::Failed(Status::unavailable("x")))), Some(Code::Unavailable)),
            (None, Some(Code::Internal)),
        ] {
            let (outlet, ending, stream) = open();
            for number in 0..WAITING {
                outlet.push(u32::try_from(number).unwrap()).await.unwrap();
            }
            assert!(outlet.0.try_send(Ok(99)).is_err(), "the last place is not for messages");
            drop(outlet);
            match outcome {
                Some(outcome) => ending.finish(outcome),
                None => drop(ending),
            }
            assert_eq!(read(stream).await, (vec![0, 1, 2, 3], expected));
        }
    }

    #[tokio::test]
    async fn a_reader_that_left_stops_the_work() {
        let (outlet, ending, stream) = open();
        drop(stream);
        assert!(matches!(outlet.push(1_u32).await, Err(Broken::Gone)));
        outlet.closed().await;
        ending.finish(Err(Broken::Gone));
    }
}
