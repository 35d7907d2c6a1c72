// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Failures and losses of the kernel programs, counted by site in the per-CPU array `COUNTERS`.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A site where something failed, was lost or was refused; the index into map `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// All of them, in the order of their indexes.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// The name under which it is exported.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$variant => $name,)*
                }
            }
        }

        /// Entries of map `COUNTERS`.
        pub const COUNTERS: u32 = Counter::ALL.len() as u32;
    };
}

counters! {
    /// Events for which the ring buffer had no room.
    EventsDropped = "events_dropped",
    /// Processes for which map `PROCESSES` had no room: they have no record and get nothing.
    ProcessesFull = "processes_full",
    /// Sockets for which map `CONNECTIONS` had no room.
    ConnectionsFull = "connections_full",
    /// Sockets for which map `TUPLES` had no room.
    TuplesFull = "tuples_full",
    /// Ended exec instances of a session for which map `ENDED` had no room: their descendants get nothing in it.
    EndedFull = "ended_full",
    /// Connections, sends and sockets that were refused in governed trees.
    EgressRefused = "egress_refused",
    /// Those that were let through although they would be refused where nothing is only audited.
    EgressAudited = "egress_audited",
    /// Images that governed trees were refused.
    ImagesRefused = "images_refused",
    /// Those that were let through although they would be refused where nothing is only audited.
    ImagesAudited = "images_audited",
    /// Processes of governed trees for which map `PROCESSES` had no room: from then on nobody without a record connects.
    GovernedLost = "governed_lost",
    /// Forks whose parent has no record.
    ForkParentMissing = "fork_parent_missing",
    /// Execs in a process that has no record: the lineage is unknown, the new record incomplete.
    ExecRecordMissing = "exec_record_missing",
    /// Execs of which a fact could not be read.
    ExecReadFailed = "exec_read_failed",
    /// Forks of which a fact could not be read.
    ForkReadFailed = "fork_read_failed",
    /// Connects and sends by a process that has no record.
    ConnectRecordMissing = "connect_record_missing",
    /// Connects and sends of which a fact could not be read.
    ConnectReadFailed = "connect_read_failed",
    /// Exits of which a fact could not be read.
    ExitReadFailed = "exit_read_failed",
    /// Socket states of which a fact could not be read.
    StateReadFailed = "state_read_failed",
}
