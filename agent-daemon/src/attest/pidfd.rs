// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the kernel says about a process through its pidfd. A tenth of the cost of `/proc/PID/status`, which is
//! formatted whole for two numbers, and that on the path of every request.
//!
//! <https://github.com/torvalds/linux/blob/v6.13/include/uapi/linux/pidfd.h>

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Effective user and group now. None where the kernel is older than 6.13 or does not say.
#[expect(unsafe_code, reason = "no crate wraps this ioctl")]
pub(super) fn effective_ids(pidfd: impl AsFd) -> io::Result<Option<(u32, u32)>> {
    // SAFETY: a struct of integers, for which zero is a value.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_CREDS);
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes no more than the size that is part of the request's number.
    if unsafe { libc::ioctl(fd, libc::PIDFD_GET_INFO, &raw mut info) } == 0 {
        let is_said = info.mask & u64::from(libc::PIDFD_INFO_CREDS) != 0;
        return Ok(is_said.then_some((info.euid, info.egid)));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOTTY | libc::EINVAL) => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, getegid, geteuid, getpid, pidfd_open};

    use super::*;

    #[test]
    fn the_ids_are_those_of_the_process_or_nobody_says() {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let said = effective_ids(&own).unwrap();
        assert!(said.is_none_or(|ids| ids == (geteuid().as_raw(), getegid().as_raw())), "{said:?}");
    }

    #[test]
    fn a_process_that_is_gone_has_no_ids() {
        let mut child = Command::new("/proc/self/exe").arg("--list").stdout(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!matches!(effective_ids(&pidfd), Ok(Some(_))));
    }
}
