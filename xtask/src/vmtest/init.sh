#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# The first process of a guest.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
for module in /modules/*.ko; do insmod "$module"; done
ip link set lo up
ulimit -n 65536
echo "VMTEST-START $(uname -r) lsm=$(cat /sys/kernel/security/lsm)" > /dev/ttyS1
export AGENT_TEST_BINARIES=/t/bin AGENT_TEST_ROOT=/t AGENT_TEST_SLOWNESS=10 RUST_BACKTRACE=0
# Filters of tests, which have no blanks.
tests=
for word in $(cat /proc/cmdline); do
    case $word in vmtest.tests=*) tests=$(echo "${word#vmtest.tests=}" | tr , ' ') ;; esac
done
/t/bin/deps/test --test-threads=1 $tests > /dev/ttyS1 2>&1
echo "VMTEST-EXIT:$?" > /dev/ttyS1
poweroff -f
