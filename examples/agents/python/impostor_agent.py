#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Runs the report agent's own code: same user, same interpreter, same request, same arguments.

The one thing it cannot take over is the script that the kernel saw when the interpreter was started.
"""

import sys

import report_agent

if __name__ == "__main__":
    sys.exit(report_agent.main())
