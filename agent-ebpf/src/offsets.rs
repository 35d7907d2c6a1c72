// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where the running kernel keeps what the programs read.
//!
//! Rust programs have no CO-RE relocations, so the daemon resolves every offset from the running kernel's
//! BTF and hands them over as one read-only global. A member that is missing is a start-up error.

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident = $structure:literal . $member:literal $(| $older:literal)*,)*) => {
        /// Byte offsets of structure members.
        #[repr(C)]
        #[derive(Clone, Copy)]
        #[cfg_attr(feature = "user", derive(Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout))]
        pub struct Offsets {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl Offsets {
            /// Before the daemon has set them.
            pub const ZERO: Self = Self { $($field: 0,)* };

            /// For each field in order: the structure, and the member's path in it, newest kernels first.
            pub const MEMBERS: &'static [(&'static str, &'static [&'static str])] = &[
                $(($structure, &[$member $(, $older)*]),)*
            ];
        }
    };
}

offsets! {
    /// Thread id.
    task_pid = "task_struct"."pid",
    /// Thread group id.
    task_tgid = "task_struct"."tgid",
    /// Boot clock at fork.
    task_start_boottime = "task_struct"."start_boottime",
    /// Effective credentials.
    task_cred = "task_struct"."cred",
    /// Namespaces.
    task_nsproxy = "task_struct"."nsproxy",
    /// Shared by all threads of a process.
    task_signal = "task_struct"."signal",
    /// Tracer flags.
    task_ptrace = "task_struct"."ptrace",
    /// Bit 0 is `no_new_privs`.
    task_atomic_flags = "task_struct"."atomic_flags",
    /// `PF_*`.
    task_flags = "task_struct"."flags",
    /// Task name.
    task_comm = "task_struct"."comm",
    /// Its place in every cgroup hierarchy.
    task_cgroups = "task_struct"."cgroups",
    /// The cgroup v2 of that place.
    css_set_cgroup = "css_set"."dfl_cgrp",
    /// Its directory.
    cgroup_node = "cgroup"."kn",
    /// The id of a directory in the cgroup file system.
    node_id = "kernfs_node"."id",
    /// `struct pid` of the thread.
    task_thread_pid = "task_struct"."thread_pid",
    /// References to it; none of a task's is without.
    signal_references = "signal_struct"."sigcnt",
    /// Threads that have not ended.
    signal_live = "signal_struct"."live",
    /// References to it; none of a task's is without.
    pid_references = "pid"."count",
    /// Depth of the PID namespace.
    pid_level = "pid"."level",
    /// One `struct upid` a level.
    pid_numbers = "pid"."numbers",
    /// PID namespace of a level.
    upid_ns = "upid"."ns",
    /// Its inode number.
    pid_namespace_inum = "pid_namespace"."ns.inum",
    /// Real user id.
    cred_uid = "cred"."uid",
    /// Real group id.
    cred_gid = "cred"."gid",
    /// Effective user id.
    cred_euid = "cred"."euid",
    /// Effective group id.
    cred_egid = "cred"."egid",
    /// Effective capabilities, 64 bits.
    cred_cap_effective = "cred"."cap_effective",
    /// Capabilities that can be made effective.
    cred_cap_permitted = "cred"."cap_permitted",
    /// User namespace.
    cred_user_ns = "cred"."user_ns",
    /// Its inode number.
    user_namespace_inum = "user_namespace"."ns.inum",
    /// Mount namespace.
    nsproxy_mnt_ns = "nsproxy"."mnt_ns",
    /// Its inode number.
    mnt_namespace_inum = "mnt_namespace"."ns.inum",
    /// Network namespace.
    nsproxy_net_ns = "nsproxy"."net_ns",
    /// Its inode number.
    net_inum = "net"."ns.inum",
    /// The executed file.
    bprm_file = "linux_binprm"."file",
    /// The name given to `execve`.
    bprm_filename = "linux_binprm"."filename",
    /// The name of the interpreter, or the same pointer.
    bprm_interp = "linux_binprm"."interp",
    /// Inode of an open file.
    file_inode = "file"."f_inode",
    /// Its directory entry.
    file_dentry = "file"."f_path.dentry",
    /// Name of a directory entry.
    dentry_name = "dentry"."d_name.name" | "d_shortname",
    /// Inode number.
    inode_ino = "inode"."i_ino",
    /// Type and mode.
    inode_mode = "inode"."i_mode",
    /// Names left.
    inode_nlink = "inode"."i_nlink",
    /// Generation.
    inode_generation = "inode"."i_generation",
    /// Superblock.
    inode_sb = "inode"."i_sb",
    /// Change time, seconds.
    inode_ctime_sec = "inode"."i_ctime_sec" | "__i_ctime.tv_sec" | "i_ctime.tv_sec",
    /// Change time, nanoseconds.
    inode_ctime_nsec = "inode"."i_ctime_nsec" | "__i_ctime.tv_nsec" | "i_ctime.tv_nsec",
    /// Device of a superblock.
    sb_dev = "super_block"."s_dev",
    /// Kind of file system.
    sb_magic = "super_block"."s_magic",
    /// The user namespace that a file system was mounted in.
    sb_user_ns = "super_block"."s_user_ns",
    /// Address family of a socket.
    sock_family = "sock_common"."skc_family",
    /// Local port, host byte order.
    sock_num = "sock_common"."skc_num",
    /// Remote port, network byte order.
    sock_dport = "sock_common"."skc_dport",
    /// Remote IPv4 address.
    sock_daddr = "sock_common"."skc_daddr",
    /// Local IPv4 address.
    sock_rcv_saddr = "sock_common"."skc_rcv_saddr",
    /// Remote IPv6 address.
    sock_v6_daddr = "sock_common"."skc_v6_daddr",
    /// Local IPv6 address.
    sock_v6_rcv_saddr = "sock_common"."skc_v6_rcv_saddr",
    /// Network namespace of a socket.
    sock_net = "sock_common"."skc_net.net",
}

const _: () = {
    // `MEMBERS` names the fields in the order in which they stand.
    assert!(size_of::<Offsets>() == Offsets::MEMBERS.len() * 4);
};
