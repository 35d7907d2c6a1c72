// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Settings of the host's kernel that decide what other processes may do to agents and to us.

use std::fs;
use std::io;

use super::{Check, Seen, Subject, fail, pass, warn};

const UNPRIVILEGED_BPF: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const LSM: &str = "/sys/kernel/security/lsm";

/// The active LSMs, where they can be read.
pub(super) fn lsms() -> Option<String> {
    Some(fs::read_to_string(LSM).ok()?.trim().to_owned()).filter(|list| !list.is_empty())
}

/// Everything that is a setting.
pub(super) fn settings() -> Vec<Check> {
    vec![
        Subject {
            id: "host.unprivileged_bpf",
            title: "Unprivileged BPF is off",
            fix: "sysctl kernel.unprivileged_bpf_disabled=2",
            guarantee: "only administrators load programs into the kernel",
        }
        .seen(unprivileged_bpf(&read(UNPRIVILEGED_BPF))),
        Subject {
            id: "host.ptrace_scope",
            title: "Processes cannot trace their neighbours",
            fix: "sysctl kernel.yama.ptrace_scope=1, or run each agent under its own uid",
            guarantee: "a process of the same uid cannot act through an agent that it traces",
        }
        .seen(ptrace_scope(&read(PTRACE_SCOPE))),
        Subject {
            id: "host.lockdown",
            title: "Kernel lockdown",
            fix: "boot with lockdown=integrity (Secure Boot turns it on in most distributions)",
            guarantee: "the kernel's records hold against root, who could otherwise change kernel memory",
        }
        .seen(lockdown(&read(LOCKDOWN))),
    ]
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

fn unprivileged_bpf(value: &io::Result<String>) -> Seen {
    match value.as_deref() {
        Ok(value @ ("1" | "2")) => pass(format!("kernel.unprivileged_bpf_disabled is {value}")),
        Ok("0") => warn("any user may load BPF programs"),
        Ok(value) => warn(format!("kernel.unprivileged_bpf_disabled has an unknown value {value:?}")),
        Err(error) => warn(format!("{UNPRIVILEGED_BPF} cannot be read: {error}")),
    }
}

fn ptrace_scope(value: &io::Result<String>) -> Seen {
    match value {
        Ok(value) => match value.parse::<u32>() {
            Ok(0) => warn("any process may trace others of its uid, agents too"),
            Ok(scope) => pass(format!("kernel.yama.ptrace_scope is {scope}")),
            Err(_) => warn(format!("kernel.yama.ptrace_scope has an unknown value {value:?}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            warn("this kernel has no Yama: any process may trace others of its uid, agents too")
        }
        Err(error) => warn(format!("{PTRACE_SCOPE} cannot be read: {error}")),
    }
}

fn lockdown(value: &io::Result<String>) -> Seen {
    let text = match value {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return warn("this kernel has no lockdown, or securityfs is not mounted: root can change kernel memory");
        }
        Err(error) => return warn(format!("{LOCKDOWN} cannot be read: {error}")),
    };
    let active = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(active, _)| active);
    match active {
        Some("integrity") => pass("integrity"),
        // Our programs may read no kernel memory then, which the hook tests find out too.
        Some("confidentiality") => fail("confidentiality: BPF programs may not read kernel memory"),
        Some("none") => warn("none: root can change kernel memory"),
        _ => warn(format!("{LOCKDOWN} says {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn said(text: &str) -> io::Result<String> {
        Ok(text.to_owned())
    }

    fn absent() -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn denied() -> io::Result<String> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn every_setting_is_judged_and_an_unreadable_one_never_passes() {
        type Judge = fn(&io::Result<String>) -> Seen;
        let cases: [(Judge, io::Result<String>, Outcome); 20] = [
            (unprivileged_bpf, said("0"), Outcome::Warn),
            (unprivileged_bpf, said("1"), Outcome::Pass),
            (unprivileged_bpf, said("2"), Outcome::Pass),
            (unprivileged_bpf, said("3"), Outcome::Warn),
            (unprivileged_bpf, said(""), Outcome::Warn),
            (unprivileged_bpf, absent(), Outcome::Warn),
            (ptrace_scope, said("0"), Outcome::Warn),
            (ptrace_scope, said("1"), Outcome::Pass),
            (ptrace_scope, said("3"), Outcome::Pass),
            (ptrace_scope, said("x"), Outcome::Warn),
            (ptrace_scope, said("-1"), Outcome::Warn),
            (ptrace_scope, absent(), Outcome::Warn),
            (ptrace_scope, denied(), Outcome::Warn),
            (lockdown, said("[none] integrity confidentiality"), Outcome::Warn),
            (lockdown, said("none [integrity] confidentiality"), Outcome::Pass),
            (lockdown, said("none integrity [confidentiality]"), Outcome::Fail),
            (lockdown, said("integrity"), Outcome::Warn),
            (lockdown, said(""), Outcome::Warn),
            (lockdown, absent(), Outcome::Warn),
            (lockdown, denied(), Outcome::Warn),
        ];
        for (judge, value, expected) in cases {
            assert_eq!(judge(&value).0, expected, "{value:?}");
        }
    }
}
