#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""A tool that an agent starts. It tries to get a credential for itself with the agent's own code;
being a child of the agent gives it no right of its own.
"""

import sys

import report_agent

if __name__ == "__main__":
    sys.exit(report_agent.main())
